"""Tell whether pictures are light ink on dark paper, as drawings are, or dark ink on light paper."""

import numpy as np
import numpy.typing as npt

# Pixels from here on are nearer to white than to black.
_WHITE = 128


def inverted(images: npt.NDArray[np.uint8], ink: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which images (n, h, w) are dark ink on white paper.

    Most of the outermost pixels, and most of all, are white there. Of 139,651 drawings of Google's
    none has ink in the outermost pixels.

    ink  (n,) number of pixels above 0
    """
    found = np.zeros(len(images), bool)
    places = np.flatnonzero(ink * 2 > images[0].size) if len(images) else ()
    if len(places):
        border, whole = _white_shares(images[places])
        found[places] = (border > 0.5) & (whole > 0.5)
    return found


def is_dark_ink(image: npt.NDArray[np.uint8]) -> bool | None:
    """Return whether a picture (h, w) is dark ink on light paper.

    None where most of the outermost pixels say one thing and most of all the other, as with a frame
    around the drawing, or a drawing that fills its picture.
    """
    border, whole = (share[0] > 0.5 for share in _white_shares(image[None]))
    return bool(border) if border == whole else None


def has_white_edge(image: npt.NDArray[np.uint8]) -> bool:
    """Return whether most of the outermost pixels of a picture (h, w) are white."""
    return bool(_white_shares(image[None])[0][0] > 0.5)


def _white_shares(
    images: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the share of white in the outermost pixels of each image, and in all."""
    white = images >= _WHITE
    sides = (white[:, 0], white[:, -1], white[:, :, 0], white[:, :, -1])
    return np.concatenate(sides, axis=1).mean(axis=1), white.mean(axis=(1, 2))
