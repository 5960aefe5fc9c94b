"""Read a Parquet column of strokes to the same drawings as a line of .ndjson gives.

Google's drawings on the Hugging Face Hub are lists of strokes {x, y}, raw ones with t; older
versions of `datasets` wrote {x, y, t} of lists of lists. Columns of lists of lists and of JSON text
hold what the key `drawing` of a line does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.sources.base import BadFileError
from pipelines.sources.strokes.cairo import render_drawings
from pipelines.sources.strokes.formats import StrokeDrawing, notes_of, unread
from pipelines.sources.strokes.reader import FIRST_LINES, reading_of
from pipelines.sources.strokes.simplify import GOOGLE, Points, Reading, check_points, read_strokes
from pipelines.sources.tables.columns import STROKE_FIELDS, is_list
from pipelines.sources.tables.labels import is_text
from pipelines.sources.tables.pixels import Decoded

_Array = pa.Array | pa.ChunkedArray
_Get = Callable[[int], Any]


def draw_strokes(
    url: str, column: _Array, size: int, reading: Reading, limits: Limits = DEFAULT
) -> Decoded:
    """Return the drawings (n, size, size) of a column of strokes, problems and repairs.

    Raises BadFileError where points are written in another way than in the first rows.
    """
    drawings: list[StrokeDrawing] = []

    def strokes() -> Iterator[list[Points]]:
        for one in parse_column(column, reading, limits):
            if one.written.points not in (None, reading.points):
                raise BadFileError(
                    f"{url} has points as {one.written.points} in some rows and as "
                    f"{reading.points} in the first ones (lists: [[x, ...], [y, ...]], pairs: "
                    "[[x, y], ...]), and strokes of two points can be read as both: write all rows "
                    "in one way"
                )
            yield one.written.strokes
            drawings.append(replace(one, written=replace(one.written, strokes=[])))

    images = render_drawings(strokes(), size)
    notes = notes_of(drawings)
    return images, notes.get("problem"), notes.get("repair")


def find_reading(url: str, name: str, column: _Array, limits: Limits) -> Reading:
    """Return how the drawings of a file are read, by its first rows, as of .ndjson by its lines.

    Raises BadFileError if none of them is a drawing.
    """
    drawings = list(parse_column(column.slice(0, FIRST_LINES), GOOGLE, limits))
    good = [one.written for one in drawings if one.problem is None]
    if drawings and not good:
        raise BadFileError(
            f"{url}: the column {name!r} has no drawing in the first {len(drawings)} rows: "
            f"{drawings[0].problem}"
        )
    return Reading(**reading_of(good)["reading"])


def parse_column(
    column: _Array, reading: Reading = GOOGLE, limits: Limits = DEFAULT
) -> Iterator[StrokeDrawing]:
    """Yield the drawing of each row, one with a problem where it cannot be read."""
    for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if is_text(array.type):
            array = array.cast(pa.large_string())
        counts, get = _point_counts(array), _getter(array)
        for row, count in enumerate(counts.tolist()):
            yield _drawing(array, row, count, get, reading, limits)


def _drawing(
    array: pa.Array, row: int, count: int, get: _Get, reading: Reading, limits: Limits
) -> StrokeDrawing:
    try:
        if is_text(array.type):
            if problem := limits.problem("max_line_bytes", count):
                raise ValueError(problem)
        else:
            check_points(count, limits)
        return StrokeDrawing(written=read_strokes(get(row), reading, limits))
    except ValueError as error:
        return unread(str(error))


def _point_counts(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return the number of points of each row, before any is taken out; of text, of its bytes."""
    if is_text(array.type):
        lengths = pc.call_function("binary_length", [array])
        return lengths.fill_null(0).to_numpy().astype(np.int64)
    ends = np.arange(len(array) + 1)
    while is_list(array.type) or pa.types.is_struct(array.type):
        if pa.types.is_struct(array.type):
            array = array.flatten()[array.type.get_field_index("x")]
            continue
        offsets = array.offsets.to_numpy()
        ends, array = (offsets - offsets[0])[ends], _values(array, offsets)
    return np.diff(ends).astype(np.int64)


def _values(array: pa.Array, offsets: npt.NDArray[Any]) -> pa.Array:
    return array.values.slice(offsets[0], offsets[-1] - offsets[0])


def _getter(array: pa.Array) -> _Get:
    """Return what gives a row as JSON would, {x, y} as [x, y], quickly where there are no nulls."""
    if is_list(array.type) and not array.null_count:
        return _list_getter(array)
    if pa.types.is_struct(array.type) and not array.null_count:
        return _struct_getter(array)
    return lambda row: array[row].as_py()


def _list_getter(array: pa.Array) -> _Get:
    offsets = array.offsets.to_numpy()
    values = _values(array, offsets)
    starts = (offsets - offsets[0]).tolist()
    if is_list(values.type) or pa.types.is_struct(values.type):
        get = _getter(values)
        return lambda row: [get(i) for i in range(starts[row], starts[row + 1])]
    if values.null_count:
        return lambda row: array[row].as_py()
    numbers = values.to_numpy(zero_copy_only=False)
    return lambda row: numbers[starts[row] : starts[row + 1]].tolist()


def _struct_getter(array: pa.Array) -> _Get:
    """Return what gives [x, y, t] of a stroke, or a list of such of lists of lists."""
    names = [name for name in STROKE_FIELDS if array.type.get_field_index(name) >= 0]
    fields = [array.flatten()[array.type.get_field_index(name)] for name in names]
    parts = [_getter(field) for field in fields]
    if not is_list(fields[0].type.value_type):
        return lambda row: [part(row) for part in parts]

    def strokes(row: int) -> list[list[Any]]:
        lists: Sequence[list[Any]] = [part(row) for part in parts]
        if len(set(map(len, lists))) > 1:
            raise ValueError(f"{', '.join(names)} have {[*map(len, lists)]} strokes")
        return [list(stroke) for stroke in zip(*lists, strict=True)]

    return strokes
