"""Google's three formats of strokes: simplified and raw .ndjson, and binary .bin.

    .ndjson  a line a drawing: word, countrycode, timestamp, recognized, key_id, drawing
    .bin     u64 key_id, 2 bytes country, i8 recognized, u32 timestamp, u16 strokes;
             a stroke: u16 n, n bytes x, n bytes y; little-endian, no header

key_id goes beyond 2**52 and is never a float. What cannot be parsed for certain is refused with
its place; a last record that is cut short is an error, not silently dropped.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.sources.base import BadFileError

Points = npt.NDArray[np.float64]

_BIN_HEAD = struct.Struct("<Q2sbIH")
_MAX_STROKES = 4_096


@dataclass(frozen=True, slots=True)
class StrokeDrawing:
    """One drawing: strokes (k, 2), x then y, and Google's columns; timestamp in seconds."""

    strokes: list[Points]
    key_id: int
    country_code: str
    recognized: bool
    timestamp: int


def parse_line(line: bytes, where: str, class_name: str | None = None) -> StrokeDrawing:
    """Parse a line of .ndjson, simplified or raw; `where` names it in errors.

    class_name: what the file's name promises; a line whose `word` is another is refused.
    """
    try:
        raw = json.loads(line)
        strokes = [_points(stroke) for stroke in raw["drawing"]]
        check_word(raw, where, class_name)
        return StrokeDrawing(
            strokes,
            _key_id(raw["key_id"]),
            str(raw["countrycode"]),
            bool(raw["recognized"]),
            _seconds(raw["timestamp"]),
        )
    except BadFileError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        found = line[:60].decode("utf-8", "replace")
        raise BadFileError(
            f"{where} is not a drawing in JSON ({type(error).__name__}: {error}); it begins "
            f"{found!r}; expected a line of Google's .ndjson"
        ) from error


def _key_id(value: Any) -> int:
    key_id = int(value)
    if not 0 <= key_id < 2**63:
        raise ValueError(f"key_id {key_id} is not within 0 and {2**63 - 1}")
    return key_id


def check_word(raw: Mapping[str, Any], where: str, class_name: str | None) -> None:
    """Raise BadFileError if a line says that it is a drawing of another class."""
    word = raw.get("word", class_name)
    if class_name is not None and word != class_name:
        raise BadFileError(
            f"{where} is a drawing of {word!r}, the file's name says {class_name!r}: give it the "
            "name of its class, or fetch it again"
        )


def parse_records(content: bytes, count: int, where: str) -> list[StrokeDrawing]:
    """Parse `count` records of .bin from the start of `content`."""
    drawings = []
    place = 0
    for _ in range(count):
        drawing, place = _parse_record(content, place, where)
        drawings.append(drawing)
    return drawings


def record_end(content: bytes, place: int) -> int:
    """Return where the .bin record that begins at `place` ends; len + 1 if beyond the content."""
    beyond = len(content) + 1
    if place + _BIN_HEAD.size > len(content):
        return beyond
    (strokes,) = struct.unpack_from("<H", content, place + 15)
    place += _BIN_HEAD.size
    for _ in range(strokes):
        if place + 2 > len(content):
            return beyond
        place += 2 + 2 * (content[place] | content[place + 1] << 8)
    return place if place <= len(content) else beyond


def is_binary_head(content: bytes) -> bool:
    """Whether these bytes may begin a .bin file: plausible country, flag and stroke count."""
    if len(content) < _BIN_HEAD.size:
        return False
    _, country, recognized, timestamp, strokes = _BIN_HEAD.unpack_from(content)
    plain = country.isalnum() or country == b"\0\0"
    # Google collected from 2016 on; timestamps before 2010 are no timestamps.
    return (
        plain and recognized in (0, 1) and timestamp > 1_262_304_000 and 0 < strokes < _MAX_STROKES
    )


def columns_of(drawings: Sequence[StrokeDrawing]) -> dict[str, npt.NDArray[Any]]:
    """Return Google's columns of these drawings."""
    return {
        "key_id": np.array([d.key_id for d in drawings], np.uint64),
        "country_code": np.array([d.country_code for d in drawings], object),
        "recognized": np.array([d.recognized for d in drawings], bool),
        "timestamp": np.array([d.timestamp for d in drawings], np.int64),
    }


def _points(stroke: Any) -> Points:
    """Return a stroke's points; raw strokes have a third list, their times."""
    x, y = np.asarray(stroke[0], np.float64), np.asarray(stroke[1], np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"a stroke has {x.shape} x and {y.shape} y")
    points = np.stack([x, y], axis=1)
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    return points


def _seconds(text: str) -> int:
    """Return "2017-03-06 00:28:58.85688 UTC" in seconds since 1970, the fraction cut off."""
    return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp())


def _parse_record(content: bytes, place: int, where: str) -> tuple[StrokeDrawing, int]:
    try:
        key_id, country, recognized, timestamp, count = _BIN_HEAD.unpack_from(content, place)
        place += _BIN_HEAD.size
        strokes = []
        for _ in range(count):
            (number,) = struct.unpack_from("<H", content, place)
            flat = np.frombuffer(content, np.uint8, 2 * number, place + 2)
            strokes.append(flat.reshape(2, number).T.astype(np.float64))
            place += 2 + 2 * number
        if any(not len(stroke) for stroke in strokes):
            raise ValueError("a stroke has no points")
        text = country.decode("ascii").strip("\0")
    except (struct.error, ValueError) as error:
        raise BadFileError(f"{where} is damaged near byte {place}: {error}") from error
    return StrokeDrawing(strokes, key_id, text, bool(recognized), timestamp), place
