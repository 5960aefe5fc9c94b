"""Finding and opening the files of classes in directories that somebody filled.

    bee.npy, full_numpy_bitmap_bee.npy, "bee (1).npy", "bee copy.npy"    files of class bee
    sea%20turtle.npy, sea+turtle.npy                                     sea turtle
    Bee.npy beside bee.npy, one name in two forms of Unicode             refused

Names are in Unicode's form NFC, whichever form a file system keeps them in. What an export of ours
calls its files is in its table of names.
"""

import csv
import dataclasses
import io
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipelines.catalogue import catalogue, tfds_id
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.sources.base import BadFileError, SourceFile
from pipelines.sources.bitmaps import inspect_npy
from pipelines.sources.directories import Place
from pipelines.sources.files import (
    DANGLING,
    FileRanges,
    content_digest,
    file_size,
    file_version,
    is_listable,
    is_remote,
    join_url,
    list_files,
    why_absent,
)
from pipelines.sources.strokes import open_strokes
from pipelines.sources.unread import unread_files
from pipelines.store.errors import reading

# What browsers and tools make of "full/numpy_bitmap/bee.npy".
_PREFIXES = tuple(
    f"full{mark}{kind}{mark}"
    for kind in ("numpy_bitmap", "simplified", "raw", "binary")
    for mark in ("_", "%2F")
)
# What browsers, Windows, macOS and Google Drive call the second copy of a file.
_COPY = re.compile(
    r"(?:Copy of (?P<drive>.+))|(?P<name>.+?)(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?| [2-9])"
)
_NAMES_TABLE = "numpy_bitmap-classes.csv"

_Folders = Sequence[tuple[str, str]]


def find_class_files(place: Place, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Return (class, address, bytes) of the files of these classes, in their order.

    classes  None: all classes there, those of the catalogue first, in its order

    Raises ValueError if a class has no file or two.
    """
    folders = place.folders
    if not folders:
        return _only(place.directory, classes)
    if not is_listable(folders[0][0]):
        return _probe(folders, classes)
    found = _files_by_class(folders)
    names = classes or _ordered(found)
    if missing := [name for name in names if name not in found]:
        there = (
            ", ".join(sorted(found)) or f"no {' or '.join(ending for _, ending in folders)} file"
        )
        raise ValueError(f"{folders[0][0]} has no file of {', '.join(missing)}; it has {there}")
    for name in names:
        if len(found[name]) > 1:
            raise ValueError(
                f"{folders[0][0]} has {len(found[name])} files of class {name!r}: "
                f"{', '.join(url.rsplit('/', 1)[1] for url in found[name])}; leave one of them"
            )
    return [(name, *next(iter(found[name].items()))) for name in names]


def class_names_in(place: Place) -> tuple[str, ...]:
    """Return the classes that have files there, those of the catalogue first."""
    if not place.folders:
        return (_class_of_file(place.directory),)
    return _ordered(_files_by_class(place.folders))


def unread_beside(place: Place) -> list[tuple[str, str]]:
    """Return address and reason of the files beside those of classes that are not read."""
    folders = dict.fromkeys(folder for folder, _ in place.folders if is_listable(folder))
    named = [(folder, unread_files(list_files(folder))) for folder in folders]
    found = {join_url(folder, n): what for folder, files in named for n, what in files.items()}
    return [
        (url, f"{url} is {what}; to leave it out, name the classes or use --on-bad-file skip")
        for url, what in found.items()
    ]


def open_class_file(
    url: str,
    size: int,
    class_name: str,
    cache_dir: Path,
    *,
    image_size: int,
    limits: Limits = DEFAULT,
) -> SourceFile:
    """Return a file that `find_class_files` has found as a file of a source.

    Raises BadFileError if it is not what its name says or cannot give drawings of that size.
    """
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    if not url.endswith(".npy"):
        is_binary = url.endswith(".bin")
        return open_strokes(url, size, class_name, cache_dir, is_binary=is_binary, limits=limits)
    file = _open_bitmaps(url, size, class_name, cache_dir)
    if int(file.layout["side"]) != image_size:
        raise BadFileError(
            f"{url} holds bitmaps of {file.layout['side']} pixels a side, wanted "
            f"{image_size}: only strokes can be drawn at another size"
        )
    return file


def join_strokes(file: SourceFile, cache_dir: Path, limits: Limits = DEFAULT) -> SourceFile:
    """Return bitmaps with the simplified drawings of the same class beside them, strokes as is.

    Raises ValueError if there are none, BadFileError if they are not as many.
    """
    if file.format != "npy":
        return file
    directory = file.url.rsplit("/", 1)[0]
    tried = [directory, f"{directory}/../simplified", f"{directory.rsplit('/', 1)[0]}/simplified"]
    for place in tried if not is_remote(directory) else tried[::2]:
        url = join_url(place, f"{file.class_name}.ndjson")
        size = file_size(url)
        if size is None:
            continue
        strokes = open_strokes(
            url, size, str(file.class_name), cache_dir, is_binary=False, limits=limits
        )
        if strokes.rows != file.rows:
            raise BadFileError(
                f"{url} has {strokes.rows} lines for {file.rows} bitmaps: metadata are joined by "
                "row, both files must be whole"
            )
        return dataclasses.replace(file, metadata=strokes)
    raise ValueError(
        f"no {file.class_name}.ndjson beside {file.url} or in a directory `simplified` next to its "
        "own: metadata of bitmaps come from the simplified drawings"
    )


def _open_bitmaps(url: str, size: int, class_name: str, cache_dir: Path) -> SourceFile:
    """Return one .npy file as a file of a source, after a look at its header."""
    version = file_version(url)
    with reading(url):
        layout = inspect_npy(url, size)
    return SourceFile(
        url=url,
        format="npy",
        class_name=class_name,
        rows=int(layout["rows"]),
        bytes=size,
        digest=content_digest(url, cache_dir),
        version=version,
        layout=layout,
        is_direct=True,
    )


def class_of(name: str, beside: Collection[str] = ()) -> str:
    """Return the class that a file name means, its ending left out; `beside` it are these.

    >>> class_of("full_numpy_bitmap_sea turtle"), class_of("sea+turtle"), class_of("a+b")
    ('sea turtle', 'sea turtle', 'a+b')
    >>> class_of("bee (1)"), class_of("mine 2"), class_of("mine 2", ["mine"])
    ('bee', 'mine 2', 'mine')
    """
    stem = name
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    stem = _unquoted(stem)
    spaced = stem.replace("+", " ")
    if tfds_id(spaced) >= 0:
        return spaced
    if copy := _COPY.fullmatch(stem):
        original = class_of(copy["drive"] or copy["name"])
        if tfds_id(original) >= 0 or original in {class_of(other) for other in beside}:
            return original
    return stem


def _unquoted(stem: str) -> str:
    try:
        stem = unquote_to_bytes(os.fsencode(stem)).decode()
    except UnicodeDecodeError:  # no address: a name with a percent sign, or not in UTF-8
        stem = stem.replace("%20", " ")
    return unicodedata.normalize("NFC", stem)


def _ordered(found: Collection[str]) -> tuple[str, ...]:
    known = [entry.name for entry in catalogue() if entry.name in found]
    return (*known, *sorted(set(found) - set(known)))


def _files_by_class(folders: _Folders) -> dict[str, dict[str, int]]:
    """Return addresses and sizes of the files of each class: of the first folder that has it.

    Names of files that differ in capitals alone are one class with two files: which of them a
    reader on another system sees is not known.
    """
    found: dict[str, dict[str, int]] = {}
    folded: dict[str, str] = {}
    for folder, ending in folders:
        for name, files in _files_in(folder, ending, folded).items():
            found.setdefault(name, files)
    return found


def _files_in(folder: str, ending: str, folded: dict[str, str]) -> dict[str, dict[str, int]]:
    sizes = {file: size for file, size in list_files(folder).items() if file.endswith(ending)}
    stems = [file.removesuffix(ending) for file in sizes]
    # Google's folders on a server are not asked for what lies beside them.
    is_asked = not is_remote(folder) or any(tfds_id(class_of(stem)) < 0 for stem in stems)
    table = _names_table(folder) if ending == ".npy" and is_asked else {}
    found: dict[str, dict[str, int]] = {}
    for (file, size), stem in zip(sizes.items(), stems, strict=True):
        if file in table:
            name = table[file]
        else:
            name = class_of(stem, stems)
            name = folded.setdefault(name.casefold(), name)
        found.setdefault(name, {})[join_url(folder, file)] = size
    return found


def _names_table(folder: str) -> Mapping[str, str]:
    """Return the class of each file that an export of ours lists beside its directory."""
    parent, _, last = join_url(folder, "").rstrip("/").rpartition("/")
    url = join_url(parent, _NAMES_TABLE)
    size = file_size(url) if last == "numpy_bitmap" else None
    if size is None:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(FileRanges(url).read(0, size).decode())))
        return {row["file"]: unicodedata.normalize("NFC", row["class_name"]) for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise BadFileError(
            f"{url} is no table of the columns class_name and file; take it away to have classes "
            "named after their files"
        ) from error


def _class_of_file(address: str) -> str:
    return class_of(address.rsplit("/", 1)[-1].rsplit(".", 1)[0])


def _only(address: str, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Return the one file that is the source."""
    own = _class_of_file(address)
    if missing := [name for name in classes or () if name != own]:
        raise ValueError(f"{address} is of class {own}, not of {', '.join(missing)}")
    return [(own, address, file_size(address) or 0)]


def _probe(folders: _Folders, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Ask for each class's file where a listing is not to be had."""
    (directory, ending), *_ = folders
    if classes is None:
        raise ValueError(f"{directory} cannot be listed: name the classes")
    found = []
    for name in classes:
        url = join_url(directory, name + ending)
        size = file_size(url)
        if size is None:
            raise ValueError(f"{url} is not there")
        found.append((name, url, size))
    return found
