"""From raw drawings to simplified ones, by the recipe that Google documents.

Shift to the top left corner, scale the longer side to 255, resample every stroke at 1 pixel,
Ramer-Douglas-Peucker with epsilon 2.0 to the line, round. It gives the published simplified
drawing for nine of ten; the others differ by a pixel or a point somewhere.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EPSILON = 2.0
LARGEST = 255.0

Points = npt.NDArray[np.float64]


def simplify(strokes: Sequence[Points]) -> list[Points]:
    """Return the simplified strokes (k, 2), whole numbers 0 to 255, of raw strokes (k, 2)."""
    if not strokes:
        return []
    points = np.concatenate(list(strokes))
    low = points.min(axis=0)
    extent = float((points.max(axis=0) - low).max())
    scale = LARGEST / extent if extent > 0 else 1.0
    return [np.rint(reduce_points(resample((s - low) * scale), EPSILON)) for s in strokes]


def resample(points: Points) -> Points:
    """Return points at every pixel of the way along a stroke, and its end.

    A stroke without length is its point twice, as in the published files.
    """
    steps = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    if way[-1] == 0:
        return np.repeat(points[:1], 2, axis=0)
    at = np.append(np.arange(0.0, way[-1], 1.0), way[-1])
    return np.stack([np.interp(at, way, points[:, 0]), np.interp(at, way, points[:, 1])], axis=1)


def reduce_points(points: Points, epsilon: float) -> Points:
    """Return the points that Ramer-Douglas-Peucker keeps, distances to the line, not the segment."""
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        place, distance = _farthest(points, first, last)
        if distance > epsilon:
            keep[place] = True
            spans += [(first, place), (place, last)]
    return points[keep]


def _farthest(points: Points, first: int, last: int) -> tuple[int, float]:
    x, y = (points[first + 1 : last] - points[first]).T
    along_x, along_y = points[last] - points[first]
    length = np.hypot(along_x, along_y)
    away = np.hypot(x, y) if length == 0 else np.abs(along_x * y - along_y * x) / length
    place = int(away.argmax())
    return first + 1 + place, float(away[place])
