"""Turn attributes into a plan: every shard with its name and exact rows.

    units     ranges of source files
    code      of every row: its split, or the reason to drop it (pipelines/dataset/selection.py)
    packing   rows of a split to shards (pipelines/dataset/packing.py)

Nothing depends on the length of the ranges.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.catalogue import is_official
from pipelines.dataset.attributes import (
    BAD_ROW_REASONS,
    column,
    failure,
    hashes_of,
    metadata_of,
    table_from_bytes,
)
from pipelines.dataset.bad_rows import (
    NAMED_ROWS,
    BadRows,
    bad_row_at,
    check_limit,
    class_problem,
    describe_rows,
    nothing_left,
)
from pipelines.dataset.packing import ShardPlan, pack_split
from pipelines.dataset.scan import ScanUnit
from pipelines.dataset.selection import (
    FIRST_REASON,
    OTHER_CLASS,
    REASONS,
    Selection,
    metadata_columns,
)
from pipelines.dataset.spec import DatasetSpec, split_name
from pipelines.drawings.hashing import add_sums, choose_splits, sum_rows
from pipelines.sources.base import BadFileError, Source
from pipelines.sources.kinds import file_format

INK_BINS = 16
_NO_LABEL = -1


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the plan knows of the dataset before it is built.

    counts     drawings by split and class; dropped by reason and class
    ink        by class, a histogram of the share of pixels with ink in 16 equal bins
    bad_files  address and reason of the files that were left out
    bad_rows   rows that were left out; those of a class are in `dropped` too
    repaired   kept drawings by what was converted in them and class
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    ink: dict[str, list[int]] = field(default_factory=dict)
    bad_files: list[tuple[str, str]] = field(default_factory=list)
    bad_rows: BadRows = field(default_factory=BadRows)
    repaired: dict[str, dict[str, int]] = field(default_factory=dict)


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
    read_object: Callable[[str], bytes | memoryview],
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
        parts = [part for _, _, part in members]
        table = pa.concat_tables(parts, promote_options="default").combine_chunks()
        found = selection.codes(class_name, table, _own_splits(spec, units, members, table))
        _note_bad_rows(tally, spec, units, members, found)
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
    check_limit(spec, tally.bad_rows.number, next(iter(tally.bad_rows.named), None))
    shards = [
        shard
        for position, split in enumerate(spec.split_names)
        for shard in pack_split(split, position, codes, units, spec)
    ]
    return BuildPlan(
        units=tuple(units), codes=codes, shards=tuple(shards), tally=tally, content=content
    )


def _own_splits(
    spec: DatasetSpec,
    units: Sequence[ScanUnit],
    members: Sequence[tuple[int, npt.NDArray[np.int64], pa.Table]],
    table: pa.Table,
) -> npt.NDArray[np.uint8] | None:
    """Return the position of each row's split in the source, None where pixels decide it.

    table: the attributes of all rows, of which a part of train becomes validation
    """
    if spec.split_by == "pixels":
        return None
    splits = [split_name(units[unit_index].file.layout["split"]) for unit_index, _, _ in members]
    rows = [part.num_rows for _, _, part in members]
    found = np.repeat(np.array([spec.split_names.index(s) for s in splits], np.uint8), rows)
    if spec.validation_part:
        parts = (("validation", spec.validation_part), ("train", 1 - spec.validation_part))
        is_chosen = choose_splits(hashes_of(table), parts, spec.seed) == 0
        found[is_chosen & (found == spec.split_names.index("train"))] = spec.split_names.index(
            "validation"
        )
    return found


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
    read_object: Callable[[str], bytes | memoryview],
    tally: Tally,
) -> Iterator[tuple[str, list[tuple[int, npt.NDArray[np.int64], pa.Table]]]]:
    """Yield each wanted class with its (unit, rows in it, their attributes), in row order."""
    by_class: dict[str | None, list[int]] = defaultdict(list)
    for unit_index, unit in enumerate(units):
        by_class[unit.file.class_name].append(unit_index)
    labels = {name: label for label, name in enumerate(source.class_names)}
    wanted = [labels[name] for name in spec.class_names if name in labels]
    mixed = _load(by_class.pop(None, []), units, read_object, spec, tally, [*wanted, _NO_LABEL])
    _note_unlabeled_rows(tally, spec, units, mixed)
    for class_name in spec.class_names:
        members = [
            (unit_index, np.arange(table.num_rows), table)
            for unit_index, table in _load(
                by_class.get(class_name, []), units, read_object, spec, tally
            )
        ]
        if class_name in labels:
            for unit_index, table in mixed:
                rows = np.flatnonzero(column(table, "label") == labels[class_name])
                members.append((unit_index, rows, table.take(rows)))
        if members:
            yield class_name, members


def _load(
    unit_indices: Sequence[int],
    units: Sequence[ScanUnit],
    read_object: Callable[[str], bytes | memoryview],
    spec: DatasetSpec,
    tally: Tally,
    labels: Sequence[int] | None = None,
) -> list[tuple[int, pa.Table]]:
    """Read attributes; leave out all of a file of which a range failed or that is bad, or raise.

    labels: those that are wanted, of files that mix classes
    """
    tables: list[tuple[int, pa.Table]] = []
    bad: dict[str, str] = {}
    for unit_index in unit_indices:
        table = table_from_bytes(read_object(units[unit_index].path))
        if message := failure(table):
            bad.setdefault(units[unit_index].file.url, message)
        else:
            tables.append((unit_index, table))
    by_file: dict[str, list[tuple[int, pa.Table]]] = defaultdict(list)
    for unit_index, table in tables:
        by_file[units[unit_index].file.url].append((unit_index, table))
    for url, own in by_file.items():
        if url not in bad and (message := _file_problem(own, units, spec, labels)):
            bad[url] = message
    if bad and spec.on_bad_file == "fail":
        raise BadFileError(next(iter(bad.values())))
    tally.bad_files += bad.items()
    good = [(i, table) for i, table in tables if units[i].file.url not in bad]
    for unit_index, table in good:
        _check_columns(spec, units[unit_index], table)
    return good


def _file_problem(
    parts: Sequence[tuple[int, pa.Table]],
    units: Sequence[ScanUnit],
    spec: DatasetSpec,
    labels: Sequence[int] | None,
) -> str | None:
    """Return why a file is bad as a whole; a bad row makes it so only if files may be skipped."""
    file = units[parts[0][0]].file
    table = pa.concat_tables([part for _, part in parts], promote_options="default")
    ink, peak, verdicts = (column(table, name) for name in ("ink", "peak", "bad_row"))
    classes = [np.ones(len(ink), bool)]
    if labels is not None:
        found = column(table, "label")
        classes = [found == label for label in labels]
    for rows in [] if is_official(file.digest) else classes:
        good = rows & (verdicts == 0)
        own_peak = None if file_format(file.format).is_drawn else peak[good]
        if problem := class_problem(ink[good], own_peak, spec.image_size**2):
            return f"{file.url}: {problem}"
    if spec.on_bad_file == "fail" or spec.on_bad_row == "skip":
        return None
    bad = np.flatnonzero(np.any(classes, axis=0) & (verdicts > 0))
    if not len(bad):
        return None
    row = np.concatenate([np.arange(units[i].start, units[i].stop) for i, _ in parts])[bad[0]]
    first = bad_row_at(file, int(row), table, int(bad[0]))
    return describe_rows(first, {first.reason: len(bad)}, len(ink))


def _note_bad_rows(
    tally: Tally,
    spec: DatasetSpec,
    units: Sequence[ScanUnit],
    members: Sequence[tuple[int, npt.NDArray[np.int64], pa.Table]],
    codes: npt.NDArray[np.uint8],
) -> None:
    """Name the bad rows that the spec would take, or raise BadFileError under on_bad_row="fail"."""
    is_bad = np.isin(codes, [FIRST_REASON + REASONS.index(reason) for reason in BAD_ROW_REASONS])
    if not is_bad.any():
        return
    start, named = 0, []
    for unit_index, rows, part in members:
        unit = units[unit_index]
        places = np.flatnonzero(is_bad[start : start + len(rows)])[:NAMED_ROWS].tolist()
        named += [bad_row_at(unit.file, unit.start + int(rows[i]), part, i) for i in places]
        start += len(rows)
    numbers = np.unique(codes[is_bad], return_counts=True)
    by_reason = {REASONS[code - FIRST_REASON]: int(n) for code, n in zip(*numbers, strict=True)}
    tally.bad_rows.add(spec, named, by_reason, len(codes))


def _note_unlabeled_rows(
    tally: Tally,
    spec: DatasetSpec,
    units: Sequence[ScanUnit],
    mixed: Sequence[tuple[int, pa.Table]],
) -> None:
    """Do the same for bad rows whose class is not known, in files that mix classes."""
    named, number = [], 0
    for unit_index, table in mixed:
        unit = units[unit_index]
        places = np.flatnonzero(column(table, "label") == _NO_LABEL).tolist()
        number += len(places)
        named += [
            bad_row_at(unit.file, unit.start + place, table, place) for place in places[:NAMED_ROWS]
        ]
    if named:
        rows = sum(table.num_rows for _, table in mixed)
        tally.bad_rows.add(spec, named, {named[0].reason: number}, rows)


def _check_columns(spec: DatasetSpec, unit: ScanUnit, table: pa.Table) -> None:
    if missing := set(metadata_columns(spec)) - set(metadata_of(table)):
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
    if "repair" in table.column_names:
        for repair in pc.call_function(
            "value_counts", [table["repair"].filter(codes < FIRST_REASON)]
        ):
            if (text := repair["values"].as_py()) is not None:
                tally.repaired.setdefault(text, {})[class_name] = repair["counts"].as_py()
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
    # A class of the linked layout may be all in a bad file; linking it reports that none is left.
    is_empty = not any(sum(counts.values()) for counts in tally.counts.values())
    if is_empty and spec.layout != "linked":
        raise nothing_left(tally.bad_files, tally.bad_rows.named)
