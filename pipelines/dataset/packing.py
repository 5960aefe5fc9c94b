"""Assign the rows of a split to shards of equal size before any shard is written.

A file is cut into blocks of 64 rows, which are put in a seeded order; small
sets are cut finer, so that every shard still mixes all classes. The sequence is cut where each
shard is full: a block that lies across a cut gives its first rows to one shard, the rest to the
next. A block's rows are one bit each in a 64-bit word, so a plan for 50 million drawings takes
40 MB; reading whole blocks keeps the disk busy with 50 kB at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.dataset.scan import ScanUnit
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.hashing import SALT_BLOCK, splitmix64, text_seed

BLOCK_ROWS = 64
DEFAULT_ROWS_PER_SHARD = 65_536
# Fewer shards than this leave processors and readers idle; smaller ones are not worth a file.
MIN_SHARDS = 8
MIN_ROWS_PER_SHARD = 1_024
# With fewer rows in all, blocks have 16 rows instead of 64.
_SMALL_SET_ROWS = 1_000_000
_SMALL_SET_TOGETHER = 16


# Bit b of mask stands for row 64 * block + b of a unit.
BLOCKS = np.dtype([("unit", "<i4"), ("block", "<u4"), ("mask", "<u8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows of one unit: bit b of masks[i] stands for row 64 * blocks[i] + b of the unit."""

    unit_index: int
    blocks: npt.NDArray[np.uint32]
    masks: npt.NDArray[np.uint64]

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the rows, counted from the unit's first, ascending."""
        bits = np.unpackbits(self.masks.astype("<u8").view(np.uint8), bitorder="little")
        block, bit = np.nonzero(bits.reshape(-1, BLOCK_ROWS))
        return self.blocks[block].astype(np.int64) * BLOCK_ROWS + bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard: which of how many of its split, and its number of rows."""

    split: str
    index: int
    count: int
    rows: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard and where its rows come from: an array of BLOCKS, ascending by unit and block."""

    shard: Shard
    blocks: npt.NDArray[np.void]


def pack_split(
    split: str,
    position: int,
    codes: Mapping[int, npt.NDArray[np.uint8]],
    units: Sequence[ScanUnit],
    spec: DatasetSpec,
) -> list[ShardPlan]:
    """Return the shards of one split: the rows whose code is `position`."""
    if not codes:
        return []
    together = (
        _SMALL_SET_TOGETHER if sum(map(len, codes.values())) < _SMALL_SET_ROWS else BLOCK_ROWS
    )
    parts = [
        _unit_blocks(i, code == position, units[i], spec.seed, together)
        for i, code in codes.items()
    ]
    unit_index, blocks, masks, keys = (
        np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    order = np.lexsort((masks, blocks, unit_index, keys))
    unit_index, blocks, masks = unit_index[order], blocks[order], masks[order]
    total = int(np.bitwise_count(masks).sum(dtype=np.int64))
    if not total:
        return []
    count = num_shards(total, spec.rows_per_shard)
    edges = [total * index // count for index in range(count + 1)]
    ends = np.cumsum(np.bitwise_count(masks), dtype=np.int64)
    shards = []
    for index in range(count):
        first, last = edges[index], edges[index + 1]
        chosen, cut = _cut(masks, ends, first, last)
        shard = Shard(split=split, index=index, count=count, rows=last - first)
        shards.append(ShardPlan(shard, _join_groups(unit_index[chosen], blocks[chosen], cut)))
    return shards


def pieces(blocks: npt.NDArray[np.void]) -> Iterator[Piece]:
    """Yield the rows of each unit of an array of BLOCKS."""
    edges = np.flatnonzero(np.diff(blocks["unit"])) + 1
    for part in np.split(blocks, edges):
        index = int(part["unit"][0])
        yield Piece(unit_index=index, blocks=part["block"], masks=part["mask"])


def num_shards(rows: int, rows_per_shard: int | None) -> int:
    """Return how many shards hold this number of rows.

    >>> num_shards(10_000_000, None), num_shards(70_000, None), num_shards(2_000, None)
    (153, 8, 1)
    """
    if rows_per_shard is not None:
        return max(1, -(-rows // rows_per_shard))
    few = min(MIN_SHARDS, max(1, rows // MIN_ROWS_PER_SHARD))
    return max(few, -(-rows // DEFAULT_ROWS_PER_SHARD))


def _unit_blocks(
    unit_index: int, wanted: npt.NDArray[np.bool_], unit: ScanUnit, seed: int, together: int
) -> tuple[npt.NDArray[Any], ...]:
    """Return (unit, block, mask, key) of the unit's groups of rows that have wanted ones.

    A group is `together` neighboring rows, a power of two up to 64, that get one key.
    """
    padded = np.zeros(-(-len(wanted) // BLOCK_ROWS) * BLOCK_ROWS, np.uint8)
    padded[: len(wanted)] = wanted
    words = np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)
    group = [((1 << together) - 1) << start for start in range(0, BLOCK_ROWS, together)]
    masks = (words[:, None] & np.array(group, np.uint64)).ravel()
    groups = np.flatnonzero(masks)
    blocks = (groups // len(group)).astype(np.uint32)
    file_seed = text_seed(SALT_BLOCK, seed, unit.file.class_name, unit.file.digest)
    absolute = groups.astype(np.uint64) + np.uint64(unit.start // together)
    keys = splitmix64(splitmix64(absolute ^ np.uint64(file_seed)) + absolute)
    return np.full(len(groups), unit_index, np.int32), blocks, masks[groups], keys


def _cut(
    masks: npt.NDArray[np.uint64], ends: npt.NDArray[np.int64], first: int, last: int
) -> tuple[slice, npt.NDArray[np.uint64]]:
    """Return the blocks that hold kept rows [first, last) of the sequence, and their masks."""
    low = int(np.searchsorted(ends, first, side="right"))
    high = int(np.searchsorted(ends, last, side="left"))
    cut = masks[low : high + 1].copy()
    begin = int(ends[low]) - int(np.bitwise_count(masks[low]))
    # The last block first: if it is also the first, its low bits are still to be counted from.
    last_begin = int(ends[high]) - int(np.bitwise_count(masks[high]))
    cut[-1] = _bits_between(int(masks[high]), 0, last - last_begin)
    cut[0] = _bits_between(int(cut[0]), first - begin, BLOCK_ROWS)
    return slice(low, high + 1), cut


def _bits_between(mask: int, first: int, last: int) -> int:
    """Return the mask with only its set bits number first to last - 1, counted from bit 0."""
    places = [place for place in range(BLOCK_ROWS) if mask >> place & 1]
    return sum(1 << place for place in places[first:last])


def _join_groups(
    unit_index: npt.NDArray[np.int32],
    blocks: npt.NDArray[np.uint32],
    masks: npt.NDArray[np.uint64],
) -> npt.NDArray[np.void]:
    """Sort a shard's groups of rows, so that files are read forwards, and join those of a block."""
    order = np.lexsort((blocks, unit_index))
    unit_index, blocks, masks = unit_index[order], blocks[order], masks[order]
    changed = (np.diff(unit_index) != 0) | (np.diff(blocks) != 0)
    first = np.concatenate([[0], np.flatnonzero(changed) + 1])
    joined = np.empty(len(first), BLOCKS)
    joined["unit"], joined["block"] = unit_index[first], blocks[first]
    joined["mask"] = np.bitwise_or.reduceat(masks, first)
    return joined
