"""Near-duplicates: drawings whose difference hashes differ in few bits.

Two 64-bit hashes within k bits agree in at least one of k + 1 bands of bits (pigeonhole), so
only drawings that share a band are compared. Rows are decided a block at a time against those
that stay, so memory does not grow with the number of pairs. Bands shared by very many drawings
(simple shapes) are compared all the same; the answer is exact, only slower.
"""

import itertools

import numpy as np
import numpy.typing as npt

_BLOCK_ROWS = 1_024
# Pairs that are compared at once, 40 bytes each.
_PAIRS_AT_ONCE = 1 << 20

Hashes = npt.NDArray[np.uint64]


def near_duplicates(
    difference_hashes: npt.NDArray[np.uint64], kept: npt.NDArray[np.bool_], max_bits: int
) -> npt.NDArray[np.bool_]:
    """Return which kept rows are within `max_bits` of an earlier row that stays.

    Rows are decided in order: a row goes if a row before it, that itself stays, is near.
    """
    places = np.flatnonzero(kept)
    hashes = difference_hashes[places]
    bands = [_Band(np.uint64(mask)) for mask in _bands(max_bits)]
    gone = np.zeros(len(hashes), bool)
    for start in range(0, len(hashes), _BLOCK_ROWS):
        block = hashes[start : start + _BLOCK_ROWS]
        found = np.zeros(len(block), bool)
        for band in bands:
            band.find_near(block, found, max_bits)
        _decide_among(block, found, max_bits)
        for band in bands:
            band.add(block[~found])
        gone[start : start + len(block)] = found
    dropped = np.zeros(len(kept), bool)
    dropped[places[gone]] = True
    return dropped


class _Band:
    """The hashes of the rows that stay, in the order of a band of their bits."""

    def __init__(self, mask: np.uint64) -> None:
        self.mask = mask
        self.keys = np.empty(0, np.uint64)
        self.hashes = np.empty(0, np.uint64)

    def add(self, hashes: Hashes) -> None:
        """Take rows in that stay."""
        keys = hashes & self.mask
        order = np.argsort(keys, kind="stable")
        places = np.searchsorted(self.keys, keys[order])
        self.keys = np.insert(self.keys, places, keys[order])
        self.hashes = np.insert(self.hashes, places, hashes[order])

    def find_near(self, block: Hashes, found: npt.NDArray[np.bool_], max_bits: int) -> None:
        """Mark the rows of a block that are near one that stays and shares the band."""
        open_rows = np.flatnonzero(~found)
        keys = block[open_rows] & self.mask
        first = np.searchsorted(self.keys, keys, side="left")
        counts = np.searchsorted(self.keys, keys, side="right") - first
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        for begin in range(0, total, _PAIRS_AT_ONCE):
            numbers = np.arange(begin, min(begin + _PAIRS_AT_ONCE, total))
            row = np.searchsorted(ends, numbers, side="right")
            other = first[row] + numbers - (ends[row] - counts[row])
            bits = np.bitwise_count(block[open_rows[row]] ^ self.hashes[other])
            found[open_rows[row[bits <= max_bits]]] = True


def _decide_among(block: Hashes, found: npt.NDArray[np.bool_], max_bits: int) -> None:
    """Mark the rows of a block that are near an earlier one of it that stays."""
    near = np.bitwise_count(block[:, None] ^ block[None, :]) <= max_bits
    for row in range(len(block)):
        if not found[row]:
            found[row + 1 :] |= near[row, row + 1 :]


def _bands(max_bits: int) -> list[int]:
    """Return masks that cut 64 bits into max_bits + 1 bands."""
    count = min(max_bits + 1, 64)
    edges = [64 * index // count for index in range(count + 1)]
    bands = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in itertools.pairwise(edges)]
    return bands if max_bits < 64 else [0]
