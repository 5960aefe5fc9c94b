"""Columns and pictures of any length beside the memory: written to a temporary file, then mapped.

20 bytes a drawing are 1 GB for 50 million of them. Mapped pages are the system's to drop, so an
audit stays within its memory; they lie where TMPDIR says.
"""

import tempfile
import weakref
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)


class Spill(Generic[Scalar]):
    """Arrays of one kind that come one after the other and are one array in the end."""

    def __init__(self, kind: type[Scalar]) -> None:
        """Open the file; it is gone with this object and the arrays it gave."""
        self._dtype, self._rows = np.dtype(kind), 0
        self._shape: tuple[int, ...] = ()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed in array)
        weakref.finalize(self, self._file.close)  # also where an error comes before that

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Append values (n, ...); all but n are the same in every call."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._shape, self._rows = values.shape[1:], self._rows + len(values)

    def array(self) -> npt.NDArray[Scalar]:
        """Return everything, read-only; nothing can be added after."""
        shape = (self._rows, *self._shape)
        with self._file:
            self._file.flush()
            if not self._rows:  # nothing can be mapped
                return np.zeros(shape, self._dtype)
            return np.memmap(self._file, self._dtype, "r", shape=shape)
