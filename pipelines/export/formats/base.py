"""The interface of an export format: plan files, write them, and say how to load them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.export.job import Job, Record, Unit
from pipelines.export.target import Target
from pipelines.store.artifacts import Store

# pandas takes "NA" for a missing value and "007" for 7 unless told otherwise.
NAMES_AS_TEXT = 'keep_default_na=False, dtype={"class_name": str}'


@dataclass(frozen=True, slots=True)
class Loader:
    """What opens a format: Python to be run at the root of the export, and a note for people."""

    title: str
    code: str
    note: str = ""


class Format:
    """One export format. Stage s + 1 begins when all records of stage s are there.

    bytes_per_drawing  measured on drawings of Quick, Draw!, to tell the size before the work
    description        of its files for Croissant, which has no words for what is inside of them
    """

    name: str
    bytes_per_drawing: int
    description = ""
    num_stages = 1

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan a stage; `records` are this format's records of the stages before."""
        raise NotImplementedError

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Read the unit's rows and put its files."""
        raise NotImplementedError

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """Return the small files that describe the rest; none by default."""
        del job, records
        return {}

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format."""
        raise NotImplementedError

    def describe(self, path: str) -> str:
        """Return what one of its files is, for Croissant."""
        del path
        return self.description

    def file_sets(self) -> list[dict[str, Any]]:
        """Return Croissant's sets of files that its record sets read; none by default."""
        return []

    def record_sets(self, job: Job) -> list[dict[str, Any]]:
        """Return what readers of Croissant can read of the format; nothing by default."""
        del job
        return []

    def class_columns(self, job: Job) -> dict[str, Sequence[object]]:
        """Return, for each class, what the format calls it; nothing by default."""
        del job
        return {}

    def unlisted_problems(self, job: Job, records: Sequence[Record], target: Target) -> list[str]:
        """Return what is wrong with files that no manifest lists, by their number and size."""
        del job, records, target
        return []

    def is_whole(self, record: Record, target: Target) -> bool:
        """Return whether files that the record does not list itself are there and right."""
        del record, target
        return True


def about(job: Job) -> str:
    """Return what an export holds, for its README and its card."""
    height, width = job.image_shape
    total = sum(job.rows(split) for split in job.splits)
    kind = "Generated drawings (synthetic, not made by people)" if job.is_synthetic else "Drawings"
    splits = ", ".join(f"{split} {job.rows(split):,}" for split in job.splits)
    names = ", ".join(json.dumps(name, ensure_ascii=False) for name in job.class_names)
    return (
        f"{kind}, {height}x{width} pixels, gray, white on black (0 is paper, 255 ink): {total:,} "
        f"of {len(job.class_names)} classes ({splits}).\n\nClasses in the order of their labels: "
        f"{names}.\n\n{job.credit.statement}\n\n"
    )
