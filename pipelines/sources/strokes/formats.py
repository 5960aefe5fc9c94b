"""Parse Google's three stroke formats: simplified and raw .ndjson, and binary .bin; Kaggle's CSV.

    .ndjson  a line a drawing: word, countrycode, timestamp, recognized, key_id, drawing
    .csv     the same as columns, the drawing as text in JSON, in a header's order
    .bin     u64 key_id, 2 bytes country, i8 recognized, u32 timestamp, u16 strokes;
             a stroke: u16 n, n bytes x, n bytes y; little-endian, no header

key_id goes beyond 2**52 and is never a float. A line or record that cannot be read for certain is
a drawing with a problem; of its metadata only those columns are looked at that are asked for.
"""

import json
import struct
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.sources.metadata import COLUMN_TYPES, NOTHING, parse_record
from pipelines.sources.strokes.simplify import (
    GOOGLE,
    PAGE,
    Reading,
    Written,
    check_points,
    read_strokes,
)
from pipelines.sources.strokes.tables import TableHead, parse_row
from pipelines.store.printable import describe_value

_BIN_HEAD = struct.Struct("<Q2sbIH")
_MAX_STROKES = 4_096
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class StrokeDrawing:
    """One drawing of a file of strokes.

    written   its strokes; none if it has a problem
    metadata  those of METADATA_COLUMNS that were asked for; timestamp in seconds
    word      the class that it says it is of, None if it says nothing
    problem   why it is no drawing, None if it is one
    """

    written: Written
    metadata: Mapping[str, Any] = field(default_factory=dict)
    word: str | None = None
    problem: str | None = None


def parse_line(
    line: bytes,
    class_name: str | None = None,
    columns: Sequence[str] = (),
    reading: Reading = GOOGLE,
    limits: Limits = DEFAULT,
    head: TableHead | None = None,
) -> StrokeDrawing:
    """Parse a line of .ndjson, or of a table with this head.

    class_name  what the file's name promises; a line whose `word` is another has a problem
    columns     the metadata to read
    limits      a drawing of more points has a problem
    """
    try:
        record = _parse_object(line) if head is None else parse_row(line, head)
        word = record.get("word")
        if class_name is not None and word is not None and not is_same_name(word, class_name):
            raise ValueError(f"a drawing of {word!r:.60}, the file's name says {class_name!r}")
        return StrokeDrawing(
            written=read_strokes(record["drawing"], reading, limits),
            metadata=parse_record(record, columns),
            word=word,
        )
    except ValueError as error:
        problem = str(error)
    except RecursionError:
        problem = "not a drawing in JSON: lists within lists without end"
    return unread(problem)


def unread(problem: str) -> StrokeDrawing:
    """Return what stands for a drawing that cannot be read."""
    return StrokeDrawing(written=Written(strokes=[]), problem=problem)


def is_same_name(word: object, class_name: str) -> bool:
    """Whether two names of classes are the same text, however its accents are coded."""
    if word == class_name:
        return True
    forms = [unicodedata.normalize("NFC", str(name)) for name in (word, class_name)]
    return forms[0] == forms[1]


def class_of_word(word: object) -> str:
    """Return the class that a row's `word` names, in NFC; "" if it names none."""
    return unicodedata.normalize("NFC", word) if isinstance(word, str) and word.strip() else ""


def _parse_object(line: bytes) -> dict[str, Any]:
    """Return the object of a line, which has a key `drawing`; raise ValueError otherwise."""
    try:
        text = line.decode()
        record = json.loads(text.removeprefix(_BYTE_ORDER_MARK))
    except ValueError as error:
        if not line.strip():
            raise ValueError("a blank line, expected a drawing in JSON") from error
        what = str(error)
        if isinstance(error, json.JSONDecodeError):
            what = f"{error.msg} at character {error.pos + 1}"
        found = line[:60].decode("utf-8", "replace")
        raise ValueError(f"not a drawing in JSON ({what}); it begins {found!r}") from error
    if not isinstance(record, dict) or "drawing" not in record:
        raise ValueError(f"no object with a key 'drawing': {describe_value(record)}")
    return record


def record_end(content: bytes, place: int) -> int:
    """Return where the .bin record that begins at `place` ends; len + 1 if beyond the content."""
    beyond = len(content) + 1
    if place + _BIN_HEAD.size > len(content):
        return beyond
    place, left = skip_strokes(content, *skip_head(content, place))
    return beyond if left or place > len(content) else place


def skip_head(content: bytes, place: int) -> tuple[int, int]:
    """Return where the strokes of the .bin record at `place` begin, and how many these are."""
    (strokes,) = struct.unpack_from("<H", content, place + 15)
    return place + _BIN_HEAD.size, strokes


def skip_strokes(content: bytes, place: int, strokes: int) -> tuple[int, int]:
    """Return the place behind those strokes of .bin whose length is within, and how many are left.

    The last of them may end beyond the content.
    """
    while strokes and place + 2 <= len(content):
        place += 2 + 2 * (content[place] | content[place + 1] << 8)
        strokes -= 1
    return place, strokes


def is_binary_head(content: bytes) -> bool:
    """Whether these bytes may begin a .bin file: plausible country, flag and stroke count."""
    if len(content) < _BIN_HEAD.size:
        return False
    _, country, recognized, timestamp, strokes = _BIN_HEAD.unpack_from(content)
    plain = country.isalnum() or country == b"\0\0"
    # Google collected from 2016 on; timestamps before 2010 are no timestamps.
    return plain and recognized in (0, 1) and timestamp > 1_262_304_000 and strokes < _MAX_STROKES


def columns_of(
    drawings: Sequence[StrokeDrawing], columns: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Return these metadata columns of drawings."""
    return {
        name: np.array([d.metadata.get(name, NOTHING[name]) for d in drawings], COLUMN_TYPES[name])
        for name in columns
    }


def notes_of(drawings: Sequence[StrokeDrawing]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns `problem` and `repair` of drawings, if any has one."""
    texts = {
        "problem": [drawing.problem for drawing in drawings],
        "repair": [drawing.written.repair for drawing in drawings],
    }
    return {name: np.array(values, object) for name, values in texts.items() if any(values)}


def parse_binary(
    record: bytes, columns: Sequence[str] = (), limits: Limits = DEFAULT
) -> StrokeDrawing:
    """Parse one whole record of .bin."""
    key_id, country, recognized, timestamp, count = _BIN_HEAD.unpack_from(record)
    place = _BIN_HEAD.size
    strokes = []
    for _ in range(count):
        (number,) = struct.unpack_from("<H", record, place)
        flat = np.frombuffer(record, np.uint8, 2 * number, place + 2)
        strokes.append(flat.reshape(2, number).T)
        place += 2 + 2 * number
    code = country.decode("latin1").strip("\0")
    written_as = {
        "key_id": key_id,
        "countrycode": code,
        "recognized": recognized,
        "timestamp": timestamp,
    }
    try:
        if not all(map(len, strokes)):
            raise ValueError("a stroke has no points")
        check_points(sum(map(len, strokes)), limits)
        metadata = parse_record(written_as, columns)
    except ValueError as error:
        return unread(str(error))
    written = Written(strokes=[stroke.astype(np.float64) for stroke in strokes], scale=PAGE)
    return StrokeDrawing(written=written, metadata=metadata)
