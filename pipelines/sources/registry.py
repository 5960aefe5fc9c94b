"""Resolve the text given to --source to a source with known files.

    doodles               drawn by the program itself, in Google's formats, kept in the cache
    quickdraw             Google's bucket, downloaded into the cache, checked by size and SHA-256
    PATH or URL           a directory of files, or one file, of one of the other kinds

kinds.py lists the kinds of sources; each finds its files by their names, and an address that could
be read in two ways is refused. What often lies under such names and is something else:

    a sign-in page, a Git LFS pointer, a pickle, an archive     refused, and named
    truncated, with bytes added, a damaged header, not JSON     refused, with the place
    .bin that holds rows of 784 bytes (also shifted, inverted)  refused: it has no header
    pickled objects in .npy, floats, Fortran order              refused, never unpickled
    (n, 1, 784), (n, 1, 28, 28); wider integers 0..255; bool    converted, counted in `repairs`
    over half blank, inverted, noise in place of paper          refused by the scan
    pictures of no class, a class of light and of dark ink      refused, with one of each
    a class twice, another class inside, a label of no class    refused
    kinds of files that are not read (class_files.py)           refused where all classes are taken

Refused files stop a build, or are left out and named in the manifest (on_bad_file).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.processes.progress import Progress
from pipelines.sources.base import (
    DEFAULT_OPTIONS,
    Place,
    Reader,
    Request,
    Source,
    SourceFile,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.class_files import describe_unread, unread_files
from pipelines.sources.files import (
    file_size,
    is_listable,
    is_remote,
    list_files,
    local_path,
    remember_secrets,
    secrets_of,
    without_secrets,
)
from pipelines.sources.kinds import FOUND, NAMED, file_format, source_kind
from pipelines.store.errors import reading
from pipelines.store.printable import printable

# The number of names that are examined to describe a directory without a source.
_HINT_FILES = 10_000


def open_source(
    text: str,
    classes: Sequence[str] | None,
    cache_dir: Path,
    options: SourceOptions = DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> Source:
    """Return the source that `text` names, with the files of `classes` (None: all it has).

    Raises ValueError if the source lacks a class or cannot give what the options ask for,
    BadFileError for a file that is not what its name says.
    """
    place = _find_place(text, classes, options.image_size)
    request = Request(classes=classes, cache_dir=cache_dir, options=options, progress=progress)
    return _completed(source_kind(place.kind).open(place, request), place, options)


def plan_source(
    text: str, classes: Sequence[str] | None, cache_dir: Path, options: SourceOptions
) -> Source:
    """Return what `open_source` would, without fetching or drawing anything.

    Google's files are known from the catalogue. Of doodles that are not drawn yet the number is
    known and the content is not: their digest is empty.
    """
    place = _find_place(text, classes, options.image_size)
    request = Request(classes=classes, cache_dir=cache_dir, options=options)
    return _completed(source_kind(place.kind).plan(place, request), place, options)


def source_classes(text: str, options: SourceOptions) -> tuple[str, ...] | None:
    """Return the names of the classes that a source has, None if a server cannot list them."""
    address = _address(text)
    if text not in NAMED and not is_listable(address) and not address.endswith(_endings()):
        return None
    place = _find_place(text, None, options.image_size)
    return source_kind(place.kind).classes(place, options)


def describe_source(text: str, image_size: int) -> str:
    """Return what kind of source a text names, and where its files are."""
    place = _find_place(text, None, image_size)
    what = (NAMED | FOUND)[place.kind].what
    return what if place.directory in NAMED else f"{what}: {place}"


def open_reader(file: SourceFile, image_size: int) -> Reader:
    """Return a reader of `file` that gives square images of `image_size` pixels a side.

    Raises BadFileError, as does the reader, if the format is unknown or the file cannot give that
    size, and as `reading` does.
    """
    remember_secrets(file.url, file.secrets)
    with reading(file.url):
        return _NamingReader(file_format(file.format).read(file, image_size), file.url)


@dataclass(frozen=True, slots=True)
class _NamingReader(Reader):
    """A reader whose errors name its file."""

    reader: Reader
    url: str

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop)."""
        with reading(f"{self.url} from row {start}"):
            return self.reader.read(start, stop)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows."""
        with reading(self.url):
            return self.reader.read_rows(rows)


def _completed(source: Source, place: Place, options: SourceOptions) -> Source:
    """Return the source with a name and with what readers in other processes need to know.

    Raises ValueError for what cannot be done with this kind of source.
    """
    if options.transpose and place.kind != "idx":
        raise ValueError(f"--transpose is of IDX files; {place} are none")
    # Manifests are public and the same on every machine: without the folders of this one.
    is_far = is_remote(place.directory)
    name = printable(place.directory) if is_far else local_path(place.directory).name
    files = tuple(_completed_file(file, options) for file in source.files)
    if options.keeps_splits and (one := next((f for f in files if "split" not in f.layout), None)):
        raise ValueError(f"{one.url} is of no split: the source has none of its own to keep")
    return dataclasses.replace(
        source, name=source.name or name, files=files, keeps_splits=options.keeps_splits
    )


def _completed_file(file: SourceFile, options: SourceOptions) -> SourceFile:
    joined = None if file.metadata is None else _completed_file(file.metadata, options)
    return dataclasses.replace(
        file,
        columns=options.columns,
        metadata=joined,
        limits=options.limits,
        secrets=secrets_of(file.url),
    )


def _address(text: str) -> str:
    return text if text in NAMED else without_secrets(text)


def _kinds() -> dict[str, SourceKind]:
    return {name: source_kind(name) for name in FOUND}


def _endings() -> tuple[str, ...]:
    return tuple(ending for kind in _kinds().values() for ending in kind.endings)


def _listed(words: Sequence[str]) -> str:
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _find_place(text: str, classes: Sequence[str] | None, image_size: int) -> Place:
    """Return where the files of a source are, at an address or below, and of which kind they are.

    Raises ValueError if there are none, or several kinds of them.
    """
    address = _address(text)
    if (kind := _kind_by_name(address)) is not None:
        return Place(kind=kind, directory=address)
    if not is_listable(address):
        return _ask(address, classes, image_size)
    if not is_remote(address) and not local_path(address).is_dir():
        raise ValueError(_no_directory(address))
    found = _look(address, image_size)
    if not found:
        titles = _listed([kind.title for kind in _kinds().values() if kind.title])
        raise ValueError(
            f"{address} has no {_listed(_endings())} files and is no {titles}{_hint(address)}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{address} can be read in {len(found)} ways: {'; '.join(map(str, found))}: give the "
            "one that is meant as the source, or take the other away"
        )
    return found[0]


def _kind_by_name(address: str) -> str | None:
    """Return the kind of source that an address itself says, None for a directory."""
    if address in NAMED:
        return address
    kinds = _kinds().items()
    said = (name for name, kind in kinds if kind.prefix and address.startswith(kind.prefix))
    if (name := next(said, None)) is not None:
        return name
    ends = (name for name, kind in kinds if address.endswith(kind.endings))
    name = next(ends, None)
    return name if name is not None and file_size(address) is not None else None


def _ask(address: str, classes: Sequence[str] | None, image_size: int) -> Place:
    """Return the first place that a kind of source finds on a web server, which lists nothing."""
    for kind in _kinds().values():
        if (place := kind.ask(address, classes, image_size)) is not None:
            return place
    if not classes:
        raise ValueError(f"{address} cannot be listed: name the classes to read from it")
    raise ValueError(
        f"{address} has no {_listed(_endings())} file of {classes[0]}; over http(s) Parquet is read "
        "from the address of one file"
    )


def _look(address: str, image_size: int) -> list[Place]:
    """Return the places that the kinds of sources find in a directory and below."""
    names = list(list_files(address))
    kinds = _kinds().values()
    found: list[Place] = []
    for kind in [kind for kind in kinds if kind.owns(names)] or kinds:
        found += kind.find(address, names, image_size, is_known=bool(found))
    return found


def _no_directory(address: str) -> str:
    if is_remote(address) or not local_path(address).is_file():
        return f"source {address!r} is no directory (and neither {' nor '.join(NAMED)})"
    what = describe_unread(local_path(address).name) or "not a kind of file that is read"
    return (
        f"{address} is {what}; a source is one {_listed(_endings())} file, or a directory of them"
    )


def _hint(address: str) -> str:
    """Describe the files that are there instead, if their kind is known."""
    names: Iterable[str] = list_files(address)
    if not is_remote(address):
        names = chain(names, (path.name for path in local_path(address).rglob("*")))
    by_kind: dict[str, list[str]] = {}
    for name, what in unread_files(islice(names, _HINT_FILES)).items():
        by_kind.setdefault(what, []).append(name)
    what, found = max(by_kind.items(), key=lambda kind: len(kind[1]), default=("", [""]))
    return f": {found[0]} is {what}" if what else ""
