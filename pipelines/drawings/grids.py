"""Grids of drawings as PNG: dark ink on paper, enlarged without smoothing."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

PAPER = 255
GAP = 4  # pixels between drawings; not enlarged with them

Images = npt.NDArray[np.uint8]


def grid(rows: list[Images], *, scale: int = 4) -> Images:
    """Lay rows of drawings out as one picture, dark ink on white paper.

    rows: each (n, height, width) uint8, 0 = paper and 255 = ink; rows may differ in n.
    Returns a (rows * (height * scale + GAP) + GAP, ...) uint8 picture.
    """
    height, width = rows[0].shape[1:]
    columns = max(len(row) for row in rows)
    cell_height, cell_width = height * scale + GAP, width * scale + GAP
    canvas = np.full(
        (len(rows) * cell_height + GAP, columns * cell_width + GAP), PAPER, dtype=np.uint8
    )
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * cell_height + GAP, c * cell_width + GAP
            enlarged = np.kron(PAPER - image, np.ones((scale, scale), dtype=np.uint8))
            canvas[top : top + height * scale, left : left + width * scale] = enlarged
    return canvas


def two_rows(real: Images, generated: Images, *, scale: int = 4) -> Images:
    """Return real drawings in the upper row and generated ones in the lower, a line between."""
    upper, lower = grid([real], scale=scale), grid([generated], scale=scale)
    width = max(upper.shape[1], lower.shape[1])
    line = np.full((1, width), 160, dtype=np.uint8)
    return np.concatenate([_widen(upper, width), line, _widen(lower, width)])


def to_png(picture: Images) -> bytes:
    """Encode a grey picture; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture, mode=None).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def _widen(picture: Images, width: int) -> Images:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1])), constant_values=PAPER)
