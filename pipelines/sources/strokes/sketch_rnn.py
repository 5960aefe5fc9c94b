"""Read the drawings of sketch-rnn (.npz) as lines of simplified strokes.

    train, valid, test  (n,) of arrays (k, 3) or (k, 5), as Google's sketchrnn/bee.npz has them;
                        or numbers (n, k, 3) or (n, k, 5), padded; or one array alone
    (k, 3)              dx, dy, and 1 where the pen is lifted behind the point
    (k, 5)              dx, dy, and one of three is 1: pen down, lifted, the end (padding)

The format is that of https://github.com/magenta/magenta/tree/main/magenta/models/sketch_rnn. The
first row moves the pen from the origin to the first point. The sums of the offsets are the points.
A drawing whose points lie within the page of 0 to 255 stays where it is. Any other is moved so that
its least x and y are 0, for the origin is then not the page's. Sizes are then judged as those of
.ndjson are: drawings that fill the page are Google's simplified ones, which are drawn as they are;
others are of another page, and are simplified.

Arrays of arrays are pickles; they are read without unpickling (array_pickle.py).
"""

import io
import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipelines.sources.base import BadFileError
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import FileRanges
from pipelines.sources.strokes.array_pickle import PickledArray, read_pickled
from pipelines.sources.strokes.packed import keep, kept_folder, open_stream
from pipelines.sources.strokes.simplify import LARGEST
from pipelines.store.errors import reading

SPLITS = ("train", "training", "valid", "validation", "val", "test")
_COLUMNS = (3, 5)
# Of an array of arrays, which is held in memory; the largest of Google's has a tenth.
_MOST_BYTES = 1 << 28
_MOST_ROW_BYTES = 1 << 24
_HEADER_BYTES = 1 << 14
_LINES_BYTES = 1 << 20
# Floats below are exact, and as short in JSON as whole numbers.
_EXACT = 2**53


def keep_drawings(url: str, size: int, cache_dir: Path) -> dict[str, Path]:
    """Return where the lines of each split are kept; "" names the only array of a file.

    Raises BadFileError if the file does not hold the drawings of sketch-rnn.
    """
    folder, stem = kept_folder(url, cache_dir), url.rpartition("/")[2].removesuffix(".npz")
    kept: dict[str, Path] = {}
    with reading(url, "an .npz archive"):
        for split, member in drawing_arrays(url, size).items():
            kept[split] = folder / f"{stem}.{split or 'all'}.ndjson"
            keep(kept[split], _lines(url, size, member), url, size, cache_dir)
    return kept


def drawing_arrays(url: str, size: int) -> dict[str, str]:
    """Return the arrays of drawings in an archive, by the names of their splits.

    Raises BadFileError if there are none, or others beside them.
    """
    head = FileRanges(url).read(0, min(size, 512))
    if not head.startswith(b"PK"):
        raise BadFileError(f"{url} is not an .npz archive: {describe_content(head)}")
    with reading(url, "an .npz archive"), zipfile.ZipFile(open_stream(url, size)) as archive:
        shapes = {name: _shape(archive, name, url) for name in archive.namelist()}
    found = {
        name.removesuffix(".npy"): name for name, shape in shapes.items() if _is_drawings(*shape)
    }
    others = [f"{n} {shape} {dtype}" for n, (shape, dtype) in shapes.items() if len(shape) > 1]
    others = [text for text in others if text.split()[0] not in found.values()]
    if len(found) == 1 and not set(found) & set(SPLITS) and not others:
        return {"": next(iter(found.values()))}
    if not found or others or set(found) - set(SPLITS):
        listed = ", ".join(f"{n} {shape} {dtype}" for n, (shape, dtype) in shapes.items())
        raise BadFileError(
            f"{url} holds {listed or 'nothing'}; expected the drawings of sketch-rnn: arrays train, "
            "valid and test of (n,) arrays (k, 3), or one array"
        )
    return found


def _shape(archive: zipfile.ZipFile, name: str, url: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array in an archive."""
    with archive.open(name) as file:
        try:
            shape, _, dtype = _read_header(file)
        except ValueError as error:
            raise BadFileError(f"{url}: {name} in it is no .npy file: {error}") from error
    return shape, dtype


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type of an .npy file, and go to its first byte of data.

    NumPy would read as much as a header says that it has; here it has some thousand bytes.
    """
    head = io.BytesIO(file.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    read = {(1, 0): np.lib.format.read_array_header_1_0}
    header = read.get(version, np.lib.format.read_array_header_2_0)(head)
    file.seek(head.tell())
    return header


def _is_drawings(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    if dtype.hasobject:
        return len(shape) == 1
    return len(shape) == 3 and shape[2] in _COLUMNS and dtype.kind in "iuf"


def _lines(url: str, size: int, member: str) -> Iterator[bytes]:
    """Yield the drawings of an array as lines of .ndjson, some at a time."""
    lines: list[bytes] = []
    length = 0
    with zipfile.ZipFile(open_stream(url, size)) as archive, archive.open(member) as file:
        for offsets in _rows(file, archive.getinfo(member).file_size, f"{url}: {member} in it"):
            lines.append(_line(offsets))
            length += len(lines[-1])
            if length > _LINES_BYTES:
                yield b"".join(lines)
                lines, length = [], 0
    yield b"".join(lines)


def _rows(file: Any, size: int, where: str) -> Iterable[Any]:
    """Return the rows of an array: PickledArray or what is in place of one, or numbers (k, m)."""
    shape, is_fortran, dtype = _read_header(file)
    if not dtype.hasobject:
        return _padded_rows(file, shape, is_fortran, dtype, where)
    if size > _MOST_BYTES:
        raise BadFileError(f"{where} has {size} bytes of pickled arrays, more than {_MOST_BYTES}")
    found = read_pickled(file, where)
    if not isinstance(found.content, list) or shape != (len(found.content),):
        raise BadFileError(f"{where} has not the {shape[0]} drawings that its header says")
    return found.content


def _padded_rows(
    file: BinaryIO, shape: tuple[int, ...], is_fortran: bool, dtype: np.dtype[Any], where: str
) -> Iterator[npt.NDArray[Any]]:
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    if is_fortran or row_bytes > _MOST_ROW_BYTES:
        raise BadFileError(
            f"{where} is {shape} {dtype} {'in Fortran order' if is_fortran else 'too large a row'}: "
            "save it as np.ascontiguousarray, a row a drawing"
        )
    for row in range(shape[0]):
        content = file.read(row_bytes)
        if len(content) != row_bytes:
            raise BadFileError(f"{where} ends after {row} of {shape[0]} drawings: it is truncated")
        offsets = np.frombuffer(content, dtype).reshape(shape[1:])
        if shape[2] == 3:
            used = np.flatnonzero(offsets.any(axis=1))
            offsets = offsets[: used[-1] + 1 if len(used) else 0]
        yield offsets


def _line(row: Any) -> bytes:
    """Return a drawing as a line; what is none is text in its place, a problem of its row."""
    try:
        if not isinstance(row, np.ndarray | PickledArray):
            raise ValueError(f"a {type(row).__name__}, expected an array (k, 3) or (k, 5)")
        drawing: Any = strokes_of(row.numbers() if isinstance(row, PickledArray) else row)
    except ValueError as error:
        drawing = str(error)
    return json.dumps({"drawing": drawing}, separators=(",", ":")).encode() + b"\n"


def strokes_of(offsets: npt.NDArray[Any]) -> list[Any]:
    """Return the strokes [[x, ...], [y, ...]] of offsets (k, 3) or (k, 5).

    Raises ValueError if they are of another shape or say nothing of the pen.
    """
    if offsets.ndim != 2 or offsets.shape[1] not in _COLUMNS:
        raise ValueError(f"an array {offsets.shape}, expected (k, 3) or (k, 5)")
    pen = offsets[:, 2:]
    if not np.isin(pen, (0, 1)).all() or (pen.shape[1] == 3 and (pen.sum(axis=1) != 1).any()):
        raise ValueError("states of the pen other than 0 and 1")
    if pen.shape[1] == 3:
        ends = np.flatnonzero(pen[:, 2])
        offsets = offsets[: ends[0]] if len(ends) else offsets
        lifted = offsets[:, 3]
    else:
        lifted = offsets[:, 2]
    if not len(offsets):
        return []
    points = offsets[:, :2].astype(np.float64).cumsum(axis=0)
    if points.min() < 0 or points.max() > LARGEST:
        points -= points.min(axis=0)
    if np.abs(points).max() < _EXACT and not (points % 1).any():
        points = points.astype(np.int64)
    strokes = np.split(points, np.flatnonzero(lifted) + 1)
    return [stroke.T.tolist() for stroke in strokes if len(stroke)]
