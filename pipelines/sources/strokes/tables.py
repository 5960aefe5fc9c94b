"""Read the tables of strokes of Kaggle's Doodle Recognition: CSV, a drawing a line.

    countrycode,drawing,key_id,recognized,timestamp,word
    US,"[[[0, 255, 255], [0, 0, 255]]]",4600000000000000,False,2017-03-01 10:20:30.12345,bee

Columns come in any order, others are passed over; .tsv is separated by tabs. A drawing is the text
that .ndjson has. A row is one line of the file, so that rows are found without parsing all before
them: one that goes over several lines is refused.
"""

import contextlib
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.sources.base import BadFileError
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import FileRanges

TABLE_ENDINGS = (".csv", ".tsv")
# Of the first line, and of it in a message.
_HEAD_BYTES, _SHOWN_COLUMNS = 1 << 16, 8
# Of a field, by default 128 KiB, which raw drawings exceed; lines are bounded before.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHead:
    """The columns of a table, and what separates them."""

    names: Sequence[str]
    delimiter: str = ","


def read_head(url: str, size: int) -> tuple[TableHead | None, int]:
    """Return the head of a table and where its rows begin; (None, 0) of a file of other lines.

    Raises BadFileError if a table has not the columns drawing and word.
    """
    if not url.endswith(TABLE_ENDINGS):
        return None, 0
    content = FileRanges(url).read(0, min(size, _HEAD_BYTES))
    line = content.partition(b"\n")[0]
    delimiter = "\t" if url.endswith(".tsv") else ","
    try:
        text = line.decode("utf-8-sig").rstrip("\r")
        (names,) = csv.reader([text], delimiter=delimiter, strict=True)
    except (ValueError, csv.Error) as error:
        raise BadFileError(f"{url} is not CSV: {describe_content(content)}") from error
    if any(names.count(name) != 1 for name in ("drawing", "word")):
        shown = ", ".join(names[:_SHOWN_COLUMNS]) + (", ..." if len(names) > _SHOWN_COLUMNS else "")
        raise BadFileError(
            f"{url} has the columns {shown:.200}; expected those of Kaggle's Doodle Recognition, "
            "drawing and word at least (tables of pixels are not read: save .npy or Parquet)"
        )
    return TableHead(names=names, delimiter=delimiter), len(line) + 1


def parse_row(line: bytes, head: TableHead) -> dict[str, Any]:
    """Return the fields of a line of a table by their columns, the drawing parsed."""
    try:
        (fields,) = csv.reader([line.decode().rstrip("\r")], delimiter=head.delimiter, strict=True)
    except (ValueError, csv.Error) as error:
        found = line[:60].decode("utf-8", "replace")
        raise ValueError(f"not a row of CSV ({error}); it begins {found!r}") from error
    if len(fields) != len(head.names):
        raise ValueError(f"a row of {len(fields)} fields, expected {len(head.names)}")
    record: dict[str, Any] = dict(zip(head.names, fields, strict=True))
    with contextlib.suppress(ValueError):  # then it stays text, and is described
        record["drawing"] = json.loads(record["drawing"])
    return record


def count_quotes(
    url: str, content: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], before: int, lines: int
) -> int:
    """Return the number of quotes up to here; raise BadFileError if a line ends within a pair."""
    quotes = np.flatnonzero(content == ord('"'))
    open_at = (np.searchsorted(quotes, ends) + before) % 2
    if open_at.any():
        line = lines + int(open_at.argmax()) + 2
        raise BadFileError(
            f"{url} line {line} ends within quotes: write every row of the table on one line"
        )
    return before + len(quotes)
