"""Croissant 1.0 metadata of an export: every file with its SHA-256, and the columns of hf.

`rai:hasSyntheticData` and the keyword `synthetic` say that a program made the drawings.
"""

import json
from collections.abc import Sequence
from typing import Any

from pipelines.credit import GOOGLES
from pipelines.croissant import CONTEXT
from pipelines.export.job import Job
from pipelines.schema import FileEntry

_MEDIA_TYPES = {
    ".parquet": "application/x-parquet",
    ".tar": "application/x-tar",
    ".json": "application/json",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".html": "text/html",
}
_COLUMN_TYPES = {"image": "sc:ImageObject", "label": "sc:Integer"}


def export_croissant(job: Job, files: Sequence[FileEntry]) -> bytes:
    """Return croissant.json; record sets describe the Parquet files, if there are any."""
    # Pictures by the thousand are described by the files of their checksums.
    files = [entry for entry in files if not entry.path.endswith(".png")]
    has_parquet = any(entry.path.endswith(".parquet") for entry in files)
    rows = sum(job.rows(split) for split in job.splits)
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
        "distribution": [_file(entry) for entry in files] + [_file_set()] * has_parquet,
        "recordSet": [_record_set(job)] * has_parquet,
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
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": _MEDIA_TYPES.get(suffix, "application/octet-stream"),
        "sha256": entry.sha256,
    }


def _file_set() -> dict[str, Any]:
    # In the directory of croissant.json itself: mlcroissant reads no set of several file objects.
    return {
        "@type": "cr:FileSet",
        "@id": "parquet-files",
        "name": "parquet-files",
        "encodingFormat": "application/x-parquet",
        "includes": "hf/data/*.parquet",
    }


def _record_set(job: Job) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "drawings",
        "name": "drawings",
        "description": "A label is a position in: " + ", ".join(job.class_names),
        "field": [_field(name, kind) for name, kind in _COLUMN_TYPES.items()],
    }


def _field(column: str, data_type: str) -> dict[str, Any]:
    extract: dict[str, Any] = {"fileSet": {"@id": "parquet-files"}, "extract": {"column": column}}
    if column == "image":
        extract["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"drawings/{column}",
        "name": column,
        "dataType": data_type,
        "source": extract,
    }
