"""Find and open the files of MNIST's format IDX: images and labels of each split, plain or gzipped.

    train-images-idx3-ubyte    train-labels-idx1-ubyte           MNIST and its like; t10k is the test
    train-images.idx3-ubyte.gz                                   as some copies are named
    emnist-letters-train-images-idx3-ubyte                       EMNIST's, of several sets
    train-labels-idx1-short                                      this program's, above 256 classes

    00 00 type dimensions | each extent as big-endian uint32 | values        (LeCun et al. 1998)

What is gzipped is unpacked once into the cache, no further than its header says.
"""

import gzip
import math
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from pipelines.processes.progress import doing
from pipelines.sources.base import BadFileError
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import (
    DANGLING,
    FileRanges,
    first_line,
    join_url,
    list_files,
    why_absent,
)
from pipelines.sources.pieces import PIECE_BYTES, PieceFile

_IMAGES = re.compile(r"(.+)[-._]images[-._]idx3[-._]ubyte(\.gz)?")
_LABELS = re.compile(r"(.+)[-._]labels[-._]idx1[-._](?:ubyte|short|int)(\.gz)?")
_GZIP = b"\x1f\x8b"
# Deflate's 258 bytes in two bits.
_MOST_RATIO = 1_032
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Images and labels of one split: address and size.

    stem  what the names of both begin with
    """

    stem: str
    images: tuple[str, int]
    labels: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an IDX file says of itself.

    dtype  NumPy's type of a value
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def offset(self) -> int:
        """Where the values begin."""
        return 4 + 4 * len(self.shape)

    @property
    def bytes(self) -> int:
        """The size of the whole file."""
        return self.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize


def is_images(name: str) -> bool:
    """Return whether a file is one of images by its name."""
    return _IMAGES.fullmatch(name) is not None


def find_pairs(directory: str) -> list[Pair]:
    """Return the splits of a directory in order of names.

    Raises BadFileError if one half of a split is not there, ValueError if it is there twice.
    """
    names = list_files(directory)
    images, labels = _by_stem(directory, names, _IMAGES), _by_stem(directory, names, _LABELS)
    if alone := sorted(images.keys() ^ labels.keys()):
        has, lacks = ("images", "labels") if alone[0] in images else ("labels", "images")
        raise BadFileError(
            f"{directory} has {has} of {alone[0]!r} and no {lacks}: {alone[0]}-{lacks}-idx... is "
            "missing beside it, fetch it too"
        )
    return [Pair(stem=stem, images=images[stem], labels=labels[stem]) for stem in sorted(images)]


def _by_stem(
    directory: str, names: Mapping[str, int], pattern: re.Pattern[str]
) -> dict[str, tuple[str, int]]:
    """Return address and size of each file that matches; of a file and its .gz the unpacked one."""
    found: dict[str, str] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match is None or (match[2] and name.removesuffix(".gz") in names):
            continue
        if match[1] in found:
            raise ValueError(f"{directory} has {found[match[1]]} and {name}: leave one of them")
        found[match[1]] = name
    return {stem: (join_url(directory, name), names[name]) for stem, name in found.items()}


def open_content(url: str, size: int, dimensions: int) -> tuple[Header, BinaryIO]:
    """Return the header of a file, and its content behind it.

    Raises BadFileError if it is no IDX of so many dimensions or its size is another than it says,
    which only reading tells of one that is gzipped.
    """
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    file = PieceFile(url, size)
    is_packed = file.at(0, min(2, size)) == _GZIP
    content = cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb") if is_packed else file)
    try:
        head = content.read(4 + 4 * dimensions)
    except _DAMAGED as error:
        raise _unpackable(url, error) from error
    header = _parse(url, head, dimensions)
    most = size * _MOST_RATIO if is_packed else size
    if header.bytes > most or (not is_packed and header.bytes != size):
        raise BadFileError(
            f"{url} should have {header.bytes} bytes by its header, "
            f"{' x '.join(map(str, header.shape))}, it has {size}"
            f"{' packed' if is_packed else ''}: it is truncated or damaged, fetch it again"
        )
    return header, content


def unpacked(url: str, size: int, digest: str, dimensions: int, cache_dir: Path) -> Path | None:
    """Return where a gzipped file is unpacked to in the cache, None if it is a plain one.

    Raises BadFileError if it is damaged, or of another size than its header says.
    """
    if FileRanges(url).read(0, min(2, size)) != _GZIP:
        return None
    target = cache_dir / "idx" / f"{digest.replace(':', '-')}.idx"
    if target.is_file():
        return target
    header, content = open_content(url, size, dimensions)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        doing("source", f"unpacking {url.rpartition('/')[2]}"),
        tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as sink,
    ):
        try:
            sink.write(_head_of(header))
            for piece in pieces_of(url, header, content):
                sink.write(piece)
            sink.close()
            Path(sink.name).replace(target)
        except BaseException:
            Path(sink.name).unlink(missing_ok=True)
            raise
    return target


def pieces_of(url: str, header: Header, content: BinaryIO) -> Iterator[bytes]:
    """Yield the values behind a header as bytes, whole values a piece.

    Raises BadFileError if they are more or fewer than the header says.
    """
    left = header.bytes - header.offset
    try:
        while left:
            piece = content.read(min(left, PIECE_BYTES))
            if not piece:
                raise EOFError(f"{left} bytes are missing")
            left -= len(piece)
            yield piece
        if content.read(1):
            raise BadFileError(f"{url} goes on behind what its header says: it is damaged")
    except _DAMAGED as error:
        raise _unpackable(url, error) from error


def _parse(url: str, head: bytes, dimensions: int) -> Header:
    kind = "images" if dimensions == 3 else "labels"
    if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4 or head[2] not in _TYPES:
        raise BadFileError(f"{url} is no IDX file of {kind}: {describe_content(head)}")
    if head[3] != dimensions or (dimensions == 3 and head[2] != 0x08):
        expected = "00000803" if dimensions == 3 else "00000801, or another type of whole numbers"
        raise BadFileError(
            f"{url} begins with {head[:4].hex()}, expected that of {kind}, {expected}: images and "
            "labels may have changed their names"
        )
    if len(head) < 4 + 4 * dimensions:
        raise BadFileError(f"{url} ends within its header: fetch it again")
    return Header(dtype=_TYPES[head[2]], shape=struct.unpack(f">{dimensions}I", head[4:]))


def _head_of(header: Header) -> bytes:
    code = next(code for code, dtype in _TYPES.items() if dtype == header.dtype)
    dimensions = len(header.shape)
    return struct.pack(f">BBBB{dimensions}I", 0, 0, code, dimensions, *header.shape)


def _unpackable(url: str, error: Exception) -> BadFileError:
    return BadFileError(
        f"{url} cannot be unpacked: {first_line(error)}: it is truncated or damaged, fetch it again"
    )
