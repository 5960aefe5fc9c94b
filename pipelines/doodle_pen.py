"""A pen that draws like a hurried person: strokes with wobble, overshoot and missing parts.

Shapes are drawn on a page of 1 by 1, y downwards, as a person would: stroke by stroke. What is
drawn here are guide lines; `pipelines.doodle_hand` then follows them, many drawings at once.
"""

import math

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
        """Return so many standard normal numbers."""
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
