"""Parse tf.train.Example without TensorFlow.

    Example   1: Features      Features   1: map<string, Feature>, entries of 1: key, 2: value
    Feature   1: BytesList     2: FloatList    3: Int64List, each of 1: values, packed or not

tensorflow/core/example/feature.proto is the source. Lengths are checked, so nothing is read beyond a
record, and depth is fixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "bytes", 2: "float", 3: "int64"}
_UNPACKED = {"bytes": _BYTES, "float": _FIXED32, "int64": _VARINT}
_MOST_FEATURES = 10_000


@dataclass(frozen=True, slots=True)
class Feature:
    """Values of one kind: "bytes", "float" or "int64", as bytes or numbers."""

    kind: str
    values: list[bytes] | npt.NDArray[np.int64] | npt.NDArray[np.float32]

    def __str__(self) -> str:
        return f"{len(self.values)} {self.kind}" if len(self.values) != 1 else self.kind


def parse_features(record: bytes) -> dict[str, bytes]:
    """Return the features of a record by name, each to be parsed by `parse_feature`.

    Raises ValueError if the record is no Example.
    """
    found: dict[str, bytes] = {}
    for number, features in _messages(record):
        if number != 1:
            raise ValueError("it is no tf.train.Example, perhaps a SequenceExample")
        for _, entry in _messages(features):
            parts = dict(_messages(entry))
            found[parts.get(1, b"").decode()] = parts.get(2, b"")
            if len(found) > _MOST_FEATURES:
                raise ValueError(f"it has more than {_MOST_FEATURES} features")
    return found


def parse_feature(content: bytes) -> Feature | None:
    """Return a feature's values, None if it has no kind; raise ValueError if it is damaged."""
    found = None
    for number, values in _messages(content):
        if number not in _KINDS:
            raise ValueError(f"a feature has the field {number}")
        kind = _KINDS[number]
        parts = list(_fields(values))
        if wrong := {wire for _, wire, _ in parts} - {_BYTES, _UNPACKED[kind]}:
            raise ValueError(f"a feature of {kind} has values of the type {wrong.pop()}")
        if kind == "bytes":
            found = Feature(kind, [part for _, _, part in parts])
            continue
        joined = b"".join(part for _, _, part in parts)
        found = Feature(kind, _floats(joined) if kind == "float" else _integers(joined))
    return found


def _messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, wire, part in _fields(content):
        if wire != _BYTES:
            raise ValueError(f"it is no tf.train.Example: field {number} is no message")
        yield number, part


def _fields(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, wire type and content of each field; a varint's content are its bytes."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            end = _varint(content, place)[1]
        elif wire == _BYTES:
            length, place = _varint(content, place)
            end = place + length
        elif wire in (_FIXED32, _FIXED64):
            end = place + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"it is no tf.train.Example: a field of the type {wire}")
        if end > len(content):
            raise ValueError("it is no tf.train.Example: a field is longer than what holds it")
        yield number, wire, content[place:end]
        place = end


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return the number that begins at a place, and where it ends."""
    number = shift = 0
    while place < len(content) and shift < 70:
        byte = content[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise ValueError("it is no tf.train.Example: a number does not end")


def _floats(content: bytes) -> npt.NDArray[np.float32]:
    if len(content) % 4:
        raise ValueError("a feature of floats ends within one")
    return np.frombuffer(content, "<f4")


def _integers(content: bytes) -> npt.NDArray[np.int64]:
    """Return varints as 64-bit numbers."""
    if len(content) == 1 and content[0] < 0x80:
        return np.array([content[0]], np.int64)
    parts = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(parts < 0x80)
    if len(parts) and (not len(ends) or ends[-1] != len(parts) - 1):
        raise ValueError("a feature of numbers ends within one")
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 10:
        raise ValueError("a feature of numbers has one that does not end")
    shifts = 7 * (np.arange(len(parts)) - np.repeat(starts, lengths))
    values = (parts & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    sums = np.add.reduceat(values, starts) if len(starts) else values
    return sums.view(np.int64)
