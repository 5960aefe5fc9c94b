"""Indexes of files whose rows are found in one pass: kept in the cache under the content's digest.

An index holds the number of rows, where every 256th begins, and what the rows say of their classes.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.drawings.limits import Limits
from pipelines.sources.base import BadFileError, Request
from pipelines.sources.files import DANGLING, content_digest, file_version, hashing, why_absent
from pipelines.sources.row_labels import RowLabel
from pipelines.store.local_files import write_json
from pipelines.store.manifest import digest_of

INDEX_ROWS = 256

# Of an address, size, version and limits.
MakeIndex = Callable[[str, int, str, Limits], Mapping[str, Any]]


def index_of(make: MakeIndex, url: str, size: int, limits: Limits) -> Mapping[str, Any]:
    """Return a new index of a file; raise BadFileError if it is not there."""
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    return make(url, size, file_version(url), limits)


def kept_index(
    make: MakeIndex, meaning: str, url: str, size: int, digest: str, request: Request
) -> Mapping[str, Any]:
    """Return a file's index, from the cache if its content was looked at before.

    meaning  of the index: another one, or another version, has another name
    """
    limits = request.options.limits
    key = digest_of([digest, meaning, *limits.stated().items()])
    memo = request.cache_dir / "indices" / f"{key}.json"
    if memo.is_file():
        return json.loads(memo.read_text("ascii"))
    index = index_of(make, url, size, limits)
    write_json(memo, index)
    return index


def digests_of(sizes: Mapping[str, int], place: str, request: Request) -> dict[str, str]:
    """Return the digest of each file, "" for a link that leads nowhere."""
    with hashing(sizes, place):
        return {
            url: "" if size == DANGLING else content_digest(url, request.cache_dir)
            for url, size in sizes.items()
        }


def labels_in(index: Mapping[str, Any]) -> set[RowLabel]:
    """Return the different labels of an index."""
    return {RowLabel(number, name) for number, name in index["labels"]}
