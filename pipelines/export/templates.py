"""Records of equal length as rows of one array: what formats of tiny samples are written with.

A per-sample writer spends microseconds of Python a drawing. Here the bytes that all records
share are laid down once, and the few that differ (digits of a key, pixels, sums) are columns.
"""

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]

ASCII_ZERO = 48


def decimal_digits(values: npt.NDArray[np.int64], width: int) -> Uint8Array:
    """Return the decimal digits of each value as ASCII, filled with zeros: (n, width).

    >>> decimal_digits(np.array([7, 120]), 4).tobytes()
    b'00070120'
    """
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (values[:, None] // powers % 10 + ASCII_ZERO).astype(np.uint8)


def octal_digits(values: npt.NDArray[np.int64], width: int) -> Uint8Array:
    """Return the octal digits of each value as ASCII, filled with zeros: (n, width).

    >>> octal_digits(np.array([8]), 3).tobytes()
    b'010'
    """
    shifts = 3 * np.arange(width - 1, -1, -1, dtype=np.int64)
    return ((values[:, None] >> shifts & 7) + ASCII_ZERO).astype(np.uint8)
