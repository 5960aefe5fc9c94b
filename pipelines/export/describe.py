"""Describe an export: manifest, README and each format's closing files."""

from collections.abc import Sequence

import numpy as np

from pipelines.dataset.build import library_versions
from pipelines.export.formats.base import Loader, about
from pipelines.export.formats.registry import export_format
from pipelines.export.job import Job, Record
from pipelines.store.errors import StoreError
from pipelines.store.manifest import FileEntry, InputRef, Manifest

# Where pandas takes a name for a missing value unless told otherwise.
_MISSING = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


def export_manifest(
    job: Job, inputs: tuple[InputRef, ...], records: Sequence[Record], files: Sequence[FileEntry]
) -> Manifest:
    """Return the manifest; raise StoreError if a format has not written all drawings."""
    counts = _counts(job, records)
    return Manifest(
        kind="exports",
        name=job.name,
        digest=job.digest,
        spec=job.spec.to_json(),
        inputs=inputs,
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        summary={
            "class_names": list(job.class_names),
            "image_shape": list(job.image_shape),
            "num_drawings": sum(counts.values()),
            "splits": {split: job.rows(split) for split in job.splits},
            "counts": counts,
            "is_synthetic": job.is_synthetic,
            **job.credit.to_json(),
            "load": {loader.title: loader.code for loader in _loaders(job, records)},
        },
        versions=library_versions(),
    )


def _counts(job: Job, records: Sequence[Record]) -> dict[str, int]:
    """Return the drawings of each class; every format must have written all of them."""
    total = sum(shard.rows for shard in job.shards)
    sums = [
        np.sum([record.counts for record in records_of(name, records) if record.counts], axis=0)
        for name in job.spec.formats
    ]
    for found in sums:
        if found.sum() != total or (found != sums[0]).any():
            raise StoreError(f"the formats hold {[int(s.sum()) for s in sums]} of {total} drawings")
    return dict(zip(job.class_names, sums[0].tolist(), strict=True))


def records_of(format: str, records: Sequence[Record]) -> list[Record]:
    """Return the records of one format."""
    return [record for record in records if record.name.startswith(f"{format}-")]


def closing_files(job: Job, records: Sequence[Record]) -> dict[str, bytes]:
    """Return the small files that describe the rest: the README, and what each format adds."""
    contents = {"README.md": export_readme(job, records)}
    for name in job.spec.formats:
        contents |= export_format(name).closing_files(job, records_of(name, records))
    return contents


def export_readme(job: Job, records: Sequence[Record]) -> bytes:
    """Return the README of the whole export: what it is, how to load and to cite it."""
    lines = [f"# {job.name}", "", about(job), "## Load it", ""]
    for loader in _loaders(job, records):
        lines += [f"### {loader.title}", "", "```python", loader.code, "```", ""]
        lines += [loader.note, ""] * bool(loader.note)
    if missing := [name for name in job.class_names if name in _MISSING]:
        shown = ", ".join(f"`{name}`" for name in missing)
        lines += [
            f"Without `keep_default_na=False` pandas takes {shown} for a missing `class_name`, and "
            "so does `imagefolder`; labels are numbers.",
            "",
        ]
    lines += [
        "`manifest.json` has the size and SHA-256 of every file and the full recipe,",
        "`provenance.json` the same as an in-toto statement, `croissant.json` the description for",
        "dataset search.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _loaders(job: Job, records: Sequence[Record]) -> list[Loader]:
    formats = map(export_format, job.spec.formats)
    return [loader for made in formats for loader in made.loaders(job, records)]
