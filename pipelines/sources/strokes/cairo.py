"""The official rasterizer: reproduces the bytes of Google's numpy_bitmap files, at any size.

Cairo, ARGB32, ANTIALIAS_BEST, round caps and joins, a line 16 wide on a page of 256 with 24
around it; the drawing is moved by half of what its largest x and y leave of 256, one polyline a
stroke, white on black, and the bitmap is one byte in four (issue 19 of
googlecreativelab/quickdraw-dataset). libcairo 1.16 gives Google's bytes exactly at 28x28.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.store.errors import LackError

PAGE = 256.0
LINE_WIDTH = 16.0
PADDING = 16.0

Strokes = Sequence[npt.NDArray[np.generic]]


def cairo_version() -> dict[str, str]:
    """Return the version of libcairo under its name; nothing where it is missing."""
    try:
        return {"cairo": _cairo().cairo_version_string()}
    except ValueError:
        return {}


def render_drawings(drawings: Iterable[Strokes], size: int = 28) -> npt.NDArray[np.uint8]:
    """Return the bitmaps (n, size, size) of drawings, each a list of strokes (k, 2).

    One drawing is asked for after the other.

    Raises LackError if libcairo is missing, naming the package to install.
    """
    cairo = _cairo()
    surface = cairo.ImageSurface(cairo.FORMAT_ARGB32, size, size)
    context = cairo.Context(surface)
    context.set_antialias(cairo.ANTIALIAS_BEST)
    context.set_line_cap(cairo.LINE_CAP_ROUND)
    context.set_line_join(cairo.LINE_JOIN_ROUND)
    context.set_line_width(LINE_WIDTH)
    total_padding = 2 * PADDING + LINE_WIDTH
    context.scale(size / (PAGE + total_padding), size / (PAGE + total_padding))
    context.translate(total_padding / 2, total_padding / 2)
    stride = surface.get_stride()
    images = [np.empty((0, size, size), np.uint8)]
    for strokes in drawings:
        _draw(context, strokes)
        surface.flush()
        pixels = np.frombuffer(surface.get_data(), np.uint8).reshape(size, stride)
        images.append(pixels[None, :, : 4 * size : 4].copy())
    return np.concatenate(images)


def _draw(context: Any, strokes: Strokes) -> None:
    context.set_source_rgb(0, 0, 0)
    context.paint()
    if not strokes:
        return
    largest = np.max([stroke.max(axis=0) for stroke in strokes], axis=0)
    shift = (PAGE - largest) / 2
    context.set_source_rgb(1, 1, 1)
    for stroke in strokes:
        points = (stroke + shift).tolist()
        context.move_to(*points[0])
        for x, y in points:
            context.line_to(x, y)
        context.stroke()


def _cairo() -> Any:
    try:
        import cairocffi  # loads libcairo, which a machine without strokes does not need
    except (ImportError, OSError) as error:
        raise LackError(
            "drawing strokes needs the library cairo, which this machine lacks: install libcairo2 "
            "(Debian, Ubuntu: apt-get install libcairo2; macOS: brew install cairo), or use the "
            f"bitmaps (.npy) as source ({error})"
        ) from error
    return cairocffi
