"""What a source is: files of drawings with known row counts and known content.

A file is read by a reader, made anew in whichever process does the work; the file itself is a
small record that travels. `fingerprint` says what the drawings are, not where they lie: a local
copy of Google's files has the fingerprint of the files it was copied from.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.store.errors import BadFileError as BadFileError
from pipelines.store.manifest import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source.

    url         a local path or a URL
    format      how to read it: npy, simplified, raw, binary, parquet, tfds
    class_name  of all its drawings; None if every row says its own
    rows        number of drawings
    bytes       size
    digest      "sha256:..." of the content, or "etag:..." where only the server knows it
    version     changes when somebody writes to the file; "" if nobody can tell
    layout      what the reader needs to know: offsets, an index of lines, column names
    metadata    the file whose line i describes row i, if metadata are joined
    columns     the metadata columns to read; no other one is looked at
    is_direct   rows can be read in place, at no cost of decoding
    limits      what of it is too large to be read
    secrets     what to ask a server with, as Authorization and as query; no text shows them
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


class Reader(Protocol):
    """Reads rows of one file; `label` is 0 where the file has one class."""

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop), one a row of the file, with `problem` and `repair`.

        A row that cannot be read has a problem. Raises BadFileError where that cannot be told
        row by row: the file is damaged or another kind of file.
        """
        ...

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows, which ascend; only direct files need it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files of drawings.

    class_names   what the labels of files with several classes mean; else the files' classes
    image_size    pixels a side of what the readers give
    is_synthetic  whether a program drew them: everything made of them says so
    bad_files     left out, with the reason
    repairs       what was put right, with the number of files
    """

    name: str
    class_names: tuple[str, ...]
    files: tuple[SourceFile, ...]
    image_size: int = 28
    is_synthetic: bool = False
    bad_files: tuple[tuple[str, str], ...] = ()
    repairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of all files: what is in them, not where they lie.

        A program's drawings are another source than a copy of them that nobody calls synthetic.
        """
        what = {"files": sorted(map(_identity, self.files)), "size": self.image_size}
        return digest_of(what | {"is_synthetic": True} if self.is_synthetic else what)

    @property
    def is_known(self) -> bool:
        """Whether the content of all files is known; of doodles that are to be drawn it is not."""
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

    def merged_splits(self) -> dict[str, int]:
        """Return the number of drawings of each split that the files had of their own.

        A dataset splits drawings by their pixels, so that these are merged. Empty if there is
        one at most.
        """
        counts: Counter[str] = Counter()
        for file in self.files:
            if "split" in file.layout:
                counts[file.layout["split"]] += file.rows
        return dict(counts) if len(counts) > 1 else {}


def _identity(file: SourceFile) -> list[str]:
    joined = "" if file.metadata is None else file.metadata.digest
    how = str(file.layout.get("labels", ""))
    return [file.class_name or "", file.format, file.digest, joined, how]
