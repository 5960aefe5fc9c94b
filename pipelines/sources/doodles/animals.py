"""Doodles of animals: bee, butterfly, frog, penguin, sea turtle, sheep, swan."""

import math

from pipelines.sources.doodles.pen import Pen


def bee(pen: Pen) -> None:
    """A striped body with wings, feelers and a sting."""
    rx, ry = pen.between(0.26, 0.32), pen.between(0.15, 0.2)
    pen.ellipse(0.46, 0.62, rx, ry)
    for index in range(pen.count(2, 4)):
        x = 0.34 + 0.11 * index
        half = ry * math.sqrt(max(0.1, 1 - ((x - 0.46) / rx) ** 2))
        pen.curve((x, 0.62 - half), (x + 0.03, 0.62), (x, 0.62 + half))
    tilt = pen.between(-35, -10)
    pen.ellipse(0.38, 0.34, 0.1, 0.17, turn=tilt)
    if pen.chance(0.85):
        pen.ellipse(0.56, 0.34, 0.09, 0.16, turn=-tilt)
    if pen.chance(0.6):
        pen.ellipse(0.84, 0.58, 0.11)
        pen.dot(0.87, 0.55)
    else:
        pen.dot(0.46 + rx * 0.7, 0.58)
    if pen.chance(0.75):
        pen.curve((0.84, 0.48), (0.87, 0.4), (0.93, 0.34))
        pen.curve((0.79, 0.48), (0.8, 0.38), (0.83, 0.31))
    if pen.chance(0.65):
        pen.line((0.46 - rx, 0.59), (0.46 - rx - 0.11, 0.63), (0.46 - rx, 0.66))


def butterfly(pen: Pen) -> None:
    """Two pairs of wings at a body with feelers."""
    if pen.chance(0.7):
        pen.ellipse(0.5, 0.55, 0.035, 0.3)
    else:
        pen.line((0.5, 0.25), (0.5, 0.85))
    first = len(pen.strokes)
    high, wide = pen.between(0.06, 0.16), pen.between(0.4, 0.48)
    pen.curve(
        (0.47, 0.48), (0.35, 0.22), (0.5 - wide + 0.08, high), (0.5 - wide, 0.25),
        (0.5 - wide + 0.05, 0.45), (0.47, 0.53),
    )  # fmt: skip
    pen.curve(
        (0.47, 0.56), (0.25, 0.56), (0.14, 0.7), (0.2, 0.88), (0.34, 0.88), (0.47, 0.66),
    )  # fmt: skip
    if pen.chance(0.3):
        pen.ellipse(0.25, 0.3, 0.06)
    if pen.chance(0.25):
        pen.ellipse(0.29, 0.72, 0.05)
    if pen.chance(0.85):
        pen.curve((0.49, 0.26), (0.45, 0.14), (0.38, 0.08))
    pen.mirror(first, 0.5)


def frog(pen: Pen) -> None:
    """A face with bulging eyes and a wide mouth, often with body and legs."""
    whole = pen.chance(0.55)
    y = 0.34 if whole else 0.56
    rx, ry = (0.3, 0.2) if whole else (0.45, 0.34)
    pen.ellipse(0.5, y, rx, ry)
    eye = pen.between(0.075, 0.1) if whole else pen.between(0.1, 0.14)
    for side in (-1, 1):
        x, top = 0.5 + side * rx * 0.58, y - ry * 0.95
        pen.ellipse(x, top, eye)
        pen.dot(x, top, 0.02)
    pen.ellipse(0.5, y, rx * 0.65, ry * 0.5, start=15, sweep=150)
    if pen.chance(0.4):
        pen.dot(0.47, y - 0.03)
        pen.dot(0.53, y - 0.03)
    if not whole:
        return
    pen.curve((0.27, 0.46), (0.23, 0.66), (0.32, 0.88), (0.5, 0.92), (0.68, 0.88), (0.77, 0.66),
              (0.73, 0.46))  # fmt: skip
    first = len(pen.strokes)
    pen.curve((0.25, 0.6), (0.08, 0.66), (0.06, 0.86), (0.22, 0.9))
    pen.line((0.22, 0.9), (0.02, 0.97), (0.1, 0.99), (0.12, 1.0), (0.26, 0.98))
    if pen.chance(0.7):
        pen.curve((0.4, 0.66), (0.4, 0.86), (0.36, 0.98), (0.45, 0.97))
    pen.mirror(first, 0.5)


def penguin(pen: Pen) -> None:
    """An upright body with a pale belly, flippers, beak and feet."""
    wide = pen.between(0.24, 0.3)
    apart = pen.chance(0.5)
    if apart:
        pen.ellipse(0.5, 0.17, 0.16, 0.15)
        pen.ellipse(0.5, 0.6, wide, 0.33)
    else:
        pen.ellipse(0.5, 0.48, wide, 0.46)
    if pen.chance(0.85):
        pen.ellipse(0.5, 0.65, wide * 0.65, 0.24)
    pen.dot(0.44, 0.14)
    if pen.chance(0.9):
        pen.dot(0.56, 0.14)
    pen.line((0.46, 0.2), (0.5, 0.27), (0.54, 0.2), closed=pen.chance(0.7))
    first = len(pen.strokes)
    if pen.chance(0.9):
        pen.curve((0.5 - wide * 0.9, 0.42), (0.5 - wide - 0.12, 0.58), (0.5 - wide - 0.08, 0.7),
                  (0.5 - wide * 0.95, 0.62))  # fmt: skip
    pen.ellipse(0.38, 0.95, 0.1, 0.04)
    pen.mirror(first, 0.5)


def sea_turtle(pen: Pen) -> None:
    """A patterned shell with head, four flippers and tail, seen from above or the side."""
    if pen.chance(0.35):
        _turtle_from_the_side(pen)
        return
    rx, ry = pen.between(0.27, 0.33), pen.between(0.21, 0.27)
    pen.ellipse(0.46, 0.5, rx, ry)
    pen.ellipse(0.46 + rx + 0.1, 0.5, 0.1, 0.08)
    pen.dot(0.46 + rx + 0.13, 0.47)
    for side in (-1, 1):
        e = 0.5 + side * ry * 0.8
        pen.curve((0.62, e), (0.72, e + side * 0.16), (0.64, e + side * 0.28), (0.52, e))
        if pen.chance(0.92):
            pen.curve((0.3, e), (0.18, e + side * 0.1), (0.12, e + side * 0.2), (0.22, e))
    if pen.chance(0.6):
        pen.line((0.46 - rx, 0.48), (0.46 - rx - 0.1, 0.5), (0.46 - rx, 0.53))
    if pen.chance(0.8):
        pen.ellipse(0.46, 0.5, rx * 0.5, ry * 0.5)
        for index in range(6):
            c, s = math.cos(index * 1.047 + 0.5), math.sin(index * 1.047 + 0.5)
            pen.line(
                (0.46 + rx * 0.5 * c, 0.5 + ry * 0.5 * s),
                (0.46 + rx * 0.95 * c, 0.5 + ry * 0.95 * s),
            )


def _turtle_from_the_side(pen: Pen) -> None:
    pen.curve((0.1, 0.58), (0.18, 0.34), (0.42, 0.2), (0.64, 0.34), (0.72, 0.58))
    pen.line((0.08, 0.58), (0.74, 0.58))
    pen.curve((0.72, 0.55), (0.8, 0.4), (0.93, 0.38), (0.98, 0.47), (0.9, 0.56), (0.76, 0.6))
    pen.dot(0.91, 0.44)
    pen.curve((0.56, 0.6), (0.52, 0.76), (0.36, 0.88), (0.42, 0.6))
    pen.curve((0.2, 0.6), (0.14, 0.72), (0.04, 0.76), (0.12, 0.6))
    if pen.chance(0.8):
        pen.line((0.3, 0.56), (0.36, 0.4), (0.5, 0.4), (0.56, 0.56))
        pen.line((0.36, 0.4), (0.3, 0.28))
        pen.line((0.5, 0.4), (0.56, 0.28))


def sheep(pen: Pen) -> None:
    """A woolly cloud with a head and four legs."""
    pen.cloud(0.46, 0.44, pen.between(0.3, 0.36), pen.between(0.22, 0.27), pen.count(8, 13))
    x = 0.84
    pen.ellipse(x, 0.36, 0.11, pen.between(0.13, 0.16))
    pen.dot(x - 0.03, 0.33)
    if pen.chance(0.7):
        pen.dot(x + 0.05, 0.33)
    if pen.chance(0.5):
        pen.ellipse(x, 0.42, 0.05, 0.03, start=10, sweep=160)
    if pen.chance(0.65):
        pen.curve((x - 0.1, 0.29), (x - 0.18, 0.3), (x - 0.17, 0.37), (x - 0.1, 0.34))
    wide = pen.chance(0.4)
    for leg in (0.28, 0.38, 0.54, 0.64):
        foot = pen.near(0.97, 0.02)
        pen.line((leg, 0.68), (leg, foot))
        if wide:
            pen.line((leg, foot), (leg + 0.05, foot), (leg + 0.05, 0.68))


def swan(pen: Pen) -> None:
    """A long curved neck rising from a body on the water."""
    pen.curve((0.14, 0.3), (0.2, 0.14), (0.34, 0.12), (0.4, 0.24), (0.34, 0.42), (0.27, 0.58),
              (0.3, 0.74), (0.46, 0.86), (0.7, 0.86), (0.88, 0.74), (0.98, 0.52))  # fmt: skip
    pen.curve((0.98, 0.52), (0.8, 0.58), (0.62, 0.52), (0.46, 0.6))
    pen.curve((0.46, 0.6), (0.39, 0.54), (0.44, 0.42), (0.5, 0.26), (0.46, 0.08), (0.32, 0.02),
              (0.2, 0.06), (0.14, 0.16))  # fmt: skip
    pen.line((0.16, 0.15), (0.02, 0.28), (0.18, 0.29))
    pen.dot(0.26, 0.11)
    if pen.chance(0.7):
        pen.curve((0.52, 0.64), (0.62, 0.76), (0.8, 0.7), (0.9, 0.58))
    if pen.chance(0.35):
        pen.curve((0.1, 0.92), (0.25, 0.88), (0.4, 0.93), (0.55, 0.89), (0.7, 0.93), (0.9, 0.9))
