"""Rasterize strokes with NumPy alone, for machines without libcairo.

Coverage of a pixel is clip(radius + 1/2 - distance to the line, 0, 1), on the page of Google's
bitmaps: a line 16 wide, on 256 units and 24 of margin on both sides, shrunk to the bitmap, the
drawing in the middle by its largest coordinates. It looks like the official bitmaps and is not
equal to them: pipelines/sources/strokes/cairo.py is. Only additions, products and roots: the same
everywhere.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PAGE = 256.0
MARGIN = 24.0
LINE_WIDTH = 16.0

_MAX_PIECE_PIXELS = 2.0
_CHUNK_PIECES = 8_192

Points = npt.NDArray[np.float64]


def rasterize(
    drawings: Sequence[Sequence[npt.NDArray[np.generic]]], size: int = 28
) -> npt.NDArray[np.uint8]:
    """Return the bitmaps (n, size, size) uint8 of drawings, each a list of strokes (k, 2).

    Coordinates are Google's: x right, y down, 0 to 255.
    """
    images = np.zeros((len(drawings), size, size), np.float32)
    if not drawings:
        return images.astype(np.uint8)
    begins, ends, owners = _segments(drawings, size)
    begins, ends, owners = _cut_short(begins, ends, owners)
    radius = LINE_WIDTH / 2 * size / (PAGE + 2 * MARGIN)
    for start in range(0, len(owners), _CHUNK_PIECES):
        part = slice(start, start + _CHUNK_PIECES)
        _stamp(images, begins[part], ends[part], owners[part], radius)
    return np.rint(images * 255).astype(np.uint8)


def _segments(
    drawings: Sequence[Sequence[npt.NDArray[np.generic]]], size: int
) -> tuple[Points, Points, npt.NDArray[np.int64]]:
    """Return both ends of all segments in pixels, and the drawing of each."""
    strokes = [stroke for drawing in drawings for stroke in drawing]
    owner = np.repeat(np.arange(len(drawings)), [len(drawing) for drawing in drawings])
    sizes = np.array([len(stroke) for stroke in strokes])
    points = np.concatenate(strokes).astype(np.float64)
    of_stroke = np.repeat(np.arange(len(strokes)), sizes)
    of_drawing = owner[of_stroke]
    largest = np.maximum.reduceat(points, np.flatnonzero(np.diff(of_drawing, prepend=-1)))
    points += ((PAGE - largest) / 2 + MARGIN)[of_drawing]
    points *= size / (PAGE + 2 * MARGIN)
    joined = of_stroke[1:] == of_stroke[:-1]
    # A stroke of one point is a dot: a segment of length 0.
    alone = np.repeat(sizes == 1, sizes)
    begins = np.concatenate([points[:-1][joined], points[alone]])
    ends = np.concatenate([points[1:][joined], points[alone]])
    return begins, ends, np.concatenate([of_drawing[:-1][joined], of_drawing[alone]])


def _cut_short(
    begins: Points, ends: Points, owners: npt.NDArray[np.int64]
) -> tuple[Points, Points, npt.NDArray[np.int64]]:
    """Cut segments into pieces of two pixels at most, so that each touches a small window."""
    steps = ends - begins
    pieces = np.maximum(1, np.ceil(np.sqrt((steps**2).sum(1)) / _MAX_PIECE_PIXELS)).astype(np.int64)
    source = np.repeat(np.arange(len(pieces)), pieces)
    place = np.arange(len(source)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = 1 / pieces[source]
    first = begins[source] + steps[source] * (place * share)[:, None]
    last = begins[source] + steps[source] * ((place + 1) * share)[:, None]
    return first, last, owners[source]


def _stamp(
    images: npt.NDArray[np.float32],
    begins: Points,
    ends: Points,
    owners: npt.NDArray[np.int64],
    radius: float,
) -> None:
    """Raise the pixels around each piece to its coverage."""
    size = images.shape[1]
    reach = radius + 0.5
    side = int(np.ceil(_MAX_PIECE_PIXELS + 2 * reach)) + 1
    corner = np.floor(np.minimum(begins, ends) - reach).astype(np.int64)
    x = corner[:, 0, None, None] + np.arange(side)[None, None, :]
    y = corner[:, 1, None, None] + np.arange(side)[None, :, None]
    step = ends - begins
    square = np.maximum((step**2).sum(1), 1e-12)[:, None, None]
    dx = x + 0.5 - begins[:, 0, None, None]
    dy = y + 0.5 - begins[:, 1, None, None]
    sx, sy = step[:, 0, None, None], step[:, 1, None, None]
    along = np.clip((dx * sx + dy * sy) / square, 0, 1)
    away = np.sqrt((dx - along * sx) ** 2 + (dy - along * sy) ** 2)
    coverage = np.clip(reach - away, 0, 1).astype(np.float32)
    inside = (coverage > 0) & (x >= 0) & (x < size) & (y >= 0) & (y < size)
    index = (owners[:, None, None] * size + y) * size + x
    np.maximum.at(images.reshape(-1), index[inside], coverage[inside])
