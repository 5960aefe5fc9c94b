"""The words of an export: what all units know, what one unit does, what it leaves behind.

Job      the dataset, the spec and the places; small, travels to every worker
Unit     a planned range of rows of one split and the files to make of them
Record   the files a unit made and the drawings of each class in them; kept as JSON under
         the job's scratch, it is what a resumed export finds
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.credit import Credit
from pipelines.export.spec import ExportSpec
from pipelines.export.target import Target
from pipelines.schema import FileEntry
from pipelines.scratch import read_scratch, sealed
from pipelines.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One input shard; `kept` is the mask of its rows, `rows` counts the kept ones."""

    path: str
    rows: int
    split: str
    bytes: int
    sha256: str
    kept: FileEntry | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The kept rows [start, stop) of one shard."""

    shard: Shard
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One export.

    shards       of the chosen splits, in the order of the dataset
    splits       their names, in order, those without rows left out
    columns      of the shards besides image and label
    column_types their Arrow types
    label_ids    of the linked layout: what stands in the shards for each of class_names
    scratch      directory, beside the files, for records and files between stages
    """

    name: str
    digest: str
    spec: ExportSpec
    shards: tuple[Shard, ...]
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int]
    columns: tuple[str, ...]
    is_synthetic: bool
    credit: Credit
    scratch: str
    label_ids: tuple[int, ...] = ()
    column_types: tuple[str, ...] = ()

    @property
    def provenance(self) -> dict[str, str]:
        """Name and Arrow type of the columns that no label tells; none if tfds_id is all."""
        columns = dict(zip(self.columns, self.column_types, strict=True))
        return columns if columns.keys() - {"tfds_id"} else {}

    def rows(self, split: str) -> int:
        """Return the number of rows of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows to read and files to make of them.

    name       unique in the export, safe in a path
    task       which of the format's tasks it is
    first_row  position of the first row in its split
    outputs    paths relative to the export
    ranges     (path, start, length) of bytes to read, where a unit reads files and not rows
    """

    format: str
    stage: int
    name: str
    task: str
    split: str = ""
    first_row: int = 0
    rows: int = 0
    pieces: tuple[Piece, ...] = ()
    outputs: tuple[str, ...] = ()
    ranges: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a unit made.

    files          of the export, relative to it
    scratch_files  relative to the job's scratch, for the next stage
    counts         drawings by label in what it read
    sizes          bytes by label in the last of scratch_files, where its lines differ in length
    """

    name: str
    stage: int
    files: tuple[FileEntry, ...] = ()
    counts: tuple[int, ...] = ()
    scratch_files: tuple[FileEntry, ...] = ()
    sizes: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the record's file content: JSON, sealed."""
        return sealed(json.dumps(dataclasses.asdict(self), sort_keys=True).encode("ascii"))


def read_record(store: Store, path: str) -> Record:
    """Return the record that is kept under `path`; raise ScratchError if its checksum differs."""
    raw: dict[str, Any] = json.loads(bytes(read_scratch(store, path)))
    for name in ("files", "scratch_files"):
        raw[name] = tuple(FileEntry(**entry) for entry in raw[name])
    for name in ("counts", "sizes"):
        raw[name] = tuple(raw.get(name, ()))
    return Record(**raw)


def record_path(job: Job, unit: Unit) -> str:
    """Return where the unit's record is kept."""
    return f"{job.scratch}/records/{unit.name}.json"


class Format:
    """One export format. Stage s + 1 begins when all records of stage s are there."""

    name: str
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

    def unlisted_problems(self, job: Job, records: Sequence[Record], target: Target) -> list[str]:
        """Return what is wrong with files that no manifest lists, by their number and size."""
        del job, records, target
        return []

    def is_whole(self, record: Record, target: Target) -> bool:
        """Return whether files that the record does not list itself are there and right."""
        del record, target
        return True
