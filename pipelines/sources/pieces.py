"""Read one file from its beginning on, in pieces, for parsers that ask for a few bytes at a time."""

from pipelines.sources.base import BadFileError
from pipelines.sources.tables.files import RangeFile

# Read at once, and the most that a parser may ask for, whatever a header says.
PIECE_BYTES = 1 << 20


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
