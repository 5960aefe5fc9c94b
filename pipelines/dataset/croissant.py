"""Croissant 1.0 metadata of a dataset's Parquet files (https://mlcommons.org/croissant/)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.catalogue import tfds_id
from pipelines.dataset.shards import dataset_schema
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.credit import credit_of
from pipelines.store.manifest import FileEntry

_TYPES = {"int16": "sc:Integer", "int64": "sc:Integer", "string": "sc:Text", "bool": "sc:Boolean"}

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


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
        "distribution": [_file(entry) for entry in files] + [_file_set()],
        "recordSet": [_record_set(spec)],
    }
    return json.dumps(content, indent=1) + "\n"


def _file(entry: FileEntry) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": entry.sha256,
    }


def _file_set() -> dict[str, Any]:
    # In the directory of croissant.json itself: mlcroissant reads no set of several file objects.
    return {
        "@type": "cr:FileSet",
        "@id": "parquet-files",
        "name": "parquet-files",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*.parquet",
    }


def _record_set(spec: DatasetSpec) -> dict[str, Any]:
    fields = [_field("image", "sc:ImageObject", {"transform": {"jsonPath": "bytes"}})]
    fields += [_field(f.name, _TYPES[str(f.type)], {}) for f in list(dataset_schema(spec))[1:]]
    return {
        "@type": "cr:RecordSet",
        "@id": "drawings",
        "name": "drawings",
        "description": f"One drawing a row; {_label_text(spec)}",
        "field": fields,
    }


def _label_text(spec: DatasetSpec) -> str:
    """Say what a label means; shards of one class have TFDS's numbers, for any list of classes."""
    if spec.layout != "linked":
        return "a label is a position in: " + ", ".join(spec.class_names)
    numbers = [f"{tfds_id(name)} {name}" for name in spec.class_names]
    return "a label is the class's number in TensorFlow Datasets: " + ", ".join(numbers)


def _field(column: str, data_type: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"drawings/{column}",
        "name": column,
        "dataType": data_type,
        "source": {
            "fileSet": {"@id": "parquet-files"},
            "extract": {"column": column},
            **more,
        },
    }
