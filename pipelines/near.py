"""Near-duplicates: drawings whose difference hashes differ in few bits.

Two 64-bit hashes within k bits agree in at least one of k + 1 bands of bits (pigeonhole), so
only drawings that share a band are compared. Bands shared by very many drawings (simple shapes)
are compared in blocks; the answer is exact, only slower.
"""

import itertools

import numpy as np
import numpy.typing as npt

_BLOCK = 1_024


def near_duplicates(
    difference_hashes: npt.NDArray[np.uint64], kept: npt.NDArray[np.bool_], max_bits: int
) -> npt.NDArray[np.bool_]:
    """Return which kept rows are within `max_bits` of an earlier row that stays.

    Rows are decided in order: a row goes if a row before it, that itself stays, is near.
    """
    places = np.flatnonzero(kept)
    hashes = difference_hashes[places]
    pairs = _near_pairs(hashes, max_bits)
    gone = np.zeros(len(hashes), bool)
    # Pairs come sorted by the later row, so the fate of the earlier one is already known.
    for later, earlier in pairs:
        if not gone[earlier]:
            gone[later] = True
    dropped = np.zeros(len(kept), bool)
    dropped[places[gone]] = True
    return dropped


def _near_pairs(hashes: npt.NDArray[np.uint64], max_bits: int) -> list[tuple[int, int]]:
    """Return (later, earlier) of all rows within `max_bits`, sorted."""
    pairs: set[tuple[int, int]] = set()
    for band in _bands(max_bits):
        keys = hashes & np.uint64(band)
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(order, edges):
            if len(group) > 1:
                pairs |= _pairs_within(hashes, np.sort(group), max_bits)
    return sorted(pairs)


def _bands(max_bits: int) -> list[int]:
    """Return masks that cut 64 bits into max_bits + 1 bands."""
    count = min(max_bits + 1, 64)
    edges = [64 * index // count for index in range(count + 1)]
    bands = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in itertools.pairwise(edges)]
    return bands if max_bits < 64 else [0]


def _pairs_within(
    hashes: npt.NDArray[np.uint64], group: npt.NDArray[np.int64], max_bits: int
) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(group), _BLOCK):
        later = group[start : start + _BLOCK]
        earlier = group[: start + len(later)]
        bits = np.bitwise_count(hashes[later][:, None] ^ hashes[earlier][None, :])
        near = (bits <= max_bits) & (earlier[None, :] < later[:, None])
        first, second = np.nonzero(near)
        pairs |= set(zip(later[first].tolist(), earlier[second].tolist(), strict=True))
    return pairs
