"""Hashes of drawings: identity, split, order, and the digest of a set of drawings.

A drawing's identity is xxh3_128 of its pixels, row by row. From it follow, by mixing with a
seed (splitmix64), whether a fraction takes it, its split and its place in a shard. The digest
of a set is the sum of one mixed hash a drawing, bound to class name and split: it depends on
neither order, shards nor format, and sums of parts add up to the sum of the whole. It guards
against accidents, not against someone who looks for collisions.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

Uint64Array = npt.NDArray[np.uint64]

MASK = 2**64 - 1
SALT_SPLIT, SALT_FRACTION, SALT_ORDER, SALT_BLOCK = 1, 2, 3, 4


def pixel_hashes(images: npt.NDArray[np.uint8]) -> Uint64Array:
    """Return xxh3_128 of every image's bytes: (n, h, w) uint8 to (n, 2) uint64, high first."""
    if not images.size:
        return np.empty((len(images), 2), np.uint64)
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    values = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    digest = xxhash.xxh3_128_digest
    packed = b"".join([digest(value) for value in values])
    return np.frombuffer(packed, ">u8").reshape(-1, 2).astype(np.uint64)


def splitmix64(values: Uint64Array) -> Uint64Array:
    """Return the splitmix64 of every value (Steele, Lea and Flood 2014); wraps at 2**64."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def text_seed(*parts: object) -> int:
    """Return 64 bits that depend on all parts: a seed for the functions here."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def mixed(hashes: Uint64Array, seed: int) -> Uint64Array:
    """Return 64 bits a drawing that depend on its identity (n, 2) and a seed."""
    high = splitmix64(hashes[:, 0] ^ np.uint64(seed & MASK))
    return splitmix64(high + hashes[:, 1])


def unit_interval(hashes: Uint64Array, seed: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) a drawing, uniform over seeds and drawings."""
    return (mixed(hashes, seed) >> np.uint64(11)).astype(np.float64) / 2.0**53


def choose_splits(
    hashes: Uint64Array, splits: Sequence[tuple[str, float]], seed: int
) -> npt.NDArray[np.uint8]:
    """Return each drawing's position in `splits`: equal pixels have the same split in every class."""
    edges = np.cumsum([part for _, part in splits])[:-1]
    place = unit_interval(hashes, text_seed(SALT_SPLIT, seed))
    return np.searchsorted(edges, place, side="right").astype(np.uint8)


def order_rows(hashes: Uint64Array, seed: int) -> npt.NDArray[np.int64]:
    """Return the order of a shard's rows: by mixed hash; equal drawings keep their order."""
    return np.argsort(mixed(hashes, text_seed(SALT_ORDER, seed)), kind="stable")


def sum_rows(hashes: Uint64Array, class_name: str, split: str) -> int:
    """Return the 128-bit sum of these drawings as members of this class and split."""
    seed = text_seed("member", class_name, split)
    first = mixed(hashes, seed)
    second = mixed(hashes[:, ::-1], seed)
    return int(first.sum(dtype=np.uint64)) << 64 | int(second.sum(dtype=np.uint64))


def add_sums(*sums: int) -> int:
    """Return the sum of 128-bit sums: both halves wrap by themselves."""
    high = sum(value >> 64 for value in sums) & MASK
    low = sum(value & MASK for value in sums) & MASK
    return high << 64 | low
