"""Find the Parquet files of a dataset, and the splits and configurations that their paths name.

    data/train-00000-of-00004.parquet    the split train, as Hugging Face's datasets have it
    train/0000.parquet                   as the Hub's own conversions do
    simple/train-*, full/train-*         two configurations: one of the folders is a source

Files whose name or folder begins with "_" are no part of a dataset, nor are copies
"x-checkpoint.parquet" beside the original.
"""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from pipelines.processes.progress import advance, doing
from pipelines.sources.base import BadFileError
from pipelines.sources.files import file_size, join_url, list_tree

_COPY = "-checkpoint.parquet"
# As Hugging Face tells the splits of files by their names.
_SPLIT = re.compile(
    r"(?<![a-z])(train|training|validation|valid|val|dev|test|testing|eval|evaluation)(?![a-z])"
)
# Any other name of a split is known by this form alone.
_SHARD = re.compile(r"(?:.*/)?data/([a-z][a-z0-9]*)-\d{5}-of-\d{5}\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A Parquet file of a source; `name` is its path there, `digest` is known of the Hub's alone."""

    url: str
    name: str
    bytes: int
    digest: str = ""


def table_files(directory: str) -> list[TableFile]:
    """Return the Parquet file of an address, or those below a directory, in order of names.

    Raises BadFileError if there is none, or if they are of several configurations.
    """
    if directory.endswith(".parquet") and (size := file_size(directory)) is not None:
        return [TableFile(url=directory, name=directory.rpartition("/")[2], bytes=size)]
    found = list_tree(directory, ".parquet")
    names = parts_of(directory, list(found))
    return [
        TableFile(url=join_url(directory, name), name=name, bytes=found[name]) for name in names
    ]


def parts_of(directory: str, names: Sequence[str]) -> list[str]:
    """Return those of the Parquet files below a directory that are parts of its dataset.

    Raises BadFileError if none is, or if they are of several configurations.
    """
    parts = [name for name in names if not _is_apart(name, names)]
    if not parts:
        raise BadFileError(
            f"{directory} has no Parquet files but temporary ones: {sorted(names)[:3]}"
        )
    _check_configurations(directory, parts)
    return parts


def looked_at(directory: str, files: Sequence[TableFile]) -> Iterator[TableFile]:
    """Yield the files; progress tells how many have been looked at."""
    with doing("tables", f"looking at the files of {directory}", total=len(files)):
        for each in files:
            yield each
            advance(1)


def _is_apart(name: str, names: Container[str]) -> bool:
    """Return whether a file below a directory is a program's own, as Spark's and Jupyter's."""
    if name.endswith(_COPY) and name.removesuffix(_COPY) + ".parquet" in names:
        return True
    return any(part.startswith("_") and "=" not in part for part in name.split("/"))


def splits_of(urls: Sequence[str]) -> list[dict[str, str]]:
    """Return the layout's entry of the split that each file's name or folder says, if all do."""
    found = [_split(url) for url in urls]
    return [{"split": split[0]} if split and all(found) else {} for split in found]


def _split(path: str) -> tuple[str, int] | None:
    """Return the split that a file's name or its folder says, and how many folders are above it."""
    lowered = path.lower()
    parts = lowered.split("/")
    for place in range(len(parts) - 1, max(-1, len(parts) - 3), -1):
        if "=" not in parts[place] and (match := _SPLIT.search(parts[place])):
            return match.group(1), place
    shard = _SHARD.fullmatch(lowered)
    return (shard.group(1), len(parts) - 1) if shard else None


def _check_configurations(directory: str, names: Sequence[str]) -> None:
    """Raise BadFileError if two folders have files of one split, as configurations do."""
    folders: dict[str, dict[str, None]] = {}
    for name in names:
        if (split := _split(name)) is not None:
            above = [part for part in name.split("/")[: split[1]] if "=" not in part]
            folders.setdefault(split[0], {})["/".join(above)] = None
    several = next((list(found) for found in folders.values() if len(found) > 1), None)
    if several is not None:
        shown = ", ".join(folder or "." for folder in several)
        raise BadFileError(
            f"{directory} has {len(several)} datasets beside each other, each with splits of its "
            f"own, in the folders {shown}: give one of these as the source, such as "
            f"{join_url(directory, several[-1])}"
        )
