"""Elements of Croissant 1.0 (https://mlcommons.org/croissant/): file objects, file and record sets.

A file set lies in the directory of croissant.json itself: mlcroissant reads no set of several file
objects. Artifacts have version 1.0, so that their bytes stay; `croissant_1_1` makes 1.1 of it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipelines.store.manifest import FileEntry, file_entry

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
# Terms of mlcroissant's context for 1.1 that 1.0 lacks.
_CONTEXT_1_1 = {
    name: f"cr:{name}"
    for name in ("arrayShape", "containedIn", "equivalentProperty", "isArray", "samplingRate")
}
_VERSION_1_0, _VERSION_1_1 = (f"http://mlcommons.org/croissant/{n}" for n in ("1.0", "1.1"))


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


def croissant_1_1(content: bytes, *, url: str, replaced: Mapping[str, bytes]) -> bytes:
    """Return a croissant.json of version 1.0 as one of 1.1, for a copy of its files.

    url       where the copy has its page
    replaced  the files that have another content there, by path
    """
    description = json.loads(content)
    versions = description["conformsTo"]
    is_list = isinstance(versions, list)
    versions = [
        _VERSION_1_1 if version == _VERSION_1_0 else version
        for version in (versions if is_list else [versions])
    ]
    changed = {
        "@context": CONTEXT | _CONTEXT_1_1,
        "conformsTo": versions if is_list else versions[0],
        "url": url,
        "distribution": [_of_copy(each, replaced) for each in description["distribution"]],
    }
    return json.dumps(description | changed, indent=1).encode() + b"\n"


def _of_copy(described: Mapping[str, Any], replaced: Mapping[str, bytes]) -> dict[str, Any]:
    """Return a file or a file set with the size and SHA-256 that it has in a copy."""
    path = described["name"]
    if described["@type"] != "cr:FileObject" or path not in replaced:
        return dict(described)
    entry = file_entry(path, replaced[path])
    return {**described, "contentSize": f"{entry.bytes} B", "sha256": entry.sha256}
