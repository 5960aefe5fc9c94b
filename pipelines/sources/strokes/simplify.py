"""Convert strokes in any of the known notations to Google's simplified drawings.

    [[x, x, ...], [y, y, ...]]       a stroke of Google's; raw ones have times as a third list
    [[x, y], [x, y], ...]            points as pairs
    [{"x": x, "y": y}, ...]          points as objects
    {"x": [x, ...], "y": [y, ...]}   lists by name

A drawing with times, or with coordinates beyond the page of 0 to 255, is simplified by the recipe
that Google documents: shift to the top left corner, scale the longer side to 255, resample every
stroke at 1 pixel, Ramer-Douglas-Peucker with epsilon 2.0 to the line, round. It gives the
published simplified drawing for nine of ten; the others differ by a pixel or a point somewhere.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.store.printable import describe_value

EPSILON = 2.0
LARGEST = 255.0
LISTS, PAIRS = "lists", "pairs"
RAW, PAGE, CANVAS = "raw", "page", "canvas"

# The longer side of 2,825 of Google's simplified drawings is 241 to 255.
_FILLED_EXTENT = 240.0
# Three points as pairs may be x, y and times of two points; with more there is no other reading.
_MAX_LISTS = 3
# Beyond any screen's pixels a side, and below any drawing's size.
_LARGEST_COORDINATE = 1e6
_SMALLEST_EXTENT = 1e-6

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read the drawings of a file that, by themselves, can be read in two ways.

    points     what [[1, 2], [3, 4]] is: LISTS of x and y, or PAIRS
    is_canvas  a drawing without times that fits on the page was made on a larger one nevertheless,
               unless it fills the page
    """

    points: str = LISTS
    is_canvas: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The strokes (k, 2), x then y, within 0 to 255, of a drawing, and how it was written.

    points  LISTS, PAIRS, or None if it can be read as both or says x and y itself
    scale   RAW (with times), PAGE (0 to 255), CANVAS (any other); None if there are no strokes
    repair  what was converted, None if nothing was; raw drawings are one of Google's formats
    """

    strokes: list[Points]
    points: str | None = None
    scale: str | None = None
    repair: str | None = None


GOOGLE = Reading()


def read_strokes(drawing: Any, reading: Reading = GOOGLE, limits: Limits = DEFAULT) -> Written:
    """Return the strokes of the value that JSON, or another format, has for a drawing.

    Raises ValueError, saying what was found and expected, if it cannot be read for certain or has
    more points than it may.
    """
    repairs = []
    if isinstance(drawing, str):
        drawing = _from_text(drawing)
        repairs.append("strokes as text")
    if not isinstance(drawing, list):
        raise ValueError(f"the drawing is {describe_value(drawing)}, expected a list of strokes")
    if not drawing:
        return Written(strokes=[])
    lists, points, repair = _as_lists(drawing, reading)
    check_points(sum(len(stroke[0]) for stroke in lists if stroke), limits)
    strokes, whole = _split_points(lists)
    has_times = max(map(len, lists)) > 2
    scale = RAW if has_times else _scale_of(whole, reading)
    repairs += [repair] if repair else []
    repairs += ["coordinates of another page"] if scale == CANVAS else []
    return Written(
        strokes=strokes if scale == PAGE else simplify(strokes, limits),
        points=points,
        scale=scale,
        repair=", ".join(repairs) or None,
    )


def check_points(found: int, limits: Limits) -> None:
    """Raise ValueError if a drawing has more points than it may."""
    if problem := limits.problem("max_points", found):
        raise ValueError(problem)


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the drawing is the text {text[:40]!r}, expected strokes") from error


def _as_lists(drawing: list[Any], reading: Reading) -> tuple[list[Any], str | None, str | None]:
    """Return strokes as lists of x, y and perhaps times, how they were written, and the repair."""
    kinds = set(map(type, drawing))
    if kinds == {dict}:
        return [_by_name(stroke, stroke) for stroke in drawing], None, "strokes as objects"
    if kinds != {list}:
        raise ValueError(
            f"a stroke is {_first_other(drawing, list)}, expected [[x, ...], [y, ...]]"
        )
    parts = list(chain.from_iterable(drawing))
    kinds = set(map(type, parts))
    if kinds == {dict}:
        named = [_by_name(stroke[:1] and stroke[0], stroke) for stroke in drawing]
        return named, None, "points as objects"
    if kinds - {list}:
        raise ValueError(f"a stroke has {_first_other(parts, list)}, expected [[x, ...], [y, ...]]")
    if set(map(len, parts)) != {2}:
        return drawing, LISTS, None
    is_certain = max(map(len, drawing)) > _MAX_LISTS
    if not is_certain and reading.points == LISTS:
        return drawing, None, None
    pairs = [list(zip(*stroke, strict=True)) for stroke in drawing]
    return pairs, PAIRS if is_certain else None, "points as pairs"


def _by_name(names: Any, stroke: Any) -> list[Any]:
    """Return x, y and, if `names` has them, times of a stroke of objects."""
    wanted = ["x", "y", "t"] if "t" in names else ["x", "y"]
    try:
        if isinstance(stroke, dict):
            return [list(stroke[name]) for name in wanted]
        return [[point[name] for point in stroke] for name in wanted]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a stroke is {describe_value(stroke)}, expected x and y") from error


def _split_points(strokes: list[Any]) -> tuple[list[Points], Points]:
    """Return each stroke's points, (k, 2), and the points of all, of which they are parts."""
    x: list[Any] = []
    y: list[Any] = []
    for stroke in strokes:
        lengths = set(map(len, stroke))
        if not 2 <= len(stroke) <= _MAX_LISTS or len(lengths) != 1 or 0 in lengths:
            found = " and ".join(str(len(part)) for part in stroke[:4]) or "no"
            raise ValueError(
                f"a stroke has {len(stroke)} lists of {found} numbers, expected x and y, and "
                "perhaps times, of as many points"
            )
        x += stroke[0]
        y += stroke[1]
    if {*map(type, x), *map(type, y)} - {int, float}:
        found = describe_value(next(v for v in x + y if type(v) not in (int, float)))
        raise ValueError(f"a coordinate is {found}, expected a number")
    try:
        points = np.array((x, y), np.float64).T.copy()
    except OverflowError:
        points = np.full((1, 2), np.inf)
    if not (np.abs(points) <= _LARGEST_COORDINATE).all():
        found = points[~(np.abs(points) <= _LARGEST_COORDINATE)][0]
        raise ValueError(f"a coordinate is {found:g}, expected 0 to 255 or pixels of a canvas")
    ends = accumulate((len(stroke[0]) for stroke in strokes), initial=0)
    return [points[start:end] for start, end in pairwise(ends)], points


def _scale_of(points: Points, reading: Reading) -> str:
    """Return PAGE if points without times are to be drawn where they are, else CANVAS."""
    low, high = points.min(), points.max()
    if low < 0 or high > LARGEST:
        return CANVAS
    if high <= 1 and (points % 1).any():  # a page of 0 to 1
        return CANVAS
    # Google's are whole numbers; what fills the page is where it belongs, however it is written.
    if (reading.is_canvas or (points % 1).any()) and not fills_page(points):
        return CANVAS
    return PAGE


def fills_page(points: Points) -> bool:
    """Whether points (k, 2) reach as far as those of Google's simplified drawings do."""
    return bool(np.ptp(points, axis=0).max() >= _FILLED_EXTENT)


def _first_other(values: Sequence[Any], kind: type) -> str:
    return describe_value(next(value for value in values if type(value) is not kind))


def simplify(strokes: Sequence[Points], limits: Limits = DEFAULT) -> list[Points]:
    """Return the simplified strokes (k, 2), whole numbers 0 to 255, of raw strokes (k, 2).

    Raises ValueError if these are too long.
    """
    if not strokes:
        return []
    points = np.concatenate(list(strokes))
    low = points.min(axis=0)
    extent = float((points.max(axis=0) - low).max())
    scale = LARGEST / extent if extent > _SMALLEST_EXTENT else 1.0
    scaled = [(stroke - low) * scale for stroke in strokes]
    if problem := limits.length_problem(int(sum(_steps(stroke).sum() for stroke in scaled))):
        raise ValueError(problem)
    return [np.rint(reduce_points(resample(stroke), EPSILON)) for stroke in scaled]


def resample(points: Points) -> Points:
    """Return points at every pixel of the way along a stroke, and its end.

    A stroke without length is its point twice, as in the published files.
    """
    way = np.concatenate([[0.0], np.cumsum(_steps(points))])
    if way[-1] == 0:
        return np.repeat(points[:1], 2, axis=0)
    at = np.append(np.arange(0.0, way[-1], 1.0), way[-1])
    return np.stack([np.interp(at, way, points[:, 0]), np.interp(at, way, points[:, 1])], axis=1)


def _steps(points: Points) -> Points:
    return np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)


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
