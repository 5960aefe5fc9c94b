"""Find the column of drawings in a Parquet file, and what it holds, by Arrow's types.

    pictures  encoded: binary, or Hugging Face's {bytes, path}
    pixels    lists of numbers: [784], [28][28] or [28][28][1], of fixed or any length, also as
              Array2D of Hugging Face or a tensor of Arrow; or 784 bytes that are no picture
    strokes   of Google's Quick, Draw!, in a column `drawing`: a list of {x, y} and perhaps t, or
              {x, y} of lists of lists, as Hugging Face has them; lists of lists; JSON text

Pictures take precedence over the others.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.drawings.parquet import bytes_field
from pipelines.sources.base import BadFileError
from pipelines.sources.tables.labels import is_text

PICTURES, PIXELS, STROKES = "parquet", "parquet-pixels", "parquet-strokes"
_STROKE_COLUMNS = ("drawing", "strokes")
_COLUMNS = ("image", "img", "picture", "pixels", *_STROKE_COLUMNS)
# Lists of lists of lists: (h, w, 1) of pixels, or x and y of strokes.
_MAX_DEPTH = 3
STROKE_FIELDS = ("x", "y", "t")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingColumn:
    """The column of drawings: its name, and PICTURES, PIXELS or STROKES, which are formats."""

    name: str
    format: str


def find_column(url: str, schema: pa.Schema) -> DrawingColumn:
    """Return the column of drawings; raise BadFileError if there is none that can be read."""
    present = [name for name in _COLUMNS if name in schema.names]
    if not present:
        choices = " or ".join(_COLUMNS[:2])
        raise BadFileError(f"{url} has no column {choices}; it has {schema.names}")
    formats = {name: _format_of(name, schema.field(name).type) for name in present}
    name = min(present, key=lambda name: _ORDER.index(formats[name]))
    if (found := formats[name]) is not None:
        return DrawingColumn(name=name, format=found)
    raise BadFileError(
        f"{url}: the column {present[0]!r} holds {_kind_name(schema.field(present[0]).type)}, "
        "expected encoded pictures (PNG bytes, or {bytes, path}), lists of 28x28 whole numbers, or "
        "strokes in a column 'drawing'"
    )


_ORDER = (PICTURES, PIXELS, STROKES, None)


def _format_of(name: str, kind: pa.DataType) -> str | None:
    if is_encoded(kind):
        return PICTURES
    plain = storage_type(kind)
    depth, leaf = _nesting(plain)
    is_number = is_numeric(leaf)
    if name in _STROKE_COLUMNS:
        if depth == _MAX_DEPTH and is_number and plain == kind:
            return STROKES
        if not depth and (_has_text(plain) or _has_points(plain)):
            return STROKES
        if depth == 1 and _has_points(leaf):
            return STROKES
    is_array = 1 <= depth <= _MAX_DEPTH and is_number
    return PIXELS if is_array and not _is_permuted(kind) else None


def is_encoded(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds encoded pictures."""
    if isinstance(kind, pa.BaseExtensionType):
        return False
    with contextlib.suppress(ValueError):
        bytes_field(pa.array([], kind))
        return True
    return False


def storage_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that an extension type, such as Hugging Face's Array2D, is kept as."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    """Return whether values are lists, of one length or of any."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or is_fixed(kind)


def is_fixed(kind: pa.DataType) -> bool:
    """Return whether values are lists of one length."""
    return bool(pa.types.is_fixed_size_list(kind))


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether values are numbers or truth values."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _nesting(kind: pa.DataType) -> tuple[int, pa.DataType]:
    """Return how many lists are within each other, and what the innermost holds."""
    depth = 0
    while is_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth, kind


def _has_text(kind: pa.DataType) -> bool:
    return is_text(kind) and not pa.types.is_dictionary(kind)


def _has_points(kind: pa.DataType) -> bool:
    """Return whether a struct has lists of x and y, and perhaps t, or lists of such lists."""
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: _nesting(field.type) for field in kind}
    wanted = [fields[name] for name in STROKE_FIELDS if name in fields]
    return {"x", "y"} <= fields.keys() and all(
        depth in (1, 2) and is_numeric(leaf) for depth, leaf in wanted
    )


def _is_permuted(kind: Any) -> bool:
    """Return whether a tensor of Arrow has its axes in memory in another order."""
    order = getattr(kind, "permutation", None)
    return order is not None and list(order) != sorted(order)


def _kind_name(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:60]}..."
