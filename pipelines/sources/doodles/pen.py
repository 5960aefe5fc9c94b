"""A pen with the habits of a hurried person: wobble, overshoot and missing parts.

Shapes are drawn on a page of 1 by 1, y downwards, as a person would: stroke by stroke. The pen
draws guide lines; the hand follows them with wobble and tilt, and fits them to the page. The hand
works on the strokes of many drawings at once, laid end to end: what takes a hundred calls of NumPy
for a drawing takes as many for a hundred drawings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

# Numbers drawn in advance: one call of the generator costs more than a hundred numbers.
_POOL = 640
_CURVE_STEPS = 6

_T = np.arange(_CURVE_STEPS)[:, None] / _CURVE_STEPS
# Catmull-Rom: the weights of four knots along the way from the second to the third.
_CATMULL_ROM = 0.5 * np.concatenate(
    [
        -_T + 2 * _T**2 - _T**3,
        2 - 5 * _T**2 + 3 * _T**3,
        _T + 4 * _T**2 - 3 * _T**3,
        -(_T**2) + _T**3,
    ],
    axis=1,
)


# Points on a line as long as the page, at speed 1.
_POINTS_PER_PAGE = 36
_WAVES = ((9.0, 23.0), (8.0, 21.0))


class Pen:
    """Collects the guide lines of one drawing; every irregularity comes from `rng`.

    speed       how fast: fewer points, more wobble
    wobble      of the hand, as part of the page
    sloppiness  how far corners miss their places
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.strokes: list[Points] = []
        self._uniform = iter(rng.random(_POOL).tolist())
        self._normal = rng.standard_normal(2 * _POOL)
        self._taken = 0
        self.speed = self.between(0.6, 1.8)
        self.wobble = self.between(0.002, 0.012) * self.speed
        self.sloppiness = self.between(0.004, 0.022)

    def chance(self, probability: float) -> bool:
        """Return whether to draw an optional part."""
        return next(self._uniform) < probability

    def between(self, low: float, high: float) -> float:
        """Return a number of this range."""
        return low + (high - low) * next(self._uniform)

    def count(self, low: int, high: int) -> int:
        """Return a whole number of this range, both ends included."""
        return low + int(next(self._uniform) * (high - low + 1))

    def near(self, value: float, spread: float = 0.02) -> float:
        """Return about `value`."""
        return value + spread * float(self.normals(1)[0])

    def normals(self, number: int) -> npt.NDArray[np.float64]:
        """Return `count` standard normal numbers."""
        assert self._taken + number <= len(self._normal), "a doodle needs more random numbers"
        taken = self._normal[self._taken : self._taken + number]
        self._taken += number
        return taken

    def line(self, *corners: tuple[float, float], closed: bool = False) -> None:
        """Draw straight lines from corner to corner."""
        self.strokes.append(self._jittered(corners, closed))

    def curve(self, *knots: tuple[float, float], closed: bool = False) -> None:
        """Draw a smooth line through all knots."""
        points = self._jittered(knots, closed)
        first, last = (points[-2], points[1]) if closed else (points[0], points[-1])
        padded = np.concatenate([first[None], points, last[None]])
        windows = np.stack([padded[:-3], padded[1:-2], padded[2:-1], padded[3:]], axis=1)
        smooth = (_CATMULL_ROM[None, :, :, None] * windows[:, None]).sum(axis=2)
        self.strokes.append(np.concatenate([smooth.reshape(-1, 2), points[-1:]]))

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float | None = None,
        *,
        start: float | None = None,
        sweep: float = 360,
        turn: float = 0,
    ) -> None:
        """Draw an ellipse or an arc; angles in degrees, clockwise from three o'clock.

        Whole ellipses begin anywhere and rarely meet their beginning.
        """
        ry = rx if ry is None else ry
        if sweep == 360:
            sweep = self.near(362, 9)
        begin = self.between(0, 360) if start is None else start
        steps = max(5, int(abs(sweep) / 360 * (10 + 60 * max(rx, ry))))
        angles = math.radians(begin) + np.arange(steps) * (math.radians(sweep) / (steps - 1))
        wide, high, right, down = self.normals(4).tolist()
        px, py = rx * (1 + 0.05 * wide) * np.cos(angles), ry * (1 + 0.05 * high) * np.sin(angles)
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        points = np.empty((steps, 2))
        points[:, 0] = x + right * self.sloppiness / 2 + c * px - s * py
        points[:, 1] = y + down * self.sloppiness / 2 + s * px + c * py
        self.strokes.append(points)

    def cloud(self, x: float, y: float, rx: float, ry: float, bumps: int) -> None:
        """Draw a closed line of bumps around an ellipse, as for wool and leaves."""
        angles = np.arange(bumps * 5 + 1) * (2 * math.pi / (bumps * 5))
        swell = 1 + 0.16 * np.abs(np.sin(angles * bumps / 2))
        swell *= 1 + 0.02 * self.normals(len(angles))
        angles += self.between(0, 2 * math.pi)
        points = np.stack([x + rx * swell * np.cos(angles), y + ry * swell * np.sin(angles)], 1)
        self.strokes.append(points)

    def dot(self, x: float, y: float, size: float = 0.012) -> None:
        """Draw a small filled spot."""
        self.ellipse(x, y, size, sweep=300)

    def mirror(self, first_stroke: int, x: float) -> None:
        """Repeat the strokes from `first_stroke` on mirrored at a vertical line, not exactly."""
        for stroke in self.strokes[first_stroke:]:
            scale, shift = 1 + 0.03 * self.normals(2), 0.01 * self.normals(2)
            self.strokes.append((stroke * [-1, 1] + [2 * x, 0]) * scale + shift)

    def _jittered(self, places: tuple[tuple[float, float], ...], closed: bool) -> Points:
        points = np.array([*places, places[0]] if closed else places)
        return points + self.sloppiness * self.normals(points.size).reshape(points.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """One drawing to be followed: its strokes and how the hand is held.

    matrix  (2, 2) turns, slants and stretches the page
    own     (strokes, 2) shifts each stroke
    phases  (strokes, 4) of the wobble
    """

    strokes: list[Points]
    speed: float
    wobble: float
    matrix: Points
    own: Points
    phases: Points


def hold(pen: Pen, *, can_mirror: bool) -> Guide:
    """Return the guide of a finished pen: with parts left out, tilted, for an unsteady hand."""
    strokes = _leave_out(pen)
    turn, stretch, slant = pen.normals(3).tolist()
    c, s = np.cos(np.radians(5 * turn)), np.sin(np.radians(5 * turn))
    wide = np.exp(0.12 * stretch) * (-1 if can_mirror and pen.chance(0.5) else 1)
    matrix = np.array([[c * wide, c * 0.06 * slant - s], [s * wide, s * 0.06 * slant + c]])
    own = 0.008 * pen.normals(2 * len(strokes)).reshape(-1, 2)
    phases = pen.rng.random((len(strokes), 4)) * 2 * np.pi
    return Guide(
        strokes=strokes, speed=pen.speed, wobble=pen.wobble, matrix=matrix, own=own, phases=phases
    )


def follow(guides: Sequence[Guide]) -> list[list[npt.NDArray[np.int64]]]:
    """Return the drawings: strokes (k, 2) of whole numbers 0 to 255, top left corner at 0.

    Every drawing depends on its own guide alone.
    """
    strokes = [stroke for guide in guides for stroke in guide.strokes]
    per_drawing = np.array([len(guide.strokes) for guide in guides])
    owner = np.repeat(np.arange(len(guides)), per_drawing)
    speed = np.array([guide.speed for guide in guides])[owner]
    points, along, stroke_of = _resample(strokes, speed)
    wobble = np.array([guide.wobble for guide in guides])[owner][stroke_of]
    phases = np.concatenate([guide.phases for guide in guides])[stroke_of]
    for axis, (slow, fast) in enumerate(_WAVES):
        wave = np.sin(along * slow + phases[:, 2 * axis])
        wave += np.sin(along * fast + phases[:, 2 * axis + 1])
        points[:, axis] += wobble * wave
    points -= 0.5
    matrix = np.stack([guide.matrix for guide in guides])[owner[stroke_of]]
    own = np.concatenate([guide.own for guide in guides])[stroke_of]
    x = matrix[:, 0, 0] * points[:, 0] + matrix[:, 0, 1] * points[:, 1] + own[:, 0]
    y = matrix[:, 1, 0] * points[:, 0] + matrix[:, 1, 1] * points[:, 1] + own[:, 1]
    placed = _to_page(np.stack([x, y], axis=1), owner[stroke_of])
    return _split(placed, stroke_of, per_drawing)


def _leave_out(pen: Pen) -> list[Points]:
    """Drop a stroke now and then, and shorten some, as people do."""
    strokes = list(pen.strokes)
    if len(strokes) > 3 and pen.chance(0.12):
        del strokes[pen.count(1, len(strokes) - 1)]
    if pen.chance(0.15):
        index = pen.count(0, len(strokes) - 1)
        kept = max(2, int(len(strokes[index]) * pen.between(0.75, 0.95)))
        strokes[index] = strokes[index][:kept]
    return strokes


def _resample(
    strokes: Sequence[Points], speed: npt.NDArray[np.float64]
) -> tuple[Points, npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return points at even steps along all strokes, their way along it, and their stroke.

    The corners of strokes with few of them are kept beside the even steps.
    """
    sizes = np.array([len(stroke) for stroke in strokes])
    points = np.concatenate(strokes)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    stroke_of = np.repeat(np.arange(len(strokes)), sizes)
    steps = np.zeros(len(points))
    steps[1:] = np.sqrt(((points[1:] - points[:-1]) ** 2).sum(axis=1))
    # From one stroke to the next lies a gap of 1, so that one interpolation serves all.
    steps[first] = 1.0
    way = np.cumsum(steps)
    begin, end = way[first], way[first + sizes - 1]
    number = np.maximum(2, ((end - begin) * _POINTS_PER_PAGE / speed).astype(np.int64) + 1)
    index = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    even = np.repeat(begin, number) + index * np.repeat((end - begin) / (number - 1), number)
    corners = np.repeat(sizes <= 12, sizes)
    at = np.concatenate([even, way[corners]])
    of = np.concatenate([np.repeat(np.arange(len(strokes)), number), stroke_of[corners]])
    order = np.lexsort((at, of))
    at, of = at[order], of[order]
    even_points = np.stack([np.interp(at, way, points[:, 0]), np.interp(at, way, points[:, 1])], 1)
    return even_points, at - begin[of], of


def _to_page(points: Points, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Scale each drawing to 0..255, its longer side filling the page."""
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    low = np.minimum.reduceat(points, first)
    extent = (np.maximum.reduceat(points, first) - low).max(axis=1)
    scale = 255 / np.maximum(extent, 1e-9)
    return np.rint((points - low[owner]) * scale[owner, None]).astype(np.int64)


def _split(
    points: npt.NDArray[np.int64],
    stroke_of: npt.NDArray[np.int64],
    per_drawing: npt.NDArray[np.int64],
) -> list[list[npt.NDArray[np.int64]]]:
    """Cut the points into strokes and drawings, without points repeated in place."""
    new_stroke = np.diff(stroke_of, prepend=-1) != 0
    moved = np.concatenate([[True], (points[1:] != points[:-1]).any(axis=1)]) | new_stroke
    points, new_stroke = points[moved], new_stroke[moved]
    strokes = np.split(points, np.flatnonzero(new_stroke)[1:])
    ends = np.cumsum(per_drawing)
    return [strokes[end - count : end] for end, count in zip(ends, per_drawing, strict=True)]
