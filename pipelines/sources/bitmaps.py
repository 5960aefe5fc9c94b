"""Read Google's numpy_bitmap files: an .npy header, then one byte per pixel.

Google wrote headers of 80 bytes, NumPy today writes 128: the length is read, never assumed.
What cannot be read for certain is refused: objects are never unpickled, a file that is shorter
or longer than its header says is not guessed at. Three things are put right, and counted:
other shapes of the same pixels (n, 1, 28, 28), wider integers whose values are 0..255, and truth
values, of which true is ink.
"""

import ast
import functools
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.sources.base import BadFileError, Reader, SourceFile, check_side
from pipelines.sources.files import FileRanges

_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 4_096
# NumPy's own: an index has 64 bits.
_MAX_EXTENT = 2**63
# Of a header that cannot be read, and of pixels to say what their range is.
_SHOWN_HEADER_BYTES = 80
_SHOWN_ROWS = 1_000
_PICKLE = "a Python pickle, which is never opened"
# How other kinds of files begin.
_KINDS = {
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ\x00": "compressed with xz: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"PK": "a zip archive, as .npz is: unpack it, or take Google's .npy or .ndjson of the class",
    b"\x89HDF\r\n\x1a\n": "HDF5: save its drawings with np.save, (n, 784) uint8",
    b"PAR1": "Parquet: name it .parquet",
    b"ARROW1": "an Arrow file: write Parquet with to_parquet",
    _MAGIC: "an .npy file: name it .npy",
    b"\x89PNG": "a PNG picture: pictures are read from folders, one a class",
    b"\xff\xd8\xff": "a JPEG picture: pictures are read from folders, one a class",
    b"GIF8": "a GIF picture: pictures are read from folders, one a class",
    b"\x00\x05\x16\x07": "what macOS keeps beside a file of its name without ._: take that one",
    b"\x80": _PICKLE,
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` where it came from",
    b"<": "a web page, probably of a sign-in; download the file itself",
}
_UTF16_BRACES = (b"{\0", b"\0{", b"[\0", b"\0[")
# A 64-row block of which at least this number of rows is wanted is read as a whole.
_BLOCK_ROWS = 64
_DENSE_ROWS = 8


def inspect_npy(url: str, size: int) -> Mapping[str, Any]:
    """Return what the header says: offset, rows, side (pixels), dtype, repair (or "").

    Raises BadFileError if the file is not an array of square 8-bit drawings of exactly the
    size its header announces.
    """
    head = FileRanges(url).read(0, min(size, _MAX_HEADER_BYTES))
    if not head.startswith(_MAGIC):
        raise BadFileError(f"{url} is not an .npy file: {describe_content(head)}")
    offset, header = _parse_header(url, head)
    dtype, shape = _check_header(url, header)
    if dtype.kind == "f":
        raise BadFileError(_describe_floats(url, offset, size, dtype))
    side = square_side(url, shape)
    expected = offset + shape[0] * side * side * dtype.itemsize
    if size != expected:
        whole = max(0, size - offset) // (side * side * dtype.itemsize)
        raise BadFileError(
            f"{url} should have {expected} bytes by its header ({shape[0]} drawings), it has {size}"
            f" ({whole} whole drawings): it is truncated or damaged, fetch it again"
        )
    repair = "" if len(shape) == 2 or shape[1:] == (side, side) else f"shape {shape[1:]}"
    if dtype != np.uint8:
        repair = f"{dtype.name} pixels"
    return {
        "offset": offset,
        "rows": shape[0],
        "side": side,
        "dtype": dtype.str,
        "repair": repair,
    }


def describe_content(head: bytes) -> str:
    """Say what a file that is not what it should be seems to be."""
    text = head[:512].lstrip()
    for magic, what in _KINDS.items():
        if head.startswith(magic) or text.startswith(magic):
            return f"it is {what}"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    if b"annex/objects" in text:
        return "it is a git-annex pointer; run `git annex get` where it came from"
    if b"cnumpy" in text:
        return f"it is {_PICKLE}"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or head[:2] in _UTF16_BRACES:
        return "it is text in UTF-16; save it as UTF-8"
    if text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return "it is one JSON array; write an object a line (`jq -c '.[]'` does)"
    return f"it begins with {head[:16]!r}" if head else "it is empty"


def open_bitmaps(file: SourceFile, image_size: int) -> "BitmapReader":
    """Return the reader of an .npy file; raise BadFileError if its bitmaps have another size."""
    check_side(file.url, int(file.layout["side"]), image_size)
    return _cached_reader(file.url, file.bytes, file.digest, tuple(file.layout.items()))


@functools.lru_cache(maxsize=400)
def _cached_reader(
    url: str, size: int, digest: str, layout: tuple[tuple[str, Any], ...]
) -> "BitmapReader":
    """Keep files open: one shard of all classes reads from 345 files."""
    del size, digest  # of an older file at this address
    return BitmapReader(url, dict(layout))


class BitmapReader(Reader):
    """Reads the drawings of one .npy file, or of our own blocks of pixels."""

    def __init__(self, url: str, layout: Mapping[str, Any]) -> None:
        """Open the file; `layout` is what `inspect_npy` returned."""
        self.url = url
        self.side = int(layout["side"])
        self.dtype = np.dtype(layout["dtype"])
        self.offset = int(layout["offset"])
        self.row_bytes = self.side * self.side * self.dtype.itemsize
        self.ranges = FileRanges(url)

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop); label is 0."""
        content = self.ranges.read(
            self.offset + start * self.row_bytes, (stop - start) * self.row_bytes
        )
        images = self._pixels(np.frombuffer(content, np.uint8))
        return Drawings(images=images, label=np.zeros(len(images), np.int64))

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these ascending rows.

        Blocks of which many rows are wanted are read whole, one after the other into one
        buffer, and picked from it in one go; far rows are read alone.
        """
        blocks = rows // _BLOCK_ROWS
        first = np.flatnonzero(np.diff(blocks, prepend=-1))
        counts = np.diff(first, append=len(rows))
        dense = counts >= _DENSE_ROWS
        starts = np.where(dense, rows[first], 0)
        spans = np.where(dense, rows[first + counts - 1] + 1 - starts, 0)
        bases = np.cumsum(spans) - spans
        alone = rows[np.repeat(~dense, counts)]
        buffer = np.empty((int(spans.sum()) + len(alone), self.row_bytes), np.uint8)
        whole = zip(
            starts[dense].tolist(), spans[dense].tolist(), bases[dense].tolist(), strict=True
        )
        for start, span, base in whole:
            self.ranges.read_into(self.offset + start * self.row_bytes, buffer[base : base + span])
        if len(alone):
            offsets = (self.offset + alone * self.row_bytes).tolist()
            self.ranges.read_many_into(offsets, buffer[len(buffer) - len(alone) :])
        places = np.repeat(bases - starts, counts) + rows
        places[np.repeat(~dense, counts)] = np.arange(len(buffer) - len(alone), len(buffer))
        return self._pixels(buffer)[places]

    def _pixels(self, content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        pixels = content.reshape(-1).view(self.dtype).reshape(-1, self.side, self.side)
        if self.dtype == np.uint8:
            return pixels
        if self.dtype == np.bool_:
            return self._from_truth(pixels)
        if pixels.size and (pixels.min() < 0 or pixels.max() > 255):
            found = f"{pixels.min()} to {pixels.max()}"
            raise BadFileError(f"{self.url} has pixels of {found}, expected 0 to 255")
        return pixels.astype(np.uint8)

    def _from_truth(self, pixels: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """Return 255 for true; other bytes than NumPy's 0 and 1 are no truth values."""
        values = pixels.view(np.uint8)
        if values.size and values.max() > 1:
            raise BadFileError(f"{self.url} has truth values of {values.max()}, expected 0 or 1")
        return values * np.uint8(255)


def _describe_floats(url: str, offset: int, size: int, dtype: np.dtype[Any]) -> str:
    """Say what the values of a file are."""
    length = min(size - offset, _SHOWN_ROWS * 784 * dtype.itemsize)
    content = FileRanges(url).read(offset, length - length % dtype.itemsize)
    return f"{url} holds {describe_floats(np.frombuffer(content, dtype))}"


def describe_floats(values: npt.NDArray[Any]) -> str:
    """Say what values are: of 0 to 1 and 0 to 255 it is known how to save them."""
    found = f"{values.dtype.name} values"
    if not values.size or not np.isfinite(values).all():
        return f"{found}, not all of them numbers: expected integers 0 to 255"
    low, high = float(values.min()), float(values.max())
    how = "save x.astype(np.uint8)"
    if high <= 1:
        how = "save (255 * x).round().astype(np.uint8)"
    if low < 0 or high > 255:
        how = "scale them to it, and save x.round().astype(np.uint8)"
    return f"{found} of {low:g} to {high:g}, expected integers 0 to 255: {how}"


def _parse_header(url: str, head: bytes) -> tuple[int, dict[str, Any]]:
    """Return where the pixels begin and the header as a dict of literals."""
    try:
        major = head[6]
        (length,) = struct.unpack_from("<H" if major == 1 else "<I", head, 8)
        start = 10 if major == 1 else 12
        text = head[start : start + length].decode("latin1")
        # NumPy under Python 2 wrote (100L, 784L).
        header = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text))
        if set(header) != {"descr", "fortran_order", "shape"}:
            raise ValueError(f"unexpected keys {sorted(header)}")
    except (ValueError, SyntaxError, IndexError, struct.error, TypeError, MemoryError) as error:
        shown = head[:_SHOWN_HEADER_BYTES]
        raise BadFileError(
            f"{url} has a damaged .npy header: {error}; it begins with {shown!r}: fetch it again"
        ) from error
    return start + length, header


def _check_header(url: str, header: dict[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        dtype = np.dtype(header["descr"])
    except (TypeError, ValueError) as error:
        raise BadFileError(
            f"{url} has a damaged .npy header: {error}; it says {header}: fetch it again"
        ) from error
    shape = header["shape"]
    if not isinstance(shape, tuple):
        raise BadFileError(f"{url} has the shape {shape!r}, expected (drawings, 784)")
    if dtype.hasobject:
        raise BadFileError(f"{url} holds pickled Python objects, which sketchmill never opens")
    if dtype.names:
        raise BadFileError(
            f"{url} holds records of {', '.join(dtype.names)}, expected drawings: save the field "
            "of the pixels alone, (n, 784) uint8"
        )
    if dtype.kind not in "iufb":
        raise BadFileError(f"{url} holds {dtype.name} values, expected integers 0 to 255")
    if header["fortran_order"] and len(shape) > 1:
        raise BadFileError(f"{url} is in Fortran order; save it with np.ascontiguousarray")
    is_shape = all(type(extent) is int and 0 <= extent < _MAX_EXTENT for extent in shape)
    if not is_shape or len(shape) < 2:
        raise BadFileError(f"{url} has the shape {shape}, expected (drawings, 784)")
    return dtype, shape


def square_side(url: str, shape: tuple[int, ...]) -> int:
    """Return the pixels a side of (n, 784), (n, 28, 28) or the same with axes of length 1."""
    extents = [extent for extent in shape[1:] if extent != 1]
    if len(extents) == 1:
        side = round(extents[0] ** 0.5)
        if side * side == extents[0]:
            return side
    if len(extents) == 2 and extents[0] == extents[1]:
        return extents[0]
    raise BadFileError(f"{url} has the shape {shape}, expected square drawings, as (n, 784)")
