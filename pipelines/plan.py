"""From attributes to a plan: every shard, its name and its exact rows, before one is written.

    units     ranges of source files
    code      of every row: its split, or the reason to drop it (pipelines/selection.py)
    packing   rows of a split to shards (pipelines/packing.py)

Nothing depends on the length of the ranges.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.attributes import column, failure, hashes_of, metadata_of, table_from_bytes
from pipelines.drawings import METADATA_COLUMNS
from pipelines.hashing import add_sums, sum_rows
from pipelines.packing import ShardPlan, pack_split
from pipelines.scan import ScanUnit
from pipelines.selection import FIRST_REASON, OTHER_CLASS, REASONS, Selection
from pipelines.sources.base import BadFileError, Source
from pipelines.spec import DatasetSpec

INK_BINS = 16


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the plan knows of the dataset before it is built.

    counts     drawings by split and class; dropped by reason and class
    ink        by class, a histogram of the share of pixels with ink in 16 equal bins
    bad_files  address and reason of the files that were left out
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    ink: dict[str, list[int]] = field(default_factory=dict)
    bad_files: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """All shards in order, the units their pieces refer to, the code of each row, the tally.

    content: 128-bit sum over the planned drawings, by class and split; what is built must add up
    to it, or the source changed since it was scanned.
    """

    units: tuple[ScanUnit, ...]
    codes: dict[int, npt.NDArray[np.uint8]]
    shards: tuple[ShardPlan, ...]
    tally: Tally
    content: int


def make_plan(
    source: Source,
    spec: DatasetSpec,
    units: Sequence[ScanUnit],
    read_object: Callable[[str], bytes],
    selection: Selection,
) -> BuildPlan:
    """Decide every row and lay out the shards, reading one class's attributes at a time.

    Raises BadFileError if a range could not be scanned and the spec says fail; ValueError if a
    column that the spec needs is missing, or a class or split would be empty.
    """
    tally = Tally(
        counts={split: dict.fromkeys(spec.class_names, 0) for split in spec.split_names},
        ink={name: [0] * INK_BINS for name in spec.class_names},
        bad_files=list(source.bad_files),
    )
    codes: dict[int, npt.NDArray[np.uint8]] = {}
    content = 0
    for class_name, members in _rows_by_class(source, spec, units, read_object, tally):
        table = pa.concat_tables([part for _, _, part in members]).combine_chunks()
        found = selection.codes(class_name, table)
        _count(tally, spec, class_name, table, found)
        content = add_sums(content, _content(spec, class_name, table, found))
        start = 0
        for unit_index, rows, part in members:
            target = codes.setdefault(
                unit_index, np.full(units[unit_index].rows, OTHER_CLASS, np.uint8)
            )
            target[rows] = found[start : start + part.num_rows]
            start += part.num_rows
    _check_not_empty(spec, tally)
    shards = [
        shard
        for position, split in enumerate(spec.split_names)
        for shard in pack_split(split, position, codes, units, spec)
    ]
    return BuildPlan(
        units=tuple(units), codes=codes, shards=tuple(shards), tally=tally, content=content
    )


def _content(
    spec: DatasetSpec, class_name: str, table: pa.Table, codes: npt.NDArray[np.uint8]
) -> int:
    """Return the sum over the kept drawings of a class that their shards must have."""
    hashes = hashes_of(table)
    return add_sums(
        *(
            sum_rows(hashes[codes == position], class_name, split)
            for position, split in enumerate(spec.split_names)
        )
    )


def _rows_by_class(
    source: Source,
    spec: DatasetSpec,
    units: Sequence[ScanUnit],
    read_object: Callable[[str], bytes],
    tally: Tally,
) -> Iterator[tuple[str, list[tuple[int, npt.NDArray[np.int64], pa.Table]]]]:
    """Yield each wanted class with its (unit, rows in it, their attributes), in row order."""
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for unit_index, unit in enumerate(units):
        by_class[unit.file.class_name].append(unit_index)
    mixed = _load(by_class.pop(None, []), units, read_object, spec, tally)
    for class_name in spec.class_names:
        members = [
            (unit_index, np.arange(table.num_rows), table)
            for unit_index, table in _load(
                by_class.get(class_name, []), units, read_object, spec, tally
            )
        ]
        if class_name in source.class_names:
            label = source.class_names.index(class_name)
            for unit_index, table in mixed:
                rows = np.flatnonzero(column(table, "label") == label)
                members.append((unit_index, rows, table.take(rows)))
        if members:
            yield class_name, members


def _load(
    unit_indices: Sequence[int],
    units: Sequence[ScanUnit],
    read_object: Callable[[str], bytes],
    spec: DatasetSpec,
    tally: Tally,
) -> list[tuple[int, pa.Table]]:
    """Read attributes; leave out all of a file of which a range failed, or raise."""
    tables, bad = [], {}
    for unit_index in unit_indices:
        unit = units[unit_index]
        table = table_from_bytes(read_object(unit.path))
        if (message := failure(table)) is None:
            tables.append((unit_index, table))
            continue
        if spec.on_bad_file == "fail":
            raise BadFileError(message)
        bad.setdefault(unit.file.url, message)
    tally.bad_files += bad.items()
    good = [(i, table) for i, table in tables if units[i].file.url not in bad]
    for unit_index, table in good:
        _check_columns(spec, units[unit_index], table)
    return good


def _check_columns(spec: DatasetSpec, unit: ScanUnit, table: pa.Table) -> None:
    wanted = {"recognized"} if spec.recognized_only else set()
    wanted |= {"country_code"} if spec.countries else set()
    wanted |= set(METADATA_COLUMNS) if spec.with_metadata else set()
    if missing := wanted - set(metadata_of(table)):
        raise ValueError(
            f"{unit.file.url} does not know {', '.join(sorted(missing))}: use the simplified "
            "drawings as source, or lay them beside the bitmaps to be joined"
        )


def _count(
    tally: Tally,
    spec: DatasetSpec,
    class_name: str,
    table: pa.Table,
    codes: npt.NDArray[np.uint8],
) -> None:
    histogram = np.bincount(codes, minlength=256)
    for position, split in enumerate(spec.split_names):
        tally.counts[split][class_name] = int(histogram[position])
    for index, reason in enumerate(REASONS):
        if number := int(histogram[FIRST_REASON + index]):
            tally.dropped.setdefault(reason, {})[class_name] = number
    bins = ink_bins(column(table, "ink")[codes < FIRST_REASON], spec.image_size)
    tally.ink[class_name] = np.bincount(bins, minlength=INK_BINS).tolist()


def ink_bins(ink: npt.NDArray[Any], image_size: int) -> npt.NDArray[np.int64]:
    """Return the bin of the histogram that each number of inked pixels belongs to."""
    return (ink.astype(np.int64) * INK_BINS) // (image_size**2 + 1)


def _check_not_empty(spec: DatasetSpec, tally: Tally) -> None:
    for class_name in spec.class_names:
        if any(counts[class_name] for counts in tally.counts.values()):
            continue
        reasons = {reason: n[class_name] for reason, n in tally.dropped.items() if class_name in n}
        if spec.on_bad_file == "fail" or not tally.bad_files:
            why = f"all were dropped: {reasons}" if reasons else "the source has none"
            raise ValueError(f"no drawing of class {class_name!r} is left: {why}")
    # A class of the linked layout may be all in a bad file; whoever links it says if none is left.
    is_empty = not any(sum(counts.values()) for counts in tally.counts.values())
    if is_empty and spec.layout != "linked":
        raise ValueError("no drawing is left: every file was bad or every drawing dropped")
