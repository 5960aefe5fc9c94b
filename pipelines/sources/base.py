"""The interface of sources: files of drawings with known row counts and known content.

A kind of source is one class: it finds its files, names their classes, plans and opens them, and
says how each format of its files is read. kinds.py lists the classes. A source file is a small
record that travels; the process that does the work opens a reader for it. `fingerprint` is of the
content and not of the location: a local copy of Google's files has the fingerprint of the
originals.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.drawings.fitting import Fit
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.processes.progress import Progress
from pipelines.store.errors import BadFileError as BadFileError
from pipelines.store.manifest import digest_of

Names = Sequence[str]
# Pixels a side of Google's bitmaps.
BITMAP_SIZE = 28
DOODLES_PER_CLASS = 1_200


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to open a source.

    image_size      pixels a side of the drawings
    seed, doodles_per_class  of the doodles
    columns         metadata to read; bitmaps get them from the simplified drawings beside them
    skip_bad_files  leave out files that are not what their name says, and list them in `bad_files`
    limits          what is too large to be read
    every_class     all classes are wanted: a file of a kind that is not read is a bad one
    fit             "pad" or "crop" pictures of another size; None is the kind's own way
    label_names     names of numbered labels, for files that do not name them
    transpose       rows and columns of IDX files are swapped
    keeps_splits    each file is of one of the source's own splits, named in its layout
    """

    image_size: int = BITMAP_SIZE
    seed: int = 0
    doodles_per_class: int = DOODLES_PER_CLASS
    columns: tuple[str, ...] = ()
    skip_bad_files: bool = False
    limits: Limits = DEFAULT
    every_class: bool = False
    fit: Fit = None
    label_names: tuple[str, ...] = ()
    transpose: bool = False
    keeps_splits: bool = False


DEFAULT_OPTIONS = SourceOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source.

    url         a local path or a URL
    format      how to read it; one of the formats of a kind of source
    class_name  of all its drawings; None if every row has its own
    rows        number of drawings
    bytes       size
    digest      "sha256:..." of the content, or "etag:..." where only the server knows it
    version     changes when the file is written to; "" if that cannot be told
    layout      what the reader needs to know: offsets, an index of lines, column names; `labels`,
                what the numbers of its rows mean; `split`, the split that the source has it in;
                `how`, whatever else decides the drawings that a reader makes of the content
    metadata    the file whose line i describes row i, if metadata are joined
    columns     the metadata columns to read; no other one is looked at
    is_direct   rows can be read in place, at no cost of decoding
    limits      what of it is too large to be read
    secrets     Authorization header and query for the server; never shown in any text
    """

    url: str
    format: str
    class_name: str | None
    rows: int
    bytes: int
    digest: str
    version: str = ""
    layout: Mapping[str, Any] = field(default_factory=dict)
    metadata: "SourceFile | None" = None
    columns: tuple[str, ...] = ()
    is_direct: bool = False
    limits: Limits = DEFAULT
    secrets: tuple[str, str] = field(default=("", ""), repr=False)


class Reader:
    """Reads rows of one file; `label` is 0 where the file has one class."""

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop), one a row of the file, with `problem` and `repair`.

        A row that cannot be read has a problem. Raises BadFileError where rows cannot be told
        apart: the file is damaged or of another kind.
        """
        raise NotImplementedError

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows, which ascend; only direct files need it.

        Other files are decoded once, in order; their pixels are then read as bitmaps.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files of drawings.

    name          in manifests; empty: that of its directory
    class_names   what the labels of files with several classes mean; else the files' classes
    image_size    pixels a side of what the readers give
    is_synthetic  whether a program drew them: everything made of them says so
    bad_files     left out, with the reason
    repairs       conversions made, with the number of files
    keeps_splits  the files' own splits decide those of their drawings
    """

    name: str = ""
    class_names: tuple[str, ...]
    files: tuple[SourceFile, ...]
    image_size: int = BITMAP_SIZE
    is_synthetic: bool = False
    bad_files: tuple[tuple[str, str], ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)
    keeps_splits: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of all files, independent of their location.

        Synthetic drawings are another source than a copy of them that is not marked as synthetic.
        """
        files = [_identity(file) + self._split_identity(file) for file in self.files]
        what = {"files": sorted(files), "size": self.image_size}
        return digest_of(what | {"is_synthetic": True} if self.is_synthetic else what)

    def _split_identity(self, file: SourceFile) -> list[str]:
        return [file.layout["split"], str(file.rows)] if self.keeps_splits else []

    @property
    def is_known(self) -> bool:
        """Whether the content of all files is known; of doodles still to be drawn it is not."""
        return all(file.digest for file in self.files)

    @property
    def rows(self) -> int:
        """Number of drawings in all files."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def rows_by_class(self) -> dict[str, int]:
        """Return the number of drawings of each class, for files of one class."""
        counts: Counter[str] = Counter()
        for file in self.files:
            if file.class_name is not None:
                counts[file.class_name] += file.rows
        return dict(counts)

    def split_rows(self) -> dict[str, int]:
        """Return the number of drawings of each split that the files have of their own."""
        counts: Counter[str] = Counter()
        for file in self.files:
            if "split" in file.layout:
                counts[file.layout["split"]] += file.rows
        return dict(counts)

    def merged_splits(self) -> dict[str, int]:
        """Return those splits where a dataset splits by pixels and merges them.

        Empty if there is at most one.
        """
        counts = self.split_rows()
        return counts if len(counts) > 1 and not self.keeps_splits else {}


def _identity(file: SourceFile) -> list[str]:
    joined = "" if file.metadata is None else file.metadata.digest
    labels = str(file.layout.get("labels", ""))
    how = [str(file.layout["how"])] if "how" in file.layout else []
    return [file.class_name or "", file.format, file.digest, joined, labels, *how]


def check_side(url: str, side: int, image_size: int) -> None:
    """Raise BadFileError if a file has pictures of another size than the one asked for."""
    if side != image_size:
        raise BadFileError(
            f"{url} holds bitmaps of {side}x{side}; only strokes can be drawn at {image_size}: give "
            f"--image-size {side}, or fit them with --fit pad or crop"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the files of a source are.

    kind       name of the kind of source
    directory  that holds them, or the address of the one file
    folders    of classes: directories and endings, in order of preference
    """

    kind: str
    directory: str
    folders: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        kinds = dict.fromkeys(ending for _, ending in self.folders) or [self.kind]
        return f"{', '.join(kinds)} in {self.directory}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """How the files of one format are read.

    read      opens a file to give square images of this many pixels a side; raises BadFileError if
              it has others
    per_sec   drawings/s of scan and build on a core of an AMD EPYC: bitmaps are read in place,
              pictures decoded, strokes drawn; raw ones are simplified first
    is_drawn  strokes that libcairo draws, so that their ink needs no checks
    is_lines  rows are lines of text, counted from 1 in messages
    """

    read: Callable[[SourceFile, int], Reader]
    per_sec: int
    is_drawn: bool = False
    is_lines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is wanted of a source.

    classes    None: all that it has
    cache_dir  of downloads, doodles, digests and indices
    """

    classes: Sequence[str] | None
    cache_dir: Path
    options: SourceOptions
    progress: Progress | None = None


class SourceKind:
    """One kind of source, asked for by its name or found by what lies at an address.

    prefix   of addresses that are of this kind alone
    endings  of the names of files that are each a source of their own
    title    of a kind whose files have no such ending, in "... is no <title>"
    formats  of its files
    """

    prefix: str = ""
    endings: tuple[str, ...] = ()
    title: str = ""
    formats: Mapping[str, FileFormat] = {}

    def owns(self, names: Names) -> bool:
        """Return whether a directory with these files is of this kind; other files in it do not matter."""
        del names
        return False

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the places of this kind at or below a directory that can be listed.

        names     of the files directly in it
        is_known  another kind was found there: search only near and on this machine
        """
        del directory, names, image_size, is_known
        return []

    def ask(self, directory: str, classes: Names | None, image_size: int) -> Place | None:
        """Return the place of this kind in a directory on the web, which cannot be listed."""
        del directory, classes, image_size
        return None

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the names of the classes that the source has."""
        raise NotImplementedError

    def plan(self, place: Place, request: Request) -> Source:
        """Return what `open` would, without fetching or drawing anything."""
        return self.open(place, request)

    def open(self, place: Place, request: Request) -> Source:
        """Return the source with the files of the classes.

        Raises ValueError if it lacks a class or cannot give what the options ask for,
        BadFileError for a file that is not what its name says.
        """
        raise NotImplementedError
