"""Read a Parquet column of pixels: lists of numbers, or bytes that are no picture.

    [784], [28][28], [28][28][1]  whole numbers 0 to 255, as an .npy file has them
    784 bytes                     a perfect square of them, without a picture's magic number

Floats are refused as those of .npy files are. Truth values and wider integers are converted, and
counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.fitting import REPAIRS, Fit, fit_drawing
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.drawings.parquet import bytes_field
from pipelines.sources.base import BadFileError
from pipelines.sources.bitmaps import describe_floats, square_side
from pipelines.sources.tables.columns import is_fixed, is_list, storage_type

Decoded = tuple[
    npt.NDArray[np.uint8], npt.NDArray[np.object_] | None, npt.NDArray[np.object_] | None
]
RAW_REPAIR = "bytes as pixels"
_MAX_VALUE = 255
# How pictures begin whose size may happen to be a square.
_MAGICS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0c")


def read_pixels(
    column: pa.Array | pa.ChunkedArray, side: int, limits: Limits = DEFAULT, fit: Fit = None
) -> Decoded:
    """Return the pixels (n, side, side) of a column of numbers or bytes, problems and repairs.

    These are None where no row has one. A row with a null, of lists of several lengths, of values
    beyond 0 to 255 or of another size has a problem, unless it is to be fitted.
    """
    array, is_raw = _as_lists(column)
    pixels = _uniform(array)
    if pixels is not None:
        return _drawings(pixels, side, limits, fit, is_raw)
    images = np.zeros((len(array), side, side), np.uint8)
    notes = np.full((2, len(array)), None, object)
    for row in range(len(array)):
        one = _uniform(array.slice(row, 1))
        if one is None:
            what = "null" if array[row].as_py() is None else "no rows of numbers of one length"
            notes[0, row] = f"the drawing is {what}"
            continue
        image, *found = _drawings(one, side, limits, fit, is_raw)
        images[row] = image[0]
        notes[:, row] = [None if note is None else note[0] for note in found]
    return images, notes[0], notes[1]


def shape_of(value: pa.Array, url: str) -> tuple[int, int] | None:
    """Return height and width of a column of one drawing, None if it is null or has no shape.

    Raises BadFileError for floats, and for a shape that is no drawing's.
    """
    pixels = _uniform(_as_lists(value)[0])
    if pixels is None:
        return None
    if pixels.dtype.kind == "f":
        raise BadFileError(f"{url} holds {describe_floats(pixels.reshape(-1))}")
    if (shape := _plane(pixels.shape[1:])) is None:
        square_side(url, pixels.shape)
    return shape


def raw_side(values: Sequence[pa.Array]) -> int | None:
    """Return the pixels a side if these values of bytes are all pixels, None otherwise.

    All have the length of the same square, and none begins as a picture does.
    """
    contents = [v for array in values for v in bytes_field(array).to_pylist() if v is not None]
    lengths = set(map(len, contents))
    if len(lengths) != 1 or any(content.startswith(_MAGICS) for content in contents):
        return None
    shape = _plane((lengths.pop(),))
    return shape[0] if shape and shape[0] > 1 else None


def _as_lists(column: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, bool]:
    """Return a column as lists of numbers, and whether it holds bytes."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if is_list(column.type):
        return column, False
    values = bytes_field(column)
    validity, offsets, content = values.buffers()
    size = 0 if content is None else content.size
    numbers = pa.Array.from_buffers(pa.uint8(), size, [None, content])
    lists = pa.Array.from_buffers(
        pa.list_(pa.uint8()),
        len(values),
        [validity, offsets],
        offset=values.offset,
        children=[numbers],
    )
    return lists, True


def _uniform(array: pa.Array) -> npt.NDArray[Any] | None:
    """Return lists within lists as (n, ...), None if they have nulls or several lengths."""
    shape = [len(array)]
    while is_list(array.type):
        if array.null_count:
            return None
        if is_fixed(array.type):
            extent, array = array.type.list_size, array.flatten()
        else:
            offsets = array.offsets.to_numpy()
            extent = int(offsets[1] - offsets[0]) if len(array) else 0
            if (np.diff(offsets) != extent).any():
                return None
            array = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        shape.append(extent)
        array = array.storage if storage_type(array.type) != array.type else array
    if array.null_count:
        return None
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _plane(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return height and width of a drawing of this shape: a square's number, or two extents.

    Extents of 1 do not count.

    >>> _plane((784,)), _plane((1, 28, 28)), _plane((20, 30)), _plane((28, 28, 3))
    ((28, 28), (28, 28), (20, 30), None)
    """
    extents = [extent for extent in shape if extent != 1]
    if len(extents) == 1:
        side = round(extents[0] ** 0.5)
        return (side, side) if side * side == extents[0] and side else None
    if len(extents) == 2 and all(extents):
        return extents[0], extents[1]
    return None


def _drawings(
    pixels: npt.NDArray[Any], side: int, limits: Limits, fit: Fit, is_raw: bool
) -> Decoded:
    """Return pixels (n, ...) of one shape as drawings."""
    rows, shape = len(pixels), pixels.shape[1:]
    images = np.zeros((rows, side, side), np.uint8)
    plane = _plane(shape)
    if problem := _shape_problem(shape, plane, pixels.dtype, side, limits, fit):
        return images, np.full(rows, problem, object), None
    assert plane is not None
    pixels = pixels.reshape(rows, *plane)
    problems = _value_problems(pixels)
    kept = [row for row in range(rows) if row not in problems]
    if pixels.dtype == np.bool_:
        values = pixels * np.uint8(_MAX_VALUE)
    else:
        values = pixels.astype(np.uint8, copy=False)
    if plane == (side, side):
        images[kept] = values[kept]
    else:
        for row in kept:
            images[row] = fit_drawing(values[row], side, fit)
    repair = _repair(pixels.dtype, shape, plane, side, fit, is_raw)
    noted = np.full(rows, repair, object) if repair else None
    return images, _objects(problems, rows), noted


def _shape_problem(
    shape: tuple[int, ...],
    plane: tuple[int, int] | None,
    dtype: np.dtype[Any],
    side: int,
    limits: Limits,
    fit: Fit,
) -> str | None:
    if dtype.kind == "f":
        return f"the drawing holds {dtype.name} values, expected integers 0 to 255"
    if plane is None:
        return f"the drawing has the shape {shape}, expected {side}x{side} pixels"
    if plane != (side, side) and not fit:
        return f"the drawing has {plane[0]}x{plane[1]} pixels, expected {side}x{side}"
    return limits.problem("max_pixels", plane[0] * plane[1])


def _value_problems(pixels: npt.NDArray[Any]) -> Mapping[int, str]:
    if pixels.dtype in (np.uint8, np.bool_) or not len(pixels):
        return {}
    low, high = pixels.min(axis=(1, 2)), pixels.max(axis=(1, 2))
    return {
        row: f"the drawing has pixels of {low[row]} to {high[row]}, expected 0 to 255"
        for row in np.flatnonzero((low < 0) | (high > _MAX_VALUE)).tolist()
    }


def _repair(
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    plane: tuple[int, int],
    side: int,
    fit: Fit,
    is_raw: bool,
) -> str:
    notes = [RAW_REPAIR] if is_raw else []
    if dtype != np.uint8:
        notes.append(f"{dtype.name} pixels")
    elif len(shape) > 1 and shape != plane:
        notes.append(f"shape {shape}")
    if fit is not None and plane != (side, side):
        notes.append(REPAIRS[fit])
    return ", ".join(notes)


def _objects(texts: Mapping[int, str], rows: int) -> npt.NDArray[np.object_] | None:
    if not texts:
        return None
    found = np.full(rows, None, object)
    found[list(texts)] = list(texts.values())
    return found
