"""Croissant 1.0 metadata of an export: every file with its SHA-256, and what readers can read.

    classes   record set: label and class name, and where png or numpy_bitmap keep the class
    drawings  record set: the columns image and label of hf
    pictures  record set: the pictures of png with split, folder and label

Croissant has no words for what is inside of a TFRecord, .npy or IDX file: those are file objects
whose description says it. So are tar files: mlcroissant unpacks one into a cache that is keyed on
the relative URL, and would give the pictures of another export whose tar has the same name.

`rai:hasSyntheticData` and the keyword `synthetic` say that a program made the drawings.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipelines.dataset.croissant import CONTEXT
from pipelines.drawings.class_paths import path_names
from pipelines.drawings.credit import GOOGLES
from pipelines.export.job import Job
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
_DESCRIPTIONS = {
    "idx/": "IDX, the format of MNIST: sizes as big-endian uint32, then pixels or labels.",
    "numpy_bitmap/": "NumPy array (drawings, pixels) uint8 of one class, split after split.",
    "png/checksums/": "SHA-256 of pictures, for sha256sum --check.",
    "tfds/": "TFRecord of TensorFlow Datasets: tf.train.Example of image, a PNG, and label.",
    "webdataset/": "WebDataset: <key>.png and <key>.cls, the label, of each drawing.",
}
_PARQUET, _PICTURES = "parquet-files", "png-files"


def export_croissant(job: Job, files: Sequence[FileEntry]) -> bytes:
    """Return croissant.json."""
    # Pictures by the thousand are described by the files of their checksums.
    files = [entry for entry in files if not entry.path.endswith(".png")]
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
        "distribution": [_file(entry) for entry in files] + _file_sets(job),
        "recordSet": _record_sets(job),
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
    said = [text for start, text in _DESCRIPTIONS.items() if entry.path.startswith(start)]
    return {
        "@type": "cr:FileObject",
        "@id": _identifier(entry.path),
        "name": entry.path,
        **({"description": said[0]} if said and not is_text else {}),
        "contentUrl": quote(entry.path),
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": _MEDIA_TYPES.get(suffix, "application/octet-stream"),
        "sha256": entry.sha256,
    }


def _identifier(path: str) -> str:
    """Return an identifier of a path, without a blank: not even an encoded one is allowed."""
    return quote(path.replace("~", "%7E")).replace("%", "~")


def _file_sets(job: Job) -> list[dict[str, Any]]:
    # In the directory of croissant.json itself: mlcroissant reads no set of several file objects.
    sets = {
        "hf": _file_set(_PARQUET, "application/x-parquet", "hf/data/*.parquet"),
        "png": _file_set(_PICTURES, "image/png", "png/*/*/*.png"),
    }
    return [sets[name] for name in job.spec.formats if name in sets]


def _file_set(name: str, media_type: str, includes: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": media_type,
        "includes": includes,
    }


def _record_sets(job: Job) -> list[dict[str, Any]]:
    image, label = {"column": "image"}, {"column": "label"}
    drawings = [
        _field("drawings/image", "sc:ImageObject", _from(_PARQUET, image, jsonPath="bytes")),
        _field("drawings/label", "sc:Integer", _from(_PARQUET, label)),
    ]
    path, content = {"fileProperty": "filepath"}, {"fileProperty": "content"}
    # mlcroissant changes the key of a join where it stands, and again when it reads the field:
    # so the folder is not of the path that the split is of, and found in itself as well.
    inside = {"fileProperty": "fullpath"}
    folder = _from(_PICTURES, inside, regex=r"(?:png/[^/]+/)?([^/]+)(?:/[^/]+)?$")
    pictures = [
        _field("pictures/image", "sc:ImageObject", _from(_PICTURES, content)),
        _field(
            "pictures/split", "sc:Text", _from(_PICTURES, path, regex=r".*/([^/]+)/[^/]+/[^/]+$")
        ),
        _field("pictures/folder", "sc:Text", folder)
        | {"references": {"field": {"@id": "classes/folder"}}},
        _field("pictures/label", "sc:Integer", {"field": {"@id": "classes/label"}}),
    ]
    text = "A label is a position in: " + ", ".join(job.class_names)
    sets = {
        "hf": _record_set("drawings", text, drawings),
        "png": _record_set("pictures", text, pictures),
    }
    return [_classes(job), *(sets[name] for name in job.spec.formats if name in sets)]


def _classes(job: Job) -> dict[str, Any]:
    columns: dict[str, Sequence[object]] = {
        "label": range(len(job.class_names)),
        "class_name": job.class_names,
    }
    names = path_names(job.class_names)
    columns |= {"folder": names} if "png" in job.spec.formats else {}
    if "numpy_bitmap" in job.spec.formats:
        columns["file"] = [f"numpy_bitmap/{name}.npy" for name in names]
    fields = [
        _field(f"classes/{name}", "sc:Integer" if name == "label" else "sc:Text")
        for name in columns
    ]
    rows = zip(*columns.values(), strict=True)
    keys = [f"classes/{name}" for name in columns]
    return _record_set("classes", "What the labels mean.", fields) | {
        "data": [dict(zip(keys, row, strict=True)) for row in rows]
    }


def _record_set(name: str, description: str, fields: Sequence[object]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": list(fields),
    }


def _from(file_set: str, extract: Mapping[str, str], **transform: str) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": file_set}, "extract": extract}
    return source | ({"transform": transform} if transform else {})


def _field(
    identifier: str, data_type: str, source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": identifier,
        "name": identifier.partition("/")[2],
        "dataType": data_type,
        **({"source": source} if source else {}),
    }
