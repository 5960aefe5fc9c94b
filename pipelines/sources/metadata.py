"""Parse Google's four metadata columns from the values found in files.

    key_id        a whole number, also as text; never a float, whose digits may be lost
    country_code  two capital letters, in Google's files under the name countrycode; empty where unknown
    recognized    true or false, 1 or 0, also as text in any case
    timestamp     seconds since 1970 UTC, or text as "2017-03-06 00:28:58.85688 UTC"

Anything else is a missing value, including text such as "None".
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.store.printable import describe_value

# A column's names, ours before Google's.
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "key_id": ("key_id",),
    "country_code": ("country_code", "countrycode"),
    "recognized": ("recognized",),
    "timestamp": ("timestamp",),
}
COLUMN_TYPES: Mapping[str, Any] = {
    "key_id": np.uint64,
    "country_code": object,
    "recognized": np.bool_,
    "timestamp": np.int64,
}
_MAX_KEY_ID = 2**63
# The year 5138 in seconds, 1973 in milliseconds.
_MAX_SECONDS = 10**11
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


# What stands in the columns of a row that has a problem.
NOTHING: Mapping[str, Any] = {"key_id": 0, "country_code": "", "recognized": False, "timestamp": 0}


def parse_value(name: str, value: Any) -> Any:
    """Return a value of one of METADATA_COLUMNS.

    Raises ValueError that says what was found and expected.
    """
    parse, expected = _PARSERS[name]
    try:
        return parse(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"is {describe_value(value)}, expected {expected}") from error


def parse_record(record: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return the columns asked for; raise ValueError that names a key with a bad value, or none."""
    found = {}
    for name in columns:
        key = next((key for key in COLUMN_NAMES[name] if key in record), None)
        if key is None:
            raise ValueError(f"{COLUMN_NAMES[name][-1]} is missing, expected {_PARSERS[name][1]}")
        try:
            found[name] = parse_value(name, record[key])
        except ValueError as error:
            raise ValueError(f"{key} {error}") from error
    return found


def parse_column(
    name: str, column_name: str, column: pa.ChunkedArray
) -> tuple[npt.NDArray[Any], dict[int, str]]:
    """Return a column of METADATA_COLUMNS, and what is wrong by row; such rows hold NOTHING."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    if (plain := _plain_values(name, column)) is not None:
        return plain, {}
    problems: dict[int, str] = {}
    found = []
    for row, value in enumerate(column.to_pylist()):
        try:
            found.append(parse_value(name, value))
        except ValueError as error:
            found.append(NOTHING[name])
            problems[row] = f"{column_name} {error}"
    return np.array(found, COLUMN_TYPES[name]), problems


def _plain_values(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """Return a column that needs no parsing: truth, or numbers of a plausible size."""
    limit = {"key_id": _MAX_KEY_ID, "timestamp": _MAX_SECONDS}.get(name)
    if column.null_count or not len(column):
        return None
    if name == "recognized" and pa.types.is_boolean(column.type):
        return column.to_numpy()
    if limit is None or not pa.types.is_integer(column.type):
        return None
    values = column.to_numpy()
    is_plausible = values.min() >= 0 and values.max() < limit
    return values.astype(COLUMN_TYPES[name]) if is_plausible else None


def _key_id(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError(type(value).__name__)
    number = int(value) if _is_digits(value) else value
    if int(number) != number or not 0 <= number < _MAX_KEY_ID:
        raise ValueError(value)
    return int(number)


@functools.lru_cache(maxsize=1_024)
def _country_code(value: Any) -> str:
    if not re.fullmatch(r"([A-Z]{2})?", value):
        raise ValueError(value)
    return str(value)


def _recognized(value: Any) -> bool:
    if isinstance(value, str):
        value = _TRUTH.get(value.strip().lower())
    if value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def _timestamp(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(type(value).__name__)
    if isinstance(value, str) and not _is_digits(value):
        text = value.strip().removesuffix("UTC").strip()
        moment = datetime.fromisoformat(text)
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    seconds = int(value)
    if not 0 <= seconds < _MAX_SECONDS:
        raise ValueError(value)
    return seconds


def _is_digits(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit()


_PARSERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "key_id": (_key_id, "a whole number"),
    "country_code": (_country_code, "two capital letters"),
    "recognized": (_recognized, "true or false"),
    "timestamp": (_timestamp, "seconds since 1970 (not milliseconds) or a time as text"),
}
