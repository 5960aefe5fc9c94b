"""Bitmaps with what the simplified drawings know of them: line i describes row i.

That is true of Google's files and need not be of others, so some drawings of every batch, its
first and last among them, are drawn and compared with their bitmaps. Needs libcairo for it: what
cannot be checked is not joined.
"""

import numpy as np
import numpy.typing as npt

from pipelines.drawings import Drawings
from pipelines.official import render_drawings
from pipelines.sources.base import BadFileError, Reader
from pipelines.sources.strokes import StrokeReader

# Of the 1,024 rows that a scan reads at once: 2 ms more, a tenth of parsing their lines.
_CHECKED_ROWS = 8


class JoinedReader:
    """Reads bitmaps and adds the columns of the file of strokes beside them."""

    def __init__(self, bitmaps: Reader, strokes: StrokeReader) -> None:
        self.bitmaps, self.strokes = bitmaps, strokes

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop) with Google's columns.

        Raises BadFileError if the two files are not in the same order, ValueError if that cannot
        be seen for want of libcairo.
        """
        drawings = self.bitmaps.read(start, stop)
        count = min(_CHECKED_ROWS, stop - start)
        for place in np.unique(np.linspace(0, stop - start - 1, count).astype(int)).tolist():
            self._compare(start + place, drawings.images[place])
        columns = self.strokes.read_columns(start, stop)
        return Drawings(images=drawings.images, label=drawings.label, **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows."""
        return self.bitmaps.read_rows(rows)

    def _compare(self, row: int, image: npt.NDArray[np.uint8]) -> None:
        strokes = self.strokes.parse(row, row + 1)[0].strokes
        drawn = render_drawings([strokes], len(image))[0]
        if not np.array_equal(drawn, image):
            raise BadFileError(
                f"row {row} of the bitmaps is not line {row + 1} of {self.strokes.file.url}: the "
                "two files have different orders or sources and cannot be joined"
            )
