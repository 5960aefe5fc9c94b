"""The columns of a dataset as text: JSON objects and CSV lines, a whole batch at a time."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.export.templates import decimal_digits

_KEY_DIGITS = 9


def json_objects(columns: dict[str, pa.ChunkedArray | pa.Array]) -> list[bytes]:
    """Return one JSON object a row, keys in the order given; what is not finite is null.

    >>> json_objects({"seed": pa.array([1, None]), "name": pa.array(["a b", '"'])})
    [b'{"seed":1,"name":"a b"}', b'{"seed":null,"name":"\\\\""}']
    """
    parts: list[pa.Array | str] = ["{"]
    for index, (name, column) in enumerate(columns.items()):
        parts += ["," * bool(index) + json.dumps(name) + ":", _json_values(_whole(column))]
    parts += ["}"]
    return [text.encode() for text in _join(*parts).to_pylist()]


def file_names(directories: Sequence[str], labels: pa.Array, first_row: int) -> pa.Array:
    """Return `<directory of the label>/<row, 9 digits>.png` for consecutive rows."""
    rows = np.arange(first_row, first_row + len(labels))
    digits = pa.py_buffer(decimal_digits(rows, _KEY_DIGITS))
    offsets = pa.py_buffer(np.arange(len(labels) + 1, dtype=np.int32) * np.int32(_KEY_DIGITS))
    stems = pa.StringArray.from_buffers(len(labels), offsets, digits)
    return _join(pa.array(list(directories), pa.string()).take(labels), "/", stems, ".png")


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _join(*parts: pa.Array | str) -> pa.Array:
    """Return the parts joined row by row; a string stands in every row."""
    texts = [pa.scalar(part, pa.string()) if isinstance(part, str) else part for part in parts]
    return pc.call_function("binary_join_element_wise", [*texts, pa.scalar("", pa.string())])


def _json_values(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_floating(kind):
        finite = pc.call_function("is_finite", [column])
        column = pc.call_function("if_else", [finite, column, pa.scalar(None, kind)])
        text = column.cast(pa.string())
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        text = column.cast(pa.string())
    else:
        text = _quoted(column.cast(pa.string()))
    return pc.fill_null(text, "null")


def _quoted(column: pa.Array) -> pa.Array:
    """Escape each different text once: most columns of text repeat a few."""
    encoded = column.dictionary_encode()
    words = [None if word is None else json.dumps(word) for word in encoded.dictionary.to_pylist()]
    return pa.array(words, pa.string()).take(encoded.indices)
