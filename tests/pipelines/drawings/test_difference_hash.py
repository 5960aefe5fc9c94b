"""Near-duplicates over many blocks of rows: exact, in memory that does not grow with the pairs."""

import tracemalloc

import numpy as np
import pytest

from pipelines.dataset.selection import near_duplicates


def one_by_one(hashes, kept, max_bits) -> np.ndarray:
    stays, dropped = [], np.zeros(len(hashes), bool)
    for row in np.flatnonzero(kept):
        bits = np.bitwise_count(hashes[stays] ^ hashes[row]) if stays else np.array([65])
        dropped[row] = bits.min() <= max_bits
        if not dropped[row]:
            stays.append(row)
    return dropped


@pytest.mark.parametrize("max_bits", [0, 2, 5])
def test_rows_of_other_blocks_count(max_bits):
    rng = np.random.default_rng(max_bits)
    hashes = rng.integers(0, 2**64, 40, np.uint64)[rng.integers(0, 40, 3_000)]
    for _ in range(5):
        flips = np.uint64(1) << rng.integers(0, 64, 3_000).astype(np.uint64)
        hashes = np.where(rng.random(3_000) < 0.5, hashes ^ flips, hashes)
    kept = rng.random(3_000) < 0.9
    found = near_duplicates(hashes, kept, max_bits)
    assert found.any()
    assert np.array_equal(found, one_by_one(hashes, kept, max_bits))


def test_drawings_that_are_all_alike_take_little_memory():
    rng = np.random.default_rng(0)
    hashes = np.uint64(1) << rng.integers(0, 64, 20_000).astype(np.uint64)  # 200 million pairs
    tracemalloc.start()
    try:
        near_duplicates(hashes, np.ones(20_000, bool), 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
