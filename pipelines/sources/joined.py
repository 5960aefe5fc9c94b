"""Bitmaps with what the simplified drawings know of them: line i describes row i.

That is true of Google's files and need not be of others, so the first drawing of every batch is
drawn and compared with its bitmap wherever libcairo is at hand.
"""

import logging

import numpy as np
import numpy.typing as npt

from pipelines.drawings import Drawings
from pipelines.official import render_drawings
from pipelines.sources.base import BadFileError, Reader
from pipelines.sources.strokes import StrokeReader

_log = logging.getLogger(__name__)


class JoinedReader:
    """Reads bitmaps and adds the columns of the file of strokes beside them."""

    def __init__(self, bitmaps: Reader, strokes: StrokeReader) -> None:
        self.bitmaps, self.strokes = bitmaps, strokes

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop) with Google's columns.

        Raises BadFileError if the two files are not in the same order.
        """
        drawings = self.bitmaps.read(start, stop)
        self._compare(start, drawings.images[0])
        columns = self.strokes.read_columns(start, stop)
        return Drawings(images=drawings.images, label=drawings.label, **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows."""
        return self.bitmaps.read_rows(rows)

    def _compare(self, row: int, image: npt.NDArray[np.uint8]) -> None:
        strokes = self.strokes.parse(row, row + 1)[0].strokes
        try:
            drawn = render_drawings([strokes], len(image))[0]
        except ValueError as error:
            _log.info("order of metadata not checked: %s", error)
            return
        if not np.array_equal(drawn, image):
            raise BadFileError(
                f"row {row} of the bitmaps is not line {row + 1} of {self.strokes.file.url}: the "
                "two files have different orders or sources and cannot be joined"
            )
