"""Doodles of things: bicycle, guitar, rollerskates, The Eiffel Tower, tractor, train."""

import math

from pipelines.sources.doodles.pen import Pen


def bicycle(pen: Pen) -> None:
    """Two wheels, a frame, a saddle and a handlebar."""
    r, y = pen.between(0.17, 0.21), 0.68
    back, front = (0.21, y), (0.79, y)
    pen.ellipse(*back, r)
    pen.ellipse(*front, r)
    crank, seat, head = (0.44, y), (0.36, 0.4), (0.68, 0.38)
    pen.line(back, seat, crank, back)
    pen.line(seat, head, crank)
    pen.line((0.65, 0.26), front)
    pen.line((0.35, 0.4), (0.33, 0.3))
    pen.line((0.25, 0.3), (0.41, 0.3))
    pen.curve((0.65, 0.26), (0.74, 0.22), (0.79, 0.28))
    if pen.chance(0.25):
        for x, _ in (back, front):
            for index in range(3):
                c, s = r * math.cos(index * 1.05), r * math.sin(index * 1.05)
                pen.line((x - c, y - s), (x + c, y + s))
    if pen.chance(0.35):
        pen.ellipse(*crank, 0.045)


def guitar(pen: Pen) -> None:
    """A waisted body with a hole, a long neck, a head and strings, leaning as people hold it."""
    first = len(pen.strokes)
    wide = pen.between(0.2, 0.25)
    pen.curve(
        (0.5, 0.5), (0.5 - wide * 0.75, 0.53), (0.5 - wide * 0.7, 0.66), (0.5 - wide, 0.8),
        (0.5 - wide * 0.8, 0.96), (0.5, 1.0), (0.5 + wide * 0.8, 0.96), (0.5 + wide, 0.8),
        (0.5 + wide * 0.7, 0.66), (0.5 + wide * 0.75, 0.53), closed=True,
    )  # fmt: skip
    pen.ellipse(0.5, 0.7, 0.07)
    pen.line((0.465, 0.62), (0.465, 0.14))
    pen.line((0.535, 0.14), (0.535, 0.62))
    pen.line((0.465, 0.14), (0.44, 0.0), (0.56, 0.0), (0.535, 0.14), closed=pen.chance(0.5))
    for index in range(pen.count(0, 2)):
        x = 0.49 + 0.02 * index
        pen.line((x, 0.14), (x, 0.86))
    if pen.chance(0.7):
        pen.line((0.42, 0.87), (0.58, 0.87))
    if pen.chance(0.5):
        for y in (0.03, 0.08):
            pen.line((0.4, y), (0.44, y))
            pen.line((0.56, y), (0.6, y))
    _turn(pen, first, pen.near(38, 12) if pen.chance(0.6) else pen.near(0, 6))


def rollerskates(pen: Pen) -> None:
    """A boot with a toe, a plate and wheels."""
    top, heel = pen.between(0.02, 0.1), pen.near(0.16, 0.02)
    pen.line((heel, top), (heel, 0.72))
    pen.line((heel, top), (0.48, top))
    pen.curve((0.48, top), (0.49, 0.3), (0.56, 0.42), (0.76, 0.47), (0.88, 0.56), (0.88, 0.72))
    pen.line((heel - 0.03, 0.72), (0.91, 0.72))
    wheels = 2 if pen.chance(0.5) else pen.count(3, 4)
    radius = 0.1 if wheels == 2 else 0.38 / wheels
    for index in range(wheels):
        x = 0.27 + 0.52 * index / (wheels - 1)
        pen.ellipse(x, 0.77 + radius, radius)
        if pen.chance(0.4):
            pen.dot(x, 0.77 + radius)
    for index in range(pen.count(0, 4)):
        y = 0.16 + 0.09 * index
        pen.line((0.36, y), (0.5 + 0.02 * index, y + 0.02))
    if pen.chance(0.3):
        pen.line((heel, top + 0.09), (0.48, top + 0.09))


def eiffel_tower(pen: Pen) -> None:
    """Two legs that curve together, platforms, an arch and lattice."""
    wide, first = pen.between(0.3, 0.38), len(pen.strokes)
    pen.curve((0.5 - 0.015, 0.08), (0.46, 0.35), (0.5 - wide * 0.4, 0.66), (0.5 - wide, 1.0))
    pen.mirror(first, 0.5)
    pen.line((0.5, 0.0), (0.5, 0.1))
    for y, half in ((0.38, 0.075), (0.66, 0.165)):
        if pen.chance(0.92):
            pen.line((0.5 - half, y), (0.5 + half, y))
            if pen.chance(0.4):
                pen.line((0.5 - half, y + 0.035), (0.5 + half, y + 0.035))
    inner = wide - 0.13
    pen.curve((0.5 - inner, 1.0), (0.5 - inner * 0.75, 0.82), (0.5, 0.74), (0.5 + inner * 0.75, 0.82),
              (0.5 + inner, 1.0))  # fmt: skip
    if pen.chance(0.7):
        for side in (-1, 1):
            pen.line((0.5 + side * wide, 1.0), (0.5 + side * inner, 1.0))
    if pen.chance(0.5):
        pen.line((0.44, 0.4), (0.6, 0.64))
        pen.line((0.56, 0.4), (0.4, 0.64))
    if pen.chance(0.3):
        pen.line((0.48, 0.2), (0.55, 0.36))
        pen.line((0.52, 0.2), (0.45, 0.36))


def tractor(pen: Pen) -> None:
    """A large wheel behind, a small one in front, a hood, a cab and a pipe."""
    r = pen.between(0.2, 0.25)
    pen.ellipse(0.27, 0.98 - r, r)
    pen.ellipse(0.27, 0.98 - r, r * pen.between(0.35, 0.55))
    small = pen.between(0.11, 0.14)
    pen.ellipse(0.8, 0.98 - small, small)
    if pen.chance(0.7):
        pen.ellipse(0.8, 0.98 - small, small * 0.4)
    pen.line((0.48, 0.78), (0.52, 0.78), (0.68, 0.8))
    pen.line((0.5, 0.46), (0.93, 0.47), (0.94, 0.78))
    pen.line((0.12, 0.56), (0.14, 0.12))
    pen.line((0.08, 0.12), (0.52, 0.12))
    pen.line((0.48, 0.12), (0.5, 0.46), (0.5, 0.76))
    if pen.chance(0.6):
        pen.line((0.2, 0.2), (0.42, 0.2), (0.43, 0.42), (0.2, 0.42), closed=True)
    if pen.chance(0.75):
        pen.line((0.76, 0.47), (0.76, 0.24), (0.81, 0.24), (0.81, 0.47))
    if pen.chance(0.25):
        pen.curve((0.79, 0.2), (0.84, 0.12), (0.78, 0.06), (0.86, 0.0))


def train(pen: Pen) -> None:
    """An engine with boiler, cab and chimney, sometimes pulling a car."""
    car = pen.chance(0.4)
    s, x0 = (0.62, 0.38) if car else (1.0, 0.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x0 + s * x, 0.9 - s * (0.9 - y))

    pen.line(at(0.05, 0.78), at(0.05, 0.22), at(0.4, 0.22), at(0.4, 0.78))
    pen.line(at(0.0, 0.22), at(0.45, 0.22))
    pen.line(at(0.4, 0.45), at(0.92, 0.45), at(0.92, 0.78), at(0.05, 0.78))
    pen.line(at(0.13, 0.3), at(0.32, 0.3), at(0.32, 0.48), at(0.13, 0.48), closed=True)
    pen.line(at(0.74, 0.45), at(0.71, 0.22), at(0.86, 0.22), at(0.82, 0.45))
    if pen.chance(0.5):
        pen.line(at(0.92, 0.78), at(1.0, 0.88), at(0.86, 0.88))
    if pen.chance(0.5):
        pen.cloud(*at(0.7, 0.1), s * 0.1, s * 0.06, 5)
    for x in (0.18, 0.48, 0.76) if pen.chance(0.6) else (0.2, 0.72):
        pen.ellipse(*at(x, 0.84), s * pen.between(0.08, 0.11))
    if car:
        _car(pen)
    if pen.chance(0.3):
        pen.line((0.0, 0.96), (1.0, 0.96))


def _car(pen: Pen) -> None:
    pen.line((0.0, 0.52), (0.32, 0.52), (0.32, 0.83), (0.0, 0.83), closed=True)
    pen.line((0.32, 0.76), (0.41, 0.76))
    for x in (0.08, 0.25):
        pen.ellipse(x, 0.88, 0.055)
    if pen.chance(0.6):
        for x in (0.05, 0.18):
            pen.line((x, 0.58), (x + 0.09, 0.58), (x + 0.09, 0.68), (x, 0.68), closed=True)


def _turn(pen: Pen, first_stroke: int, degrees: float) -> None:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for index in range(first_stroke, len(pen.strokes)):
        x, y = (pen.strokes[index] - 0.5).T
        pen.strokes[index][:, 0] = 0.5 + c * x - s * y
        pen.strokes[index][:, 1] = 0.5 + s * x + c * y
