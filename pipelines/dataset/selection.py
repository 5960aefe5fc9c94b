"""Select drawings and give a reason for each one dropped, from attributes alone, class by class.

Every drawing gets one code: the position of its split, or the reason to drop it. Rules run in
a fixed order and the first that speaks counts, so the counts add up to the rows read. What
happens to a class depends on that class alone: adding classes moves no drawing.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dataset.attributes import BAD_ROW_REASONS, column, hashes_of
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.batch import METADATA_COLUMNS
from pipelines.drawings.hashing import SALT_FRACTION, choose_splits, text_seed, unit_interval

REASONS: tuple[str, ...] = (
    "outside_tfds_slice",
    "over_max_per_class",
    *BAD_ROW_REASONS,
    "outside_fraction",
    "not_recognized",
    "other_country",
    "blank",
    "too_little_ink",
    "too_much_ink",
    "duplicate",
    "near_duplicate",
)
CLEANING_REASONS = REASONS[REASONS.index("blank") :]
# Codes from here on are reasons; below are splits.
FIRST_REASON = 128
# Rows of classes that are not wanted, in files that mix classes.
OTHER_CLASS = 255

Mask = npt.NDArray[np.bool_]
Rule = Callable[[pa.Table, Mask], Mask]
SliceRule = Callable[[str, int], Mask]

_BLOCK_ROWS = 1_024
# Pairs that are compared at once, 40 bytes each.
_PAIRS_AT_ONCE = 1 << 20

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rules of a spec; `in_slice(class_name, n)` says which rows TFDS's slice takes."""

    spec: DatasetSpec
    in_slice: SliceRule | None = None

    def codes(
        self, class_name: str, table: pa.Table, own_splits: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return a code a row for all rows of one class, in the order of the source.

        own_splits  position of the split that the source has each row in, where these are kept
        """
        codes = np.zeros(table.num_rows, np.uint8)
        kept = np.ones(table.num_rows, bool)
        for reason, rule in self._rules(class_name):
            dropped = kept & rule(table, kept)
            codes[dropped] = FIRST_REASON + REASONS.index(reason)
            kept &= ~dropped
        if own_splits is None:
            hashes = hashes_of(table)[kept]
            own_splits = np.zeros(table.num_rows, np.uint8)
            own_splits[kept] = choose_splits(hashes, self.spec.splits, self.spec.seed)
        codes[kept] = own_splits[kept]
        return codes

    def _rules(self, class_name: str) -> list[tuple[str, Rule]]:
        """Return (reason, rule) in order; a rule gets what is still kept, says what to drop."""
        spec = self.spec
        rules: list[tuple[str, Rule]] = []
        if self.in_slice is not None:
            in_slice = self.in_slice
            rules.append(("outside_tfds_slice", lambda t, _: ~in_slice(class_name, t.num_rows)))
        if spec.max_per_class is not None:
            limit = spec.max_per_class
            rules.append(("over_max_per_class", lambda _, kept: np.cumsum(kept) > limit))
        rules += [(reason, _is_bad(number)) for number, reason in enumerate(BAD_ROW_REASONS, 1)]
        if spec.fraction < 1:
            rules.append(("outside_fraction", self._outside_fraction))
        if spec.recognized_only:
            rules.append(("not_recognized", lambda t, _: ~column(t, "recognized").astype(bool)))
        if spec.countries:
            rules.append(("other_country", self._other_country))
        return rules + self._cleaning()

    def _cleaning(self) -> list[tuple[str, Rule]]:
        spec = self.spec
        rules: list[tuple[str, Rule]] = []
        if spec.blank == "drop":
            rules.append(("blank", lambda t, _: column(t, "ink") == 0))
        rules.append(("too_little_ink", self._too_little_ink))
        if spec.max_ink is not None:
            most = spec.max_ink
            rules.append(("too_much_ink", lambda t, _: column(t, "ink") > most))
        if spec.duplicates == "drop":
            rules.append(("duplicate", lambda t, kept: repeated(hashes_of(t), kept)))
        if spec.near_duplicates is not None:
            bits = spec.near_duplicates
            rules.append(
                (
                    "near_duplicate",
                    lambda t, kept: near_duplicates(column(t, "difference_hash"), kept, bits),
                )
            )
        return rules

    def _too_little_ink(self, table: pa.Table, _: Mask) -> Mask:
        ink = column(table, "ink")
        return (ink > 0) & (ink < self.spec.min_ink)

    def _outside_fraction(self, table: pa.Table, _: Mask) -> Mask:
        seed = text_seed(SALT_FRACTION, self.spec.seed)
        return unit_interval(hashes_of(table), seed) >= self.spec.fraction

    def _other_country(self, table: pa.Table, _: Mask) -> Mask:
        return ~np.isin(column(table, "country_code"), self.spec.countries)


def metadata_columns(spec: DatasetSpec) -> tuple[str, ...]:
    """Return the columns that the source must know for a spec: no other metadata is read."""
    if spec.with_metadata:
        return METADATA_COLUMNS
    chosen = {"country_code": bool(spec.countries), "recognized": spec.recognized_only}
    return tuple(name for name, is_wanted in chosen.items() if is_wanted)


def near_duplicates(
    difference_hashes: npt.NDArray[np.uint64], kept: npt.NDArray[np.bool_], max_bits: int
) -> npt.NDArray[np.bool_]:
    """Return which kept rows are within `max_bits` of an earlier row that stays.

    Rows are decided in order: a row goes if a row before it, that itself stays, is near. Two
    64-bit hashes within k bits agree in at least one of k + 1 bands of bits (pigeonhole), so only
    drawings that share a band are compared. A block of rows at a time is held against those that
    stay, so memory does not grow with the number of pairs. Bands shared by very many drawings
    (simple shapes) are compared all the same; the answer is exact, only slower.
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


def _is_bad(number: int) -> Rule:
    return lambda table, _: column(table, "bad_row") == number


def repeated(hashes: npt.NDArray[np.uint64], kept: Mask) -> Mask:
    """Return which kept rows have the pixels of an earlier kept row."""
    places = np.flatnonzero(kept)
    order = np.lexsort((places, hashes[places, 1], hashes[places, 0]))
    ordered = hashes[places[order]]
    same = (ordered[1:] == ordered[:-1]).all(axis=1)
    dropped = np.zeros(len(kept), bool)
    dropped[places[order[1:][same]]] = True
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
