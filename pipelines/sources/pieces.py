"""One file, local or remote, as a Python file: for Arrow, and for parsers that ask for few bytes."""

import io

from pipelines.sources.base import BadFileError
from pipelines.sources.files import FileRanges

# Read at once, and the most that a parser may ask for, whatever a header says.
PIECE_BYTES = 1 << 20


class RangeFile(io.RawIOBase):
    """One file with the interface of Python's files, for Arrow."""

    def __init__(self, url: str, size: int) -> None:
        """Open a file of this size in bytes."""
        self.ranges, self.size, self.place = FileRanges(url), size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place counted from the start, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = base + offset
        return self.place

    def read(self, size: int = -1) -> bytes:
        """Return the bytes from here on, at most `size`; none at the end."""
        left = max(0, self.size - self.place)
        content = self.ranges.read(self.place, left if size < 0 else min(size, left))
        self.place += len(content)
        return content


class PieceFile(RangeFile):
    """A file, local or remote, of which the last piece is kept."""

    def __init__(self, url: str, size: int) -> None:
        """Open a file of this size in bytes."""
        super().__init__(url, size)
        self._start, self._piece = 0, b""

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes from here on, or a piece; fewer only at the end."""
        size = min(PIECE_BYTES if size < 0 else size, max(0, self.size - self.place))
        if size > PIECE_BYTES:
            raise BadFileError(f"{self.ranges.url} has a header of {size} bytes: it is damaged")
        if size and not self._holds(self.place, size):
            length = min(PIECE_BYTES, self.size - self.place)
            self._start, self._piece = self.place, self.ranges.read(self.place, length)
        begin = self.place - self._start
        self.place += size
        return self._piece[begin : begin + size] if size else b""

    def at(self, offset: int, size: int) -> bytes:
        """Return these bytes, of the piece if they are in it; the place stays."""
        if not self._holds(offset, size):
            return self.ranges.read(offset, size)
        return self._piece[offset - self._start : offset - self._start + size]

    def _holds(self, offset: int, size: int) -> bool:
        return self._start <= offset and offset + size <= self._start + len(self._piece)
