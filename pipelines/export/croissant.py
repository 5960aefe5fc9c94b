"""Croissant 1.0 metadata of an export: every file with its SHA-256, and readable record sets.

    classes   record set: label and class name, and where png or numpy_bitmap keep the class
    drawings  record set: the columns image and label of hf
    pictures  record set: the pictures of png with split, folder and label

Croissant has no words for what is inside of a TFRecord, .npy or IDX file: those are file objects
whose description says it. So are tar files: mlcroissant unpacks one into a cache that is keyed on
the relative URL, and would give the pictures of another export whose tar has the same name.

`rai:hasSyntheticData` and the keyword `synthetic` say that a program made the drawings.
"""

import json
from collections.abc import Sequence
from typing import Any

from pipelines.drawings.credit import GOOGLES
from pipelines.drawings.croissant import CONTEXT, field, file_object, record_set
from pipelines.export.formats.registry import export_format
from pipelines.export.job import Job
from pipelines.export.spec import FORMATS
from pipelines.store.manifest import FileEntry

_MEDIA_TYPES = {
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".json": "application/json",
    ".csv": "text/csv",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".html": "text/html",
}


def export_croissant(job: Job, files: Sequence[FileEntry]) -> bytes:
    """Return croissant.json."""
    # Pictures by the thousand are described by the files of their checksums.
    files = [entry for entry in files if not entry.path.endswith(".png")]
    rows = sum(job.rows(split) for split in job.splits)
    formats = [export_format(name) for name in job.spec.formats]
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": job.name,
        "description": f"{rows} drawings of {len(job.class_names)} classes.",
        "keywords": job.credit.hub_tags() + ["synthetic"] * job.is_synthetic,
        **job.credit.croissant(),
        "version": "1.0.0",
        "citeAs": job.credit.cite_as(f"Export {job.digest}."),
        "rai:hasSyntheticData": job.is_synthetic,
        **_collection(job),
        "distribution": [_file(entry) for entry in files]
        + [each for made in formats for each in made.file_sets()],
        "recordSet": [_classes(job), *(each for made in formats for each in made.record_sets(job))],
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def _collection(job: Job) -> dict[str, str]:
    """Return how the drawings came about, if that is known."""
    if job.is_synthetic:
        text = "Made by a program; provenance.json names it and the drawings it learned from."
    elif job.credit == GOOGLES:
        text = "Drawn by players of the game Quick, Draw! and rendered to bitmaps."
    else:
        return {}
    return {"rai:dataCollection": text}


def _file(entry: FileEntry) -> dict[str, Any]:
    suffix = entry.path[entry.path.rfind(".") :] if "." in entry.path else ""
    is_text = suffix in (".csv", ".json", ".txt")
    folder = entry.path.partition("/")[0]
    said = export_format(folder).describe(entry.path) if folder in FORMATS and not is_text else ""
    return file_object(entry, _MEDIA_TYPES.get(suffix, "application/octet-stream"), said)


def _classes(job: Job) -> dict[str, Any]:
    columns: dict[str, Sequence[object]] = {
        "label": range(len(job.class_names)),
        "class_name": job.class_names,
    }
    # In an order that exports have had from the start.
    for name in sorted(job.spec.formats, reverse=True):
        columns |= export_format(name).class_columns(job)
    fields = [
        field(f"classes/{name}", "sc:Integer" if name == "label" else "sc:Text") for name in columns
    ]
    rows = zip(*columns.values(), strict=True)
    keys = [f"classes/{name}" for name in columns]
    return record_set("classes", "What the labels mean.", fields) | {
        "data": [dict(zip(keys, row, strict=True)) for row in rows]
    }
