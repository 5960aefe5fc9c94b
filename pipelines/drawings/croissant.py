"""Elements of Croissant 1.0 (https://mlcommons.org/croissant/): file objects, file and record sets.

A file set lies in the directory of croissant.json itself: mlcroissant reads no set of several file
objects.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipelines.store.manifest import FileEntry

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


def file_object(entry: FileEntry, media_type: str, description: str = "") -> dict[str, Any]:
    """Return a file with its size and SHA-256."""
    return {
        "@type": "cr:FileObject",
        "@id": _identifier(entry.path),
        "name": entry.path,
        **({"description": description} if description else {}),
        "contentUrl": quote(entry.path),
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": media_type,
        "sha256": entry.sha256,
    }


def _identifier(path: str) -> str:
    """Return an identifier of a path, without a blank: not even an encoded one is allowed."""
    return quote(path.replace("~", "%7E")).replace("%", "~")


def file_set(name: str, media_type: str, includes: str) -> dict[str, Any]:
    """Return the files of a pattern, such as data/*.parquet."""
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": media_type,
        "includes": includes,
    }


def record_set(name: str, description: str, fields: Sequence[object]) -> dict[str, Any]:
    """Return what a record has, and what it means."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": list(fields),
    }


def from_set(name: str, extract: Mapping[str, str], **transform: str) -> dict[str, Any]:
    """Return where a field comes from: a file set, what to take of it, how to change that."""
    source: dict[str, Any] = {"fileSet": {"@id": name}, "extract": extract}
    return source | ({"transform": transform} if transform else {})


def field(
    identifier: str, data_type: str, source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return one field of a record; its identifier is RECORD_SET/NAME."""
    return {
        "@type": "cr:Field",
        "@id": identifier,
        "name": identifier.partition("/")[2],
        "dataType": data_type,
        **({"source": source} if source else {}),
    }
