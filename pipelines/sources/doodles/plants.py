"""Doodles of nature and food: sun, lightning, snowflake, tree, cactus, broccoli, pizza."""

import math

from pipelines.sources.doodles.pen import Pen


def sun(pen: Pen) -> None:
    """A disc with rays, sometimes with a face."""
    radius = pen.between(0.17, 0.28)
    pen.ellipse(0.5, 0.5, radius)
    rays, long = pen.count(7, 14), pen.between(0.4, 0.5)
    triangles, turn = pen.chance(0.15), pen.between(0, 1)
    for index in range(rays):
        angle = 2 * math.pi * (index + turn) / rays + pen.near(0, 0.04)
        near, far = radius + pen.near(0.05, 0.012), pen.near(long, 0.025)
        c, s = math.cos(angle), math.sin(angle)
        if triangles:
            left, right = angle - 0.15, angle + 0.15
            pen.line(
                (0.5 + near * math.cos(left), 0.5 + near * math.sin(left)),
                (0.5 + far * c, 0.5 + far * s),
                (0.5 + near * math.cos(right), 0.5 + near * math.sin(right)),
            )
        else:
            pen.line((0.5 + near * c, 0.5 + near * s), (0.5 + far * c, 0.5 + far * s))
    if pen.chance(0.25):
        pen.dot(0.5 - radius * 0.35, 0.46)
        pen.dot(0.5 + radius * 0.35, 0.46)
        pen.ellipse(0.5, 0.5, radius * 0.55, start=30, sweep=120)


def lightning(pen: Pen) -> None:
    """A bolt in outline, or a zigzag of one line."""
    if pen.chance(0.75):
        wide = pen.between(0.12, 0.2)
        pen.line(
            (0.5, 0.0),
            (0.5 - wide - 0.12, 0.5),
            (0.5 - 0.02, 0.47),
            (0.5 - wide, 1.0),
            (0.5 + wide + 0.08, 0.38),
            (0.5 + 0.07, 0.4),
            (0.5 + wide + 0.1, 0.0 if pen.chance(0.5) else 0.05),
            closed=True,
        )
        return
    turns = pen.count(3, 5)
    corners, x = [], 0.62
    for index in range(turns + 1):
        corners.append((pen.near(x, 0.03), index / turns))
        x += 0.2 if index % 2 else -0.28
    pen.line(*corners)


def snowflake(pen: Pen) -> None:
    """Three or four crossing lines with small branches."""
    arms, branches = pen.count(3, 4) * 2, pen.count(1, 2)
    turn, two_sided = pen.between(0, 0.5), pen.chance(0.85)
    for index in range(arms // 2):
        angle = math.pi * (index + turn) / (arms // 2)
        c, s = 0.48 * math.cos(angle), 0.48 * math.sin(angle)
        pen.line((0.5 - c, 0.5 - s), (0.5 + c, 0.5 + s))
    for index in range(arms):
        angle = 2 * math.pi * (index + turn) / arms
        if pen.chance(0.06):
            continue
        for place in range(branches):
            far = 0.44 - 0.17 * place
            _branch(pen, angle, far, 0.13, two_sided)


def _branch(pen: Pen, angle: float, far: float, long: float, two_sided: bool) -> None:
    root = (0.5 + (far - long) * math.cos(angle), 0.5 + (far - long) * math.sin(angle))
    tips = [
        (root[0] + long * math.cos(angle + side), root[1] + long * math.sin(angle + side))
        for side in (-0.75, 0.75)
    ]
    pen.line(tips[0], root, tips[1]) if two_sided else pen.line(root, tips[0])


def tree(pen: Pen) -> None:
    """A trunk under a round crown, a cloud of leaves, or the tiers of a fir."""
    half, foot = pen.between(0.05, 0.09), pen.between(0.0, 0.05)
    kind = pen.rng.random()
    if kind < 0.25:
        tiers = pen.count(2, 3)
        for tier in range(tiers):
            top, wide = 0.02 + 0.22 * tier, 0.2 + 0.09 * tier
            pen.line((0.5, top), (0.5 - wide, top + 0.32), (0.5 + wide, top + 0.32), closed=True)
        start = 0.12 + 0.22 * tiers
    else:
        rx, ry = pen.between(0.26, 0.4), pen.between(0.24, 0.32)
        if kind < 0.75:
            pen.cloud(0.5, 0.32, rx, ry, pen.count(6, 10))
        else:
            pen.ellipse(0.5, 0.32, rx, ry)
        start = 0.3 + ry
    pen.curve((0.5 - half, start), (0.5 - half * 0.9, 0.8), (0.5 - half - foot, 1.0))
    pen.curve((0.5 + half, start), (0.5 + half * 0.9, 0.8), (0.5 + half + foot, 1.0))
    if pen.chance(0.4):
        pen.line((0.5 - half - foot, 1.0), (0.5 + half + foot, 1.0))
    if kind >= 0.25 and pen.chance(0.2):
        for _ in range(pen.count(3, 6)):
            pen.ellipse(pen.between(0.32, 0.68), pen.between(0.2, 0.45), 0.025)


def cactus(pen: Pen) -> None:
    """A column with two arms, often with spines or a pot."""
    w, top = pen.between(0.1, 0.14), pen.near(0.08, 0.03)
    pen.curve(
        (0.5 - w, 1.0), (0.5 - w, 0.6), (0.5 - w, 0.2), (0.5 - w * 0.6, top), (0.5 + w * 0.6, top),
        (0.5 + w, 0.2), (0.5 + w, 0.6), (0.5 + w, 1.0),
    )  # fmt: skip
    for side in (-1, 1):
        if pen.chance(0.08):
            continue
        low, high = pen.between(0.5, 0.68), pen.between(0.22, 0.36)
        out, inner, e = 0.5 + side * 0.36, 0.5 + side * 0.24, 0.5 + side * w
        pen.curve(
            (e, low), (out - side * 0.04, low), (out, low - 0.06), (out, high + 0.04),
            (0.5 + side * 0.3, high), (inner, high + 0.04), (inner, low - 0.13), (e, low - 0.13),
        )  # fmt: skip
    if pen.chance(0.55):
        for index in range(pen.count(4, 9)):
            x, y = pen.between(0.44, 0.54), 0.2 + 0.08 * index
            pen.line((x, y), (x + 0.03, y + 0.03))
    if pen.chance(0.3):
        pen.line((0.32, 1.0), (0.68, 1.0))


def broccoli(pen: Pen) -> None:
    """A bumpy crown on a forking stalk."""
    rx, ry = pen.between(0.34, 0.44), pen.between(0.22, 0.3)
    pen.cloud(0.5, 0.32, rx, ry, pen.count(7, 11))
    half = pen.between(0.07, 0.11)
    pen.curve((0.5 - half - 0.12, 0.55), (0.5 - half, 0.7), (0.5 - half, 0.97))
    pen.curve((0.5 + half + 0.12, 0.55), (0.5 + half, 0.7), (0.5 + half, 0.97))
    pen.curve((0.5 - half, 0.97), (0.5, 1.0), (0.5 + half, 0.97))
    if pen.chance(0.6):
        pen.line((0.5 - 0.06, 0.58), (0.5, 0.72), (0.5 + 0.06, 0.58))
    for _ in range(pen.count(0, 5)):
        x, y = pen.between(0.28, 0.72), pen.between(0.2, 0.45)
        pen.ellipse(x, y, 0.06, start=180, sweep=170)


def pizza(pen: Pen) -> None:
    """A slice with crust and salami, or a whole one cut in pieces."""
    if pen.chance(0.65):
        pen.line((0.06, 0.14), (0.5, 1.0), (0.94, 0.14))
        pen.curve((0.06, 0.14), (0.28, 0.05), (0.5, 0.02), (0.72, 0.05), (0.94, 0.14))
        if pen.chance(0.75):
            pen.curve((0.1, 0.24), (0.3, 0.16), (0.5, 0.13), (0.7, 0.16), (0.9, 0.24))
        for x, y in ((0.36, 0.34), (0.62, 0.32), (0.5, 0.58), (0.47, 0.78), (0.7, 0.48)):
            if pen.chance(0.75):
                pen.ellipse(pen.near(x, 0.03), pen.near(y, 0.03), pen.between(0.04, 0.065))
        return
    pen.ellipse(0.5, 0.5, 0.48)
    if pen.chance(0.6):
        pen.ellipse(0.5, 0.5, 0.41)
    cuts, turn = pen.count(2, 4), pen.between(0, 1)
    for index in range(cuts):
        angle = math.pi * (index + turn) / cuts
        c, s = 0.46 * math.cos(angle), 0.46 * math.sin(angle)
        pen.line((0.5 - c, 0.5 - s), (0.5 + c, 0.5 + s))
    for index in range(pen.count(3, 7)):
        angle, far = 2.4 * index + turn, pen.between(0.16, 0.32)
        pen.ellipse(0.5 + far * math.cos(angle), 0.5 + far * math.sin(angle), 0.045)
