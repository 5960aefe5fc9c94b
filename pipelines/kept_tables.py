"""The attributes of planned rows, read where they lie: no shard reads a whole table.

On a local disk a table is mapped; a process reads it once as a whole, to check its seal, and then
only the pages of the rows asked for. A remote one is fetched and checked once a process, into a
file that has no name and so ends with the process.
"""

import functools
import mmap
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.scratch import read_scratch, unsealed
from pipelines.store import Store

# What Arrow wants its buffers aligned to.
_ALIGNMENT = 64


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
