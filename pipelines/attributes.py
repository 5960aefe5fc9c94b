"""What is known of every drawing without looking at its pixels again.

Computed once for each range of a source file and kept in the store's scratch, beside the data:
a changed threshold, split or class list reads these 30 bytes a drawing, never the pixels.

    hash_high, hash_low     uint64   xxh3_128 of the pixels
    ink                     uint16   pixels above 0
    top, bottom, left, right uint8   bounding box of the ink, inclusive; 255, 0, 255, 0 if blank
    difference_hash         uint64   signs of horizontal steps in an 8x9 thumbnail, if asked for
    label                   int16    position in the source's class names, if files mix classes
    key_id, country_code, recognized, timestamp   if the source has them
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings import METADATA_COLUMNS, Drawings
from pipelines.hashing import pixel_hashes

# Part of the address of kept attributes: bumped when their meaning changes.
ATTRIBUTES_VERSION = 1
ERROR_KEY = b"bad_file"

_HASH_ROWS, _HASH_COLUMNS = 8, 9


def drawing_attributes(
    drawings: Drawings, *, with_label: bool = False, with_difference_hash: bool = False
) -> pa.Table:
    """Return the attributes of a batch as a table of as many rows."""
    images = np.ascontiguousarray(drawings.images)
    hashes = pixel_hashes(images)
    ink = count_ink(images)
    columns: dict[str, object] = {
        "hash_high": hashes[:, 0],
        "hash_low": hashes[:, 1],
        "ink": ink.astype(np.uint16),
        **_bounding_boxes(images),
    }
    if with_difference_hash:
        columns["difference_hash"] = difference_hashes(images)
    if with_label:
        columns["label"] = drawings.label.astype(np.int16)
    columns |= drawings.metadata()
    return pa.table(columns)


def failed_attributes(message: str) -> pa.Table:
    """Return the table that stands for a range that could not be read."""
    return pa.table({}).replace_schema_metadata({ERROR_KEY: message.encode()})


def failure(table: pa.Table) -> str | None:
    """Return why the range could not be read, None if it could."""
    message = (table.schema.metadata or {}).get(ERROR_KEY)
    return None if message is None else message.decode()


def table_to_bytes(table: pa.Table) -> bytes:
    """Return an Arrow IPC stream: hashes do not compress and reading should cost nothing."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def table_from_bytes(content: bytes) -> pa.Table:
    """Return the table that `table_to_bytes` wrote."""
    return pa.ipc.open_stream(content).read_all()


def hashes_of(table: pa.Table) -> npt.NDArray[np.uint64]:
    """Return the pixel hashes of a table: (n, 2) uint64, high first."""
    return np.stack([column(table, "hash_high"), column(table, "hash_low")], axis=1)


def column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column as a NumPy array; text becomes objects."""
    return table[name].combine_chunks().to_numpy(zero_copy_only=False)


def metadata_of(table: pa.Table) -> tuple[str, ...]:
    """Return the names of Google's columns that the table has."""
    return tuple(name for name in METADATA_COLUMNS if name in table.column_names)


def count_ink(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the number of pixels above 0 of every image: (n, h, w) to (n,).

    Adds eight pixels at a time as the bytes of one word, which hold up to 255 each.
    """
    flat = (images != 0).reshape(len(images), -1).view(np.uint8)
    words = flat.shape[1] // 8
    if words == 0 or words > 255 or flat.shape[1] % 8:
        return flat.sum(axis=1, dtype=np.int64)
    lanes = flat.view(np.uint64).sum(axis=1, dtype=np.uint64)
    return lanes.view(np.uint8).reshape(len(images), 8).sum(axis=1, dtype=np.int64)


def difference_hashes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return 64 bits a drawing: whether each cell of an 8x9 thumbnail is darker than the next.

    Drawings that differ by few bits look alike (the "dHash" of picture search).
    """
    count, height, width = images.shape
    rows = np.linspace(0, height, _HASH_ROWS + 1).astype(int)[:-1]
    columns = np.linspace(0, width, _HASH_COLUMNS + 1).astype(int)[:-1]
    summed = np.add.reduceat(images.astype(np.uint32), rows, axis=1)
    cells = np.add.reduceat(summed, columns, axis=2)
    areas = np.diff(np.append(columns, width)).astype(np.float64)
    mean = cells / areas
    bits = mean[:, :, 1:] > mean[:, :, :-1]
    return np.packbits(bits.reshape(count, -1), axis=1).view(">u8").ravel().astype(np.uint64)


def _bounding_boxes(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    top, bottom = _extent(_fold_columns(images) != 0)
    left, right = _extent(_fold_rows(images) != 0)
    return {"top": top, "bottom": bottom, "left": left, "right": right}


def _fold_rows(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the OR of all rows: (n, h, w) to (n, w), by halves, ten times as fast as max."""
    folded = images
    while (height := folded.shape[1]) > 1:
        half = height // 2
        upper = folded[:, :half] | folded[:, half : 2 * half]
        if height % 2:
            upper[:, 0] |= folded[:, -1]
        folded = upper
    return folded[:, 0]


def _fold_columns(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the OR of all columns: (n, h, w) to (n, h), four pixels at a time where it can."""
    if images.shape[2] % 4:
        return images.max(axis=2)
    words = images.view(np.uint32)
    folded = words[:, :, 0].copy()
    for index in range(1, words.shape[2]):
        folded |= words[:, :, index]
    return (folded != 0).view(np.uint8)


def _extent(
    inked: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the first and last place with ink; 255 and 0 where there is none."""
    first = inked.argmax(axis=1)
    last = inked.shape[1] - 1 - inked[:, ::-1].argmax(axis=1)
    blank = ~inked.any(axis=1)
    first[blank], last[blank] = 255, 0
    return first.astype(np.uint8), last.astype(np.uint8)
