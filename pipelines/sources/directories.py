"""Which files of a directory are a source's, seen from their names.

    bee.npy                    bitmaps                a file a class; each class is read from the
    bee.ndjson, bee.bin        strokes                first of these that has it
    *.parquet, also below      pictures and labels
    dataset_info.json, ...     what TFDS has prepared; of several versions below the newest

A directory that has `numpy_bitmap`, `simplified`, `raw` or `binary` below it, as Google's bucket
has, is entered: bitmaps first, strokes where another size than 28 is asked for. What could be read
in two ways is refused. Over http(s), where nothing is listed, the first class is asked for under
each ending.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from pipelines.sources.files import (
    file_size,
    is_hidden,
    is_listable,
    is_remote,
    join_url,
    list_files,
    list_tree,
    local_path,
)
from pipelines.sources.unread import describe_unread, unread_files

BITMAP_SIZE = 28
# The endings of a directory's files, and where Google keeps them.
SUFFIXES = {"numpy_bitmap": ".npy", "simplified": ".ndjson", "raw": ".ndjson", "binary": ".bin"}
ENDINGS = tuple(dict.fromkeys(SUFFIXES.values()))

# The number of names that are examined to describe a directory without a source.
_HINT_FILES = 10_000
_PREPARED = ("dataset_info.json", "features.json")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Below a place that is known already, as deep as our own exports lie: hf/data, tfds/NAME/1.0.0.
_TABLES_BELOW = ("*/*.parquet", "*/*/*.parquet")
_PREPARED_BELOW = tuple(f"{'*/' * depth}{_PREPARED[0]}" for depth in (1, 2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a source's files are.

    kind       classes (a file a class), parquet or tfds
    directory  that holds them, or the address of the one file
    folders    of classes: directories and endings, those first that are preferred
    """

    kind: str
    directory: str
    folders: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        kinds = dict.fromkeys(ending for _, ending in self.folders) or [self.kind]
        return f"{', '.join(kinds)} in {self.directory}"


def find_place(address: str, classes: Sequence[str] | None, image_size: int) -> Place:
    """Return where the files of a source are, at `address` or below.

    Raises ValueError if there are none, or several kinds of them.
    """
    if address.endswith((".parquet", *ENDINGS)) and file_size(address) is not None:
        kind = "parquet" if address.endswith(".parquet") else "classes"
        return Place(kind=kind, directory=address)
    order = list(SUFFIXES) if image_size == BITMAP_SIZE else [*list(SUFFIXES)[1:], "numpy_bitmap"]
    if not is_listable(address):
        return _ask(address, classes, order)
    if not is_remote(address) and not local_path(address).is_dir():
        raise ValueError(_no_directory(address))
    found = _look(address, order)
    if not found:
        raise ValueError(
            f"{address} has no .npy, .ndjson, .bin or .parquet files and is no TFDS dataset"
            f"{_hint(address)}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{address} can be read in {len(found)} ways: {'; '.join(map(str, found))}: give the "
            "one that is meant as the source, or take the other away"
        )
    return found[0]


def _look(address: str, order: Sequence[str]) -> list[Place]:
    """Return what lies right in a directory, where Google would keep it, and below."""
    names = list(list_files(address))
    if _is_prepared(names):
        return [_prepared(address, names)]
    found = []
    if here := _folders(address, names, order):
        found.append(Place(kind="classes", directory=address, folders=here))
    below: list[tuple[str, str]] = []
    for kind in order:
        folder = join_url(address, kind)
        inside = list(list_files(folder))
        below += [] if _is_prepared(inside) else _folders(folder, inside, [kind])
    if below:
        found.append(Place(kind="classes", directory=below[0][0], folders=tuple(below)))
    if any(name.endswith(".parquet") for name in names) or _has_tables(address, bool(found)):
        found.append(Place(kind="parquet", directory=address))
    return found + _prepared_below(address, bool(found))


def _folders(
    folder: str, names: Sequence[str], order: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return the folder with each ending that its files have, in this order."""
    endings = dict.fromkeys(SUFFIXES[kind] for kind in order)
    return tuple(
        (folder, ending) for ending in endings if any(name.endswith(ending) for name in names)
    )


def _has_tables(address: str, is_known: bool) -> bool:
    """Whether Parquet lies below; of a place that is known already only near and on this machine."""
    if not is_known:
        return bool(list_tree(address, ".parquet"))
    return bool(_below(address, _TABLES_BELOW))


def _below(address: str, patterns: Sequence[str]) -> list[Path]:
    if is_remote(address):
        return []
    root = local_path(address)
    found = [path for pattern in patterns for path in root.glob(pattern)]
    return [path for path in found if not is_hidden(str(path.relative_to(root)))]


def _is_prepared(names: Sequence[str]) -> bool:
    """Whether TFDS made these files; `datasets` writes a dataset_info.json, too."""
    if set(names) >= set(_PREPARED):
        return True
    return any(re.search(r"\.(tfrecord|array_record)\b", name) for name in names)


def _prepared(address: str, names: Sequence[str]) -> Place:
    if missing := [name for name in _PREPARED if name not in names]:
        raise ValueError(
            f"{address} has records without {' and '.join(missing)}, which say how to read them "
            "(TFDS up to 3.2.1 wrote no features.json): prepare the dataset again with a newer TFDS"
        )
    if is_remote(address):
        raise ValueError(f"{address}: what TFDS prepared is read from a local copy of it")
    return Place(kind="tfds", directory=address)


def _prepared_below(address: str, is_known: bool) -> list[Place]:
    """Return the newest version of a dataset that TFDS has prepared below a directory."""
    if is_remote(address):
        if not is_known and (found := list_tree(address, f"/{_PREPARED[1]}")):
            folder = f"{address.rstrip('/')}/{next(iter(found)).rpartition('/')[0]}"
            raise ValueError(f"{folder}: what TFDS prepared is read from a local copy of it")
        return []
    folders = {str(path.parent): path.parent for path in _below(address, _PREPARED_BELOW)}
    folders = {name: path for name, path in folders.items() if _is_prepared(list(list_files(name)))}
    versions = [path for path in folders.values() if _VERSION.fullmatch(path.name)]
    chosen = versions or list(folders.values())
    if len({path.parent if versions else path for path in chosen}) > 1:
        root = local_path(address)
        named = ", ".join(sorted(str(path.relative_to(root)) for path in chosen))
        raise ValueError(
            f"{address} has several datasets that TFDS prepared: {named}; give one as the source"
        )
    newest = sorted(chosen, key=_version)[-1:]
    return [_prepared(str(path), list(list_files(str(path)))) for path in newest]


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())


def _no_directory(address: str) -> str:
    if is_remote(address) or not local_path(address).is_file():
        return f"source {address!r} is no directory (and neither doodles nor quickdraw)"
    what = describe_unread(local_path(address).name) or "not a kind of file that is read"
    return (
        f"{address} is {what}; a source is one .npy, .ndjson, .bin or .parquet file, or a directory "
        "of them"
    )


def _hint(address: str) -> str:
    """Say what there is instead, if it is known."""
    names: Iterable[str] = list_files(address)
    if not is_remote(address):
        names = chain(names, (path.name for path in local_path(address).rglob("*")))
    by_kind: dict[str, list[str]] = {}
    for name, what in unread_files(islice(names, _HINT_FILES)).items():
        by_kind.setdefault(what, []).append(name)
    what, found = max(by_kind.items(), key=lambda kind: len(kind[1]), default=("", [""]))
    return f": {found[0]} is {what}" if what else ""


def _ask(address: str, classes: Sequence[str] | None, order: Sequence[str]) -> Place:
    last = address.rstrip("/").rsplit("/", 1)[-1]
    if last in SUFFIXES:
        return Place(kind="classes", directory=address, folders=((address, SUFFIXES[last]),))
    if not classes:
        raise ValueError(f"{address} cannot be listed: name the classes to read from it")
    endings = dict.fromkeys(SUFFIXES[kind] for kind in order)
    for ending in endings:
        if file_size(join_url(address, classes[0] + ending)) is not None:
            return Place(kind="classes", directory=address, folders=((address, ending),))
    raise ValueError(
        f"{address} has no file of {classes[0]} that ends in {', '.join(endings)}; over http(s) "
        "Parquet is read from the address of one file"
    )
