"""Croissant 1.0 metadata of a dataset's Parquet files (https://mlcommons.org/croissant/)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.catalogue import tfds_id
from pipelines.dataset.shards import dataset_schema
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.credit import credit_of
from pipelines.drawings.croissant import CONTEXT, field, file_object, file_set, from_set, record_set
from pipelines.store.manifest import FileEntry

_TYPES = {"int16": "sc:Integer", "int64": "sc:Integer", "string": "sc:Text", "bool": "sc:Boolean"}

_PARQUET, _FILES = "application/x-parquet", "parquet-files"


def croissant_json(
    spec: DatasetSpec, name: str, summary: Mapping[str, Any], shards: Sequence[FileEntry]
) -> str:
    """Return croissant.json: one file object a shard, with its SHA-256, and the columns."""
    files = [entry for entry in shards if entry.path.startswith("data/")]
    credit = credit_of(summary)
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{summary['num_drawings']} drawings of {len(spec.class_names)} classes.",
        **credit.croissant(),
        "version": "1.0.0",
        # The content digest, not the day: the same dataset has the same metadata.
        "citeAs": credit.cite_as(f"Content digest {summary['content_digest']}."),
        "distribution": [file_object(entry, _PARQUET) for entry in files]
        + [file_set(_FILES, _PARQUET, "data/*.parquet")],
        "recordSet": [_drawings(spec)],
    }
    return json.dumps(content, indent=1) + "\n"


def _drawings(spec: DatasetSpec) -> dict[str, Any]:
    fields = [
        field(
            "drawings/image",
            "sc:ImageObject",
            from_set(_FILES, {"column": "image"}, jsonPath="bytes"),
        )
    ]
    fields += [
        field(f"drawings/{f.name}", _TYPES[str(f.type)], from_set(_FILES, {"column": f.name}))
        for f in list(dataset_schema(spec))[1:]
    ]
    return record_set("drawings", f"One drawing a row; {_label_text(spec)}", fields)


def _label_text(spec: DatasetSpec) -> str:
    """Say what a label means; shards of one class have TFDS's numbers, for any list of classes."""
    if spec.layout != "linked":
        return "a label is a position in: " + ", ".join(spec.class_names)
    numbers = [f"{tfds_id(name)} {name}" for name in spec.class_names]
    return "a label is the class's number in TensorFlow Datasets: " + ", ".join(numbers)
