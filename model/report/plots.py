"""Plots of the report as SVG text: the training curve and bits/dim per class.

The SVG contains no date and no random ids, so equal numbers give equal bytes.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.figure

from model.training.telemetry import CLASS_PREFIX

INK, ACCENT, GRID = "#333333", "#1f6feb", "#dddddd"
# Five inches are 480 pixels, still legible on a phone at three quarters of the size.
WIDTH = 5.0
STYLE = {
    "font.size": 8.5,
    "svg.hashsalt": "sketchmill",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
}
# Points of the training curve that a smoothed one is the mean of.
_WINDOW = 15


def curve_svg(rows: Sequence[Mapping[str, float]]) -> str:
    """Plot training loss and validation against images seen, both in bits/dim.

    rows: the training log; each has "nimg" and "loss_bpd" or "validation_bpd", the latter with
    one value per class, drawn as thin lines.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _axes(WIDTH, 2.6)
        train = [(row["nimg"], row["loss_bpd"]) for row in rows if "loss_bpd" in row]
        valid = [(row["nimg"], row["validation_bpd"]) for row in rows if "validation_bpd" in row]
        axes.plot(*_columns(train), color=GRID, lw=1.2, label="training batch")
        axes.plot(*_columns(_smoothed(train)), color=INK, lw=1.4, label="training, smoothed")
        for points in _class_curves(rows):
            axes.plot(*_columns(points), color=ACCENT, lw=0.5, alpha=0.35)
        if valid:
            axes.plot(
                *_columns(valid), "o-", color=ACCENT, ms=3, label="validation, averaged weights"
            )
        values = sorted(value for _, value in train)
        if values:  # the first steps are far above the rest; keep the curve readable
            axes.set_ylim(top=values[int(0.97 * (len(values) - 1))] * 1.15)
        axes.set_xlabel("images seen")
        axes.set_ylabel("bits/dim")
        axes.legend(frameon=False)
        return _to_svg(figure)


def _class_curves(rows: Sequence[Mapping[str, float]]) -> list[list[tuple[float, float]]]:
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(CLASS_PREFIX))
    return [[(row["nimg"], row[name]) for row in rows if name in row] for name in names]


def per_class_svg(bpd: Mapping[str, float], standard_error: Mapping[str, float]) -> str:
    """Plot bits/dim of each class with its standard error, the easiest class on top."""
    names = sorted(bpd, key=lambda name: bpd[name], reverse=True)
    with mpl.rc_context(STYLE):
        figure, axes = _axes(WIDTH, 0.6 + 0.2 * len(names))
        axes.barh(
            names,
            [bpd[name] for name in names],
            xerr=[standard_error.get(name, 0.0) for name in names],
            color=ACCENT,
            ecolor=INK,
            height=0.7,
        )
        axes.set_xlabel("bits/dim on the test split (less is better)")
        axes.margins(y=0.01)
        axes.grid(axis="y", visible=False)
        return _to_svg(figure)


def compare_svg(
    classes: Mapping[str, Mapping[str, float]], name: str, *, low: str, high: str, label: str
) -> str:
    """Plot a number of each class, generated beside real, with the range of each.

    classes: name -> numbers; `name` is the mean, `low` and `high` the ends of its range, each
    prefixed by "real_" for the real drawings. Classes without both are omitted.
    """
    names = [each for each, row in classes.items() if {name, f"real_{name}"} <= set(row)][::-1]
    with mpl.rc_context(STYLE):
        figure, axes = _axes(WIDTH, 0.9 + 0.24 * len(names))
        for prefix, shift, color, text in (
            ("real_", 0.16, INK, "held out"),
            ("", -0.16, ACCENT, "generated"),
        ):
            rows = [place + shift for place in range(len(names))]
            means = [classes[each][prefix + name] for each in names]
            ends = [
                [
                    max(0.0, mean - classes[each][prefix + low])
                    for mean, each in zip(means, names, strict=True)
                ],
                [
                    max(0.0, classes[each][prefix + high] - mean)
                    for mean, each in zip(means, names, strict=True)
                ],
            ]
            axes.errorbar(means, rows, xerr=ends, fmt="o", ms=3, lw=1.2, color=color, label=text)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        return _to_svg(figure)


def confusion_svg(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Plot the classifier's confusion matrix: asked class (row), predicted class (column)."""
    shares = [[100 * n / max(1, sum(row)) for n in row] for row in counts]
    size = max(3.6, 1.5 + 0.18 * len(names))
    with mpl.rc_context(STYLE):
        figure, axes = _axes(size, 0.85 * size)
        mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100, edgecolors=GRID, lw=0.3)
        places = [place + 0.5 for place in range(len(names))]
        axes.set_xticks(places, names, rotation=90, fontsize=7)
        axes.set_yticks(places, names, fontsize=7)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_xlabel("what the judge sees")
        axes.set_ylabel("what was asked for")
        figure.colorbar(mesh, ax=axes, shrink=0.6, label="% of the class")
        return _to_svg(figure)


def _axes(width: float, height: float):
    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    return figure, axes


def _smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the running mean of up to _WINDOW points before each."""
    smooth = []
    for i, (x, _) in enumerate(points):
        recent = [value for _, value in points[max(0, i - _WINDOW + 1) : i + 1]]
        smooth.append((x, sum(recent) / len(recent)))
    return smooth


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _to_svg(figure: matplotlib.figure.Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
