"""Per-drawing attributes: what selection and planning need, so that pixels are read once.

Computed once for each range of a source file and kept in the store's scratch, beside the data:
a changed threshold, split or class list reads these 30 bytes a drawing, never the pixels.

    hash_high, hash_low     uint64   xxh3_128 of the pixels
    ink                     uint16   pixels above 0
    peak                    uint8    the largest pixel
    bad_row                 uint8    0, or 1 + the position in BAD_ROW_REASONS of why it is no drawing
    difference_hash         uint64   signs of horizontal steps in an 8x9 thumbnail, if asked for
    label                   int16    position in the source's class names, if files mix classes
    key_id, country_code, recognized, timestamp   those that were asked for
    problem, repair         string   of the rows that have one, see Drawings

A shard reads the attributes of its own rows, not the whole table. A local table is memory-mapped: a
process reads it once to check its seal, and then only the pages of the wanted rows. A remote table
is fetched and checked once per process, into an unlinked temporary file.
"""

import functools
import mmap
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.batch import METADATA_COLUMNS, Drawings, count_ink
from pipelines.drawings.hashing import pixel_hashes
from pipelines.drawings.limits import is_limit_problem
from pipelines.drawings.polarity import inverted
from pipelines.store.artifacts import Store
from pipelines.store.scratch import read_scratch, unsealed

# What Arrow wants its buffers aligned to.
_ALIGNMENT = 64


# Part of the address of kept attributes: bumped when their meaning or form changes.
ATTRIBUTES_VERSION = 4
ERROR_KEY = b"bad_file"
_HASH_ROWS, _HASH_COLUMNS = 8, 9
BAD_ROW_REASONS = ("unreadable", "inverted", "faint", "oversized")
# Ink reaches 255: the faintest of 139,651 drawings of Google's has a pixel of 223, and a dot in
# the middle of the page, which four pixels share, has 108.
_FAINT_PEAK = 104


def drawing_attributes(
    drawings: Drawings,
    *,
    with_label: bool = False,
    with_difference_hash: bool = False,
    is_trusted: bool = False,
) -> pa.Table:
    """Return the attributes of a batch as a table of as many rows.

    is_trusted: the pixels are known to be drawings, so that they are not judged.
    """
    images = np.ascontiguousarray(drawings.images)
    hashes = pixel_hashes(images)
    ink = count_ink(images)
    peak = images.reshape(len(images), -1).max(axis=1, initial=0)
    columns: dict[str, object] = {
        "hash_high": hashes[:, 0],
        "hash_low": hashes[:, 1],
        "ink": ink.astype(np.uint16),
        "peak": peak,
        "bad_row": _bad_rows(drawings, ink, peak, is_trusted=is_trusted),
    }
    if with_difference_hash:
        columns["difference_hash"] = difference_hashes(images)
    if with_label:
        columns["label"] = drawings.label.astype(np.int16)
    columns |= drawings.metadata()
    for name in ("problem", "repair"):
        values = getattr(drawings, name)
        if values is not None:
            columns[name] = pa.array(values, pa.string())
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


def table_from_bytes(content: bytes | memoryview) -> pa.Table:
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


def _bad_rows(
    drawings: Drawings, ink: npt.NDArray[np.int64], peak: npt.NDArray[np.uint8], *, is_trusted: bool
) -> npt.NDArray[np.uint8]:
    bad = np.zeros(len(drawings), np.uint8)
    if not is_trusted:
        bad[(peak > 0) & (peak < _FAINT_PEAK)] = 1 + BAD_ROW_REASONS.index("faint")
        bad[inverted(drawings.images, ink)] = 1 + BAD_ROW_REASONS.index("inverted")
    if drawings.problem is not None:
        for row, text in enumerate(drawings.problem):
            if text is not None:
                reason = "oversized" if is_limit_problem(text) else "unreadable"
                bad[row] = 1 + BAD_ROW_REASONS.index(reason)
    return bad


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


def read_table_rows(store: Store, path: str, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return these rows of the attributes that are kept under `path`.

    Raises ScratchError if the table is not what was written.
    """
    if (local := store.local_path(path)) is None:
        return _fetched_of(store).table(path).take(rows)
    _check_once(path, local, stamp_of(local))
    with pa.memory_map(str(local)) as file:
        return pa.ipc.open_stream(file).read_all().take(rows)


def stamp_of(local: Path) -> str:
    """Return what changes when a file of the scratch is written anew."""
    found = local.stat()
    return f"{found.st_mtime_ns}-{found.st_ino}"


@functools.lru_cache(maxsize=1 << 16)
def _check_once(path: str, local: Path, _stamp: str) -> None:
    unsealed(local.read_bytes(), path)


class Fetched:
    """Remote tables, one after the other in one file that is mapped as a whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._file = tempfile.TemporaryFile(prefix="sketchmill-")  # noqa: SIM115  (closed with this object)
        weakref.finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()  # some runners have several bundles at once in a process

    def table(self, path: str) -> pa.Table:
        """Return a table, fetched now unless it was before."""
        with self._lock:
            return self._table(path)

    def _table(self, path: str) -> pa.Table:
        if path not in self._places:
            content = read_scratch(self._store, path)
            self._file.seek(self._end)
            self._file.write(content)
            self._file.flush()
            self._places[path] = self._end, len(content)
            self._end += -(-len(content) // _ALIGNMENT) * _ALIGNMENT
            self._map = None
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        start, length = self._places[path]
        return pa.ipc.open_stream(pa.py_buffer(self._map).slice(start, length)).read_all()


@functools.lru_cache(maxsize=1)
def _fetched_of(store: Store) -> Fetched:
    """Return the process's own copies; the store is the one of the running pipeline."""
    return Fetched(store)
