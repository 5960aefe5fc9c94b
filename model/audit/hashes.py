"""Equal drawings by their hashes: 64 bits of BLAKE2b over the pixels.

Equal drawings have equal hashes; among 50 million different ones a single false match has a
chance of 1 in 15,000. Sets of any size are compared a range of hashes at a time, so that sorting
takes 100 MB and not some copies of the whole.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# Hashes that are sorted at a time.
_PART_ROWS = 1 << 22


def drawing_hashes(images: npt.NDArray[np.uint8]) -> Hashes:
    """Return 64 bits of BLAKE2b over each drawing's pixels (n,)."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    values = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    packed = b"".join([hashlib.blake2b(value, digest_size=8).digest() for value in values])
    return np.frombuffer(packed, ">u8").astype(np.uint64)


def repeats(hashes: Hashes, among: Mask | None = None) -> Mask:
    """Return which drawings are equal to an earlier one (n,); among: only these count."""
    mask = np.zeros(len(hashes), bool)
    for low, high in _ranges(len(hashes)):
        rows = _rows_between(hashes, low, high, among)
        later = np.ones(len(rows), bool)
        later[np.unique(hashes[rows], return_index=True)[1]] = False
        mask[rows[later]] = True
    return mask


def members(hashes: Hashes, known: Hashes, among: Mask | None = None) -> Mask:
    """Return which drawings are among the known (n,); among: ask only about these."""
    mask = np.zeros(len(hashes), bool)
    for low, high in _ranges(max(len(hashes), len(known))):
        rows = _rows_between(hashes, low, high, among)
        mask[rows] = in_sorted(hashes[rows], np.sort(known[_rows_between(known, low, high, None)]))
    return mask


def in_sorted(hashes: Hashes, ordered: Hashes) -> Mask:
    """Return which hashes are in an ordered array (n,)."""
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    place = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return ordered[place] == hashes


def _ranges(num_rows: int) -> Iterator[tuple[np.uint64, np.uint64]]:
    """Yield ranges [low, high] that hold about _PART_ROWS of evenly spread hashes each."""
    parts = 1 << max(0, (num_rows - 1) // _PART_ROWS).bit_length()
    width = (1 << 64) // parts
    for part in range(parts):
        yield np.uint64(part * width), np.uint64((part + 1) * width - 1)


def _rows_between(
    hashes: Hashes, low: np.uint64, high: np.uint64, among: Mask | None
) -> npt.NDArray[np.int64]:
    inside = hashes >= low
    inside &= hashes <= high
    if among is not None:
        inside &= among
    return np.flatnonzero(inside)
