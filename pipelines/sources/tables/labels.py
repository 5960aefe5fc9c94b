"""Find the labels of a Parquet file: in a column, or in the folder names of its path.

    text           names of classes
    whole numbers  positions in the names of Hugging Face's ClassLabel, in the schema's metadata;
                   floats that are whole are numbers, and truth values 0 and 1
    path           label=bee/part-0.parquet, as Spark, DuckDB and PyArrow partition

A column of text takes precedence over numbers without names. Columns that contradict each other
make a bad row; a path that contradicts them makes a bad file. Names are in NFC.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.sources.base import BadFileError
from pipelines.store.errors import reading
from pipelines.store.printable import describe_value

LABEL_COLUMNS = ("label", "labels", "class", "word", "class_name", "category")
# Numbers in these columns are not names: a table partitioned by them lacks the names.
NUMBER_COLUMNS = ("label", "labels")
_TEXT_KINDS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
_NUMBER_KINDS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What names the classes of one file.

    column  that says it, None if the path does
    names   what its numbers mean, None if it holds names, empty if it has no value
    beside  a column of text that must not contradict
    path    the class that the path says, or must not contradict
    number  a column of numbers without names, which `column` stands in for
    stated  whether the names are those that the user gave
    """

    column: str | None
    names: tuple[str, ...] | None = None
    beside: str | None = None
    path: str | None = None
    number: str | None = None
    stated: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns to read for the labels of rows."""
        return [name for name in (self.column, self.beside) if name is not None]

    @property
    def naming(self) -> list[str]:
        """The columns to read for the names of the file's classes."""
        if self.names is not None and self.path is None:
            return []
        return [name for name in (self.column, self.number) if name is not None]


def find_labels(url: str, schema: pa.Schema, label_names: Sequence[str] = ()) -> Labels:
    """Return what names the drawings of a file; raise BadFileError if nothing does.

    label_names  of numbers that nothing else names
    """
    present = [name for name in LABEL_COLUMNS if name in schema.names]
    named = {name: _names_of_numbers(url, schema, name) for name in present}
    texts = [name for name in present if is_text(schema.field(name).type)]
    telling = [name for name in present if name in texts or named[name] is not None]
    path = class_in_path(url)
    if telling:
        column, first = telling[0], present[0]
        _check_type(url, schema, column)
        kind = schema.field(first).type
        is_numbered = first != column and _is_number(kind) and not pa.types.is_boolean(kind)
        _check_stated(url, column, named[column], label_names)
        return Labels(
            column=column,
            names=named[column],
            beside=next((name for name in texts if name != column), None),
            path=path,
            number=first if is_numbered else None,
        )
    if path is not None:
        return Labels(column=None, path=path)
    if not present:
        raise BadFileError(
            f"{url} has no column {' or '.join(LABEL_COLUMNS[:2])}, and no folder class_name=NAME "
            f"above it; it has {schema.names}"
        )
    _check_type(url, schema, present[0])
    if pa.types.is_null(schema.field(present[0]).type):
        return Labels(column=present[0])
    if label_names:
        return Labels(column=present[0], names=tuple(label_names), stated=True)
    raise BadFileError(
        f"{url}: nothing names the numbers in the column {present[0]!r}; expected Hugging Face's "
        "ClassLabel in the schema's metadata, or names as text (a column class_name): give their "
        "names in order, --label-names NAME,NAME"
    )


def class_in_path(url: str) -> str | None:
    """Return the class that a folder of the path says; a number is no name of one.

    >>> class_in_path("data/class_name=sea%20turtle/part-0.parquet")
    'sea turtle'
    """
    for folder in reversed(url.split("/")[:-1]):
        key, equals, value = folder.partition("=")
        if not equals or key not in LABEL_COLUMNS or value == _NO_VALUE:
            continue
        if key not in NUMBER_COLUMNS or not re.fullmatch(r"-?\d+", value):
            return unicodedata.normalize("NFC", unquote(value))
    return None


def names_in(labels: Labels, url: str, table: pa.Table) -> list[str]:
    """Return the names of all classes of a file, from its columns `labels.naming`.

    Raises BadFileError if a number has two names there, or a name two numbers, or if the path says
    another class.
    """
    if labels.column is None:
        return [str(labels.path)]
    if labels.path is not None:
        _check_path(url, labels, table[labels.column])
    if labels.names is not None:
        return _normalized(labels.names)
    column = table[labels.column]
    if labels.number is not None:
        _check_pairs(url, labels, table[labels.number], column)
    return sorted(_normalized(name for name in _plain(column.unique()).to_pylist() if name))


def labels_of_rows(
    labels: Labels, table: pa.Table, positions: Mapping[str, int]
) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """Return the label of each row, -1 where there is none, and what is wrong by row.

    positions  of the names of all classes; text beside a label that is none of them is no class
    """
    if labels.column is None:
        return np.full(table.num_rows, positions[str(labels.path)], np.int64), {}
    column = table[labels.column]
    found = _positions_of(column, labels.names, positions)
    problems = {
        row: _bad_label(labels, column[row].as_py()) for row in np.flatnonzero(found < 0).tolist()
    }
    names = list(positions)
    if labels.beside is not None:
        other = _positions_of(table[labels.beside], None, positions)
        for row in np.flatnonzero((found >= 0) & (other >= 0) & (found != other)).tolist():
            one, two = names[found[row]], names[other[row]]
            problems[row] = f"{labels.column} is {one!r}, {labels.beside} says {two!r}"
    return found, problems


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text, in any encoding of Arrow.

    Bytes are UTF-8, which some writers do not call text.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_kind(kind) for is_kind in _TEXT_KINDS)


def _is_number(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _NUMBER_KINDS)


def _check_stated(
    url: str, column: str, names: tuple[str, ...] | None, label_names: Sequence[str]
) -> None:
    """Raise BadFileError if a file names its numbers otherwise than the user does."""
    if names is not None and label_names and _normalized(names) != _normalized(label_names):
        raise BadFileError(
            f"{url} names the numbers in the column {column!r} itself, {describe_value(names)}, "
            "otherwise than --label-names does: leave that out"
        )


def _check_type(url: str, schema: pa.Schema, column: str) -> None:
    kind = schema.field(column).type
    if not (is_text(kind) or _is_number(kind) or pa.types.is_null(kind)):
        raise BadFileError(
            f"{url}: the column {column!r} holds {kind}, expected names of classes as text, or "
            "whole numbers that Hugging Face's ClassLabel names"
        )


def _names_of_numbers(url: str, schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None or is_text(schema.field(column).type):
        return None
    with reading(f"{url}: the schema's `huggingface`", "features"):
        names = json.loads(content)["info"]["features"].get(column, {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadFileError(
            f"{url}: the names of the classes of {column!r} are {describe_value(names)}, expected a "
            'list of texts, as ["bee", "sun"]: write them as the names of a ClassLabel'
        )
    if len(_normalized(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise BadFileError(f"{url}: {twice!r} is the name of two classes of {column!r}")
    return tuple(names)


def _plain(values: pa.Array) -> pa.Array:
    """Return text as the one type that all functions of Arrow take."""
    return values.cast(pa.large_string()) if is_text(values.type) else values


def _encoded(column: pa.ChunkedArray) -> tuple[pa.Array, list[Any]]:
    """Return the index of each row's value, null for none, and the values, each once in memory."""
    if not pa.types.is_dictionary(column.type):
        column = _plain(column).dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    return whole.indices, _plain(whole.dictionary).to_pylist()


def _check_path(url: str, labels: Labels, column: pa.ChunkedArray) -> None:
    for value in _plain(column.unique()).to_pylist():
        name = _name(value, labels.names)
        if name is not None and name != labels.path:
            raise BadFileError(
                f"{url}: the path says {labels.path!r}, the column {labels.column!r} {name!r}: mend "
                "the folder's name, or drop the column"
            )


def _check_pairs(
    url: str, labels: Labels, numbers: pa.ChunkedArray, texts: pa.ChunkedArray
) -> None:
    indices, values = _encoded(texts)
    table = pa.table({"number": numbers.combine_chunks(), "text": indices})
    pairs = table.group_by(["number", "text"]).aggregate([]).drop_null().to_pylist()
    rows = [pair | {"text": values[pair["text"]]} for pair in pairs]
    for one, other in (("number", "text"), ("text", "number")):
        seen: dict[Any, Any] = {}
        for row in rows:
            first = seen.setdefault(row[one], row[other])
            if first != row[other]:
                raise BadFileError(
                    f"{url}: {row[one]!r} stands beside {first!r} and {row[other]!r} in the columns "
                    f"{labels.number!r} and {labels.column!r}, which contradict each other: drop the "
                    "one that is not the class"
                )


def _positions_of(
    column: pa.ChunkedArray, names: Sequence[str] | None, positions: Mapping[str, int]
) -> npt.NDArray[np.int64]:
    """Return the position that each value means, -1 for none.

    names  what numbers mean, None if the values are names
    """
    indices, values = _encoded(column)
    means = [_name(value, names) for value in values]
    found = [-1 if name is None else positions.get(name, -1) for name in means]
    # A null has the index -1, the last.
    return np.array([*found, -1], np.int64)[indices.fill_null(-1).to_numpy()]


def _name(value: Any, names: Sequence[str] | None) -> str | None:
    """Return the name that a value means; a number such as -1 must not name the last class."""
    if names is None:
        return unicodedata.normalize("NFC", value) if value else None
    if value is None or value not in range(len(names)):
        return None
    return unicodedata.normalize("NFC", names[int(value)])


def _bad_label(labels: Labels, value: Any) -> str:
    found = "null" if value is None else repr(value)
    wanted = "a class name" if labels.names is None else f"0 to {len(labels.names) - 1}"
    return f"{labels.column} is {found}, expected {wanted}"


def _normalized(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(unicodedata.normalize("NFC", name) for name in names))
