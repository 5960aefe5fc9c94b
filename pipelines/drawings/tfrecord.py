"""Write TFRecord files that TensorFlow Datasets reads, without TensorFlow.

A record is: length u64, masked crc32c of it u32, a tf.train.Example, masked crc32c of it u32, all
little-endian; masked(c) = rotate_right(c, 15) + 0xa282ead8. The Example holds `image` (bytes) then
`label` (int64), in the order protobuf writes them, and more features if asked for. Where all
pictures have one length, all records are one template of which only picture, label and checksum
vary.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipelines.drawings.stored_png import encode_pngs

TFRECORD_DIR = "tfrecord"
TFDS_VERSION = "1.0.0"
# Of a record: length and its checksum before the Example, the Example's checksum behind it.
RECORD_HEAD_BYTES = 12
RECORD_FRAME_BYTES = 16
_MASK_DELTA = 0xA282EAD8
_PNG_LEVEL = 1
_BATCH_ROWS = 512

Uint8Array = npt.NDArray[np.uint8]


def tfds_name(dataset_name: str) -> str:
    """Return a dataset's name as TFDS allows it.

    >>> tfds_name("sea-turtles")
    'sea_turtles'
    """
    name = dataset_name.replace("-", "_")
    return name if name[0].isalpha() else f"d{name}"


def record_file_name(dataset_name: str, split: str, index: int, count: int) -> str:
    """Return the path of a TFRecord shard under `tfrecord/`, as `tfds.load` looks for it."""
    name = tfds_name(dataset_name)
    return f"{name}/{TFDS_VERSION}/{name}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def write_records(
    images: Uint8Array,
    labels: npt.NDArray[np.int64],
    encoding: str,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> bytes:
    """Return a TFRecord file of these drawings: `encoding` is png or raw (pixels as they are).

    columns: more features by name, of numbers, booleans or texts; with them each record is made
    by itself.
    """
    if not columns:
        return b"".join(bytes(part) for part in record_chunks(images, labels, encoding))
    pictures = [image.tobytes() for image in images] if encoding == "raw" else pngs(images)
    names, values = sorted(columns), zip(*(columns[name] for name in sorted(columns)), strict=True)
    rows = zip(pictures, labels.tolist(), values, strict=True)
    return frame([example_of(p, n, dict(zip(names, v, strict=True))) for p, n, v in rows])


def record_chunks(
    images: Uint8Array, labels: npt.NDArray[np.int64], encoding: str
) -> Iterator[bytes | memoryview]:
    """Yield a TFRecord file piece by piece; a piece is valid until the next is asked for.

    One buffer serves all pieces: fresh memory costs more than filling it.
    """
    buffer = np.empty(0, np.uint8)
    for start in range(0, len(images), _BATCH_ROWS):
        batch, of = images[start : start + _BATCH_ROWS], labels[start : start + _BATCH_ROWS]
        if encoding != "raw":
            yield frame([example(png, int(n)) for png, n in zip(pngs(batch), of, strict=True)])
            continue
        digits = _varint_lengths(of)
        if len(digits) > 1:
            yield fixed_records(batch.reshape(len(batch), -1), of)
            continue
        length = _record_bytes(batch[0].size, digits[0][0])
        if buffer.size < len(batch) * length:
            buffer = np.empty(len(batch) * length, np.uint8)
        records = buffer[: len(batch) * length].reshape(len(batch), length)
        _fill(records, batch.reshape(len(batch), -1), of, digits[0][0])
        yield records.data


def fixed_records(pictures: Uint8Array, labels: npt.NDArray[np.int64]) -> bytes:
    """Return the records of pictures of one length: (n, length) uint8."""
    pieces = [b""] * len(labels)
    for digits, chosen in _varint_lengths(labels):
        rows = np.flatnonzero(chosen)
        records = np.empty((len(rows), _record_bytes(pictures.shape[1], digits)), np.uint8)
        _fill(records, pictures[rows], labels[rows], digits)
        for row, record in zip(rows.tolist(), records, strict=True):
            pieces[row] = record.tobytes()
    return b"".join(pieces)


def example(picture: bytes, label: int) -> bytes:
    """Return the serialized tf.train.Example {"image": picture, "label": label}."""
    image = _field(1, b"image") + _field(2, _field(1, _field(1, picture)))
    number = _field(1, b"label") + _field(2, _field(3, _field(1, _varint(label))))
    return _field(1, _field(1, image) + _field(1, number))


def example_of(picture: bytes, label: int, values: Mapping[str, Any]) -> bytes:
    """Return a tf.train.Example with more features, by name as protobuf's own writer orders them."""
    features = {"image": _field(1, _field(1, picture)), "label": _numbers(label)}
    features |= {name: _feature(value) for name, value in values.items()}
    entries = [
        _field(1, _field(1, name.encode()) + _field(2, feature))
        for name, feature in sorted(features.items())
    ]
    return _field(1, b"".join(entries))


def _feature(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return _field(1, _field(1, value.encode()))
    if isinstance(value, float):
        return _field(2, _field(1, struct.pack("<f", value)))
    return _numbers(value)


def _numbers(value: int) -> bytes:
    """Return the feature of one int64; a negative one is its 64 bits."""
    return _field(3, _field(1, _varint(int(value) & 0xFFFFFFFFFFFFFFFF)))


def frame(records: Sequence[bytes]) -> bytes:
    """Return records with their lengths and checksums around them."""
    parts = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, _masked_crc(length), record, _masked_crc(record)]
    return b"".join(parts)


def pngs(images: Uint8Array) -> list[bytes]:
    """Return small PNGs: filter 0, zlib level 1; half the size of stored ones, ten times slower."""
    count, height, width = images.shape
    lines = np.zeros((count, height, width + 1), np.uint8)
    lines[:, :, 1:] = images
    head = encode_pngs(images[:1])[0, :33].tobytes() if count else b""
    end = encode_pngs(images[:1])[0, -12:].tobytes() if count else b""
    rows = lines.reshape(count, -1).view(f"V{height * (width + 1)}").ravel().tolist()
    return [head + _idat(zlib.compress(row, _PNG_LEVEL)) + end for row in rows]


def _idat(content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(b"IDAT"))
    return struct.pack(">I", len(content)) + b"IDAT" + content + struct.pack(">I", crc)


def _record_bytes(length: int, digits: int) -> int:
    """Return the size of the record of a picture of `length` bytes, label of `digits` bytes."""
    return 16 + len(example(bytes(length), _label_of(digits)))


def _label_of(digits: int) -> int:
    """Return the smallest label that takes this number of bytes."""
    return 0 if digits == 1 else 1 << 7 * (digits - 1)


def _fill(
    records: Uint8Array, pictures: Uint8Array, labels: npt.NDArray[np.int64], digits: int
) -> None:
    """Fill (n, record length) with records whose labels take `digits` bytes."""
    length = pictures.shape[1]
    body = np.frombuffer(example(bytes(length), _label_of(digits)), np.uint8)
    # The label is the last thing in an Example; the picture ends where the label's entry begins.
    tail = len(_field(1, _field(1, b"label") + _field(2, _field(3, _field(1, bytes(digits))))))
    size = struct.pack("<Q", len(body))
    begin = 12 + len(body) - tail - length
    records[:, :12] = np.frombuffer(size + _masked_crc(size), np.uint8)
    records[:, 12:begin] = body[: begin - 12]
    records[:, begin : begin + length] = pictures
    records[:, begin + length : -4] = body[begin + length - 12 :]
    for place in range(digits):
        more = 0x80 if place + 1 < digits else 0
        records[:, -4 - digits + place] = (labels >> 7 * place & 0x7F) | more
    width = records.shape[1]
    # A field of the bodies alone: each becomes bytes in one copy.
    kind = np.dtype(
        {"names": ["b"], "formats": [f"V{len(body)}"], "offsets": [12], "itemsize": width}
    )
    value = google_crc32c.value
    crcs = np.array([value(body) for body in records.view(kind)["b"].ravel().tolist()], np.uint32)
    masked = ((crcs >> np.uint32(15)) | (crcs << np.uint32(17))) + np.uint32(_MASK_DELTA)
    records[:, -4:] = masked.astype("<u4").view(np.uint8).reshape(-1, 4)


def _varint_lengths(
    labels: npt.NDArray[np.int64],
) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """Return (number of bytes, mask of the labels that take it), shortest first."""
    if len(labels) and labels.min() < 0:
        raise ValueError("labels must not be negative")
    digits = np.ones(len(labels), np.int64)
    for power in range(1, 9):
        digits += labels >= 1 << 7 * power
    return [(int(number), digits == number) for number in np.unique(digits)]


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a protobuf varint of a number that is not negative."""
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def read_records(content: bytes) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """Return pictures and labels of a TFRecord file that `write_records` wrote.

    Raises ValueError if a checksum is wrong or the file ends within a record.
    """
    pictures, labels, place = [], [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        body = content[place + 12 : place + 12 + length]
        crc = content[place + 12 + length : place + 16 + length]
        head = content[place : place + 8]
        if _masked_crc(head) != content[place + 8 : place + 12] or _masked_crc(body) != crc:
            raise ValueError(f"TFRecord is damaged near byte {place}")
        picture, label = _parse_example(body)
        pictures.append(picture)
        labels.append(label)
        place += 16 + length
    return pictures, np.array(labels, np.int64)


def record_length(head: bytes) -> int | None:
    """Return the length that a record's first bytes state, None if their checksum is wrong."""
    (length,) = struct.unpack_from("<Q", head)
    return length if _masked_crc(head[:8]) == head[8:RECORD_HEAD_BYTES] else None


def is_intact(record: bytes, checksum: bytes) -> bool:
    """Return whether a record has the masked checksum that stands behind it."""
    return _masked_crc(record) == checksum


def _parse_example(body: bytes) -> tuple[bytes, int]:
    """Return picture and label of an Example; entries of a map may come in any order."""
    features = dict[bytes, bytes]()
    for entry in _fields(_fields(body)[0]):
        name, value = _fields(entry)
        features[name] = _fields(_fields(value)[0])[0]
    label = shift = 0
    for byte in features[b"label"]:
        label |= (byte & 0x7F) << shift
        shift += 7
    return features[b"image"], label


def _fields(content: bytes) -> list[bytes]:
    """Return the length-delimited fields of a message."""
    found, place = [], 0
    while place < len(content):
        place += 1
        length = shift = 0
        while True:
            byte = content[place]
            length |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                break
        found.append(content[place : place + length])
        place += length
    return found
