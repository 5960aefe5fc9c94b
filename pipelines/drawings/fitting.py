"""Fit drawings of any height and width to square ones.

    pad    paper around the drawing until it is square, the odd row or column behind it
    crop   the square in the middle, the odd row or column behind it is cut off too

Pillow's bilinear filter follows, which averages over all pixels that it shrinks and computes in
integers: the same bytes on every machine, and no rings around strokes.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]
Fit = Literal["pad", "crop"] | None
REPAIRS = {"pad": "padded and resized", "crop": "cropped and resized"}


def fit_drawing(image: Uint8Array, side: int, fit: Fit) -> Uint8Array:
    """Return a drawing (h, w), paper of 0, as one of (side, side).

    >>> fit_drawing(np.full((1, 2), 200, np.uint8), 2, "pad").tolist()
    [[200, 200], [0, 0]]
    """
    from PIL import Image

    square = _padded(image) if fit == "pad" else _cropped(image)
    if len(square) == side:
        return square
    resized = Image.fromarray(square).resize((side, side), Image.Resampling.BILINEAR)
    return np.array(resized)


def _padded(image: Uint8Array) -> Uint8Array:
    side = max(image.shape)
    before = [(side - length) // 2 for length in image.shape]
    after = [side - length - start for length, start in zip(image.shape, before, strict=True)]
    return np.pad(image, tuple(zip(before, after, strict=True)))


def _cropped(image: Uint8Array) -> Uint8Array:
    side = min(image.shape)
    top, left = ((length - side) // 2 for length in image.shape)
    return image[top : top + side, left : left + side]
