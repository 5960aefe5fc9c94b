"""Collect the accepted drawings of all rounds of a quota into a samples dataset.

The result has all properties of a samples dataset: it can be exported, reported, and compared with
its source. The rounds are not inputs; `rounds` in the summary holds the spec of each, which with
the model reproduces every row.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.audit.filters import Filters
from model.audit.measures import Images, drawing_hashes, in_sorted
from model.audit.nearness import nearest
from model.sampling.card import COLUMNS
from model.sampling.shards import SPLIT, Samples, describe_shard
from pipelines.drawings.parquet import (
    open_shard,
    read_images,
    shard_name,
    shard_schema,
    shard_writer,
)
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

ROWS_PER_SHARD = 8_192


@dataclass(frozen=True, slots=True)
class AcceptedRows:
    """Rows that are taken from a shard of a round."""

    drawn: Manifest
    path: str
    rows: npt.NDArray[np.int32]

    def read(self, store: Store, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows."""
        table = open_shard(store.read(self.drawn, self.path)).read(columns)
        return table.take(pa.array(self.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSamples(Samples):
    """The samples of a quota that is filled."""

    picks: Sequence[AcceptedRows]


def put_samples(samples: QuotaSamples, store: Store) -> Manifest:
    """Put shards and card into the store and return the manifest, which is not published.

    An interrupted quota resumes from its rounds; writing the shards again takes seconds.
    """
    records = []
    for path, table in _shard_tables(samples, store):
        content = _encode(table)
        store.put(f"{samples.prefix}/{path}", content)
        records.append(describe_shard(path, content, table, len(samples.class_names)))
    return samples.put_card(
        [record.entry for record in records],
        store,
        counts=np.sum([record.counts for record in records], axis=0),
        # One after the other: np.sum rounds otherwise where there is one class.
        bits_per_dim=functools.reduce(np.add, [record.bits_per_dim for record in records]),
    )


def _shard_tables(samples: QuotaSamples, store: Store) -> Iterator[tuple[str, pa.Table]]:
    """Yield each shard's path and rows, ROWS_PER_SHARD but for the last."""
    shape = tuple(samples.model.summary["image_shape"][:2])
    schema = shard_schema(samples.class_names, (shape[0], shape[1]), COLUMNS)
    count = math.ceil(sum(len(pick.rows) for pick in samples.picks) / ROWS_PER_SHARD)
    joined, index = schema.empty_table(), 0
    for pick in samples.picks:
        joined = pa.concat_tables([joined, _relabel(pick.read(store), pick.drawn, schema, samples)])
        while joined.num_rows >= ROWS_PER_SHARD:
            yield shard_name(SPLIT, index, count), joined.slice(0, ROWS_PER_SHARD)
            joined, index = joined.slice(ROWS_PER_SHARD), index + 1
    if joined.num_rows:
        yield shard_name(SPLIT, index, count), joined


def _relabel(
    table: pa.Table, drawn: Manifest, schema: pa.Schema, samples: QuotaSamples
) -> pa.Table:
    """Return the table with labels and class names of the result."""
    names = drawn.summary["class_names"]
    places = np.array([samples.class_names.index(name) for name in names], np.int64)
    labels = pa.chunked_array([pa.array(places[table["label"].to_numpy()])])
    columns = [labels if name == "label" else table[name] for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with shard_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_PER_SHARD)
    return sink.getvalue().to_pybytes()


@dataclass(slots=True)
class Tally:
    """How far the quotas are filled: accepted and drawn by class, reasons, rounds, picks.

    hashes   of the picked drawings of earlier rounds, in order
    """

    accepted: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    picks: list[AcceptedRows] = field(default_factory=list)
    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def reject(self, class_name: str, reason: str, count: int) -> None:
        """Count drawings that are not taken."""
        if count:
            self.reasons.setdefault(class_name, Counter())[reason] += count


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The drawings of a round's shard; labels are positions in `class_names`."""

    class_names: list[str]
    images: Images
    labels: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]


def read_drawn(drawn: Manifest, path: str, store: Store) -> Shard:
    """Read a shard of a round."""
    table = open_shard(store.read(drawn, path)).read(["image", "label"])
    images = read_images(table["image"])
    return Shard(
        class_names=list(drawn.summary["class_names"]),
        images=images,
        labels=table["label"].to_numpy(),
        hashes=drawing_hashes(images),
    )


def reject_known(
    filters: Filters,
    tally: Tally,
    shard: Shard,
    mask: npt.NDArray[np.bool_],
    *,
    earlier: Sequence[AcceptedRows],
    store: Store,
) -> None:
    """Take what is equal or near to a drawing of an earlier round out of the mask.

    Within a round the audit has done so.
    """
    if filters.drop_duplicates:
        found = mask & in_sorted(shard.hashes, tally.hashes)
        _reject(tally, shard, found, "duplicate")
        mask &= ~found
    if (below := filters.min_twin_distance) is not None:
        found = mask & _near_picked(shard, mask, earlier, store, below=below)
        _reject(tally, shard, found, "near_duplicate")
        mask &= ~found


def _reject(tally: Tally, shard: Shard, found: npt.NDArray[np.bool_], reason: str) -> None:
    for label, class_name in enumerate(shard.class_names):
        tally.reject(class_name, reason, int((shard.labels[found] == label).sum()))


def _near_picked(
    shard: Shard,
    mask: npt.NDArray[np.bool_],
    earlier: Sequence[AcceptedRows],
    store: Store,
    *,
    below: float,
) -> npt.NDArray[np.bool_]:
    near = np.zeros(len(mask), bool)
    for pick in earlier:
        table = pick.read(store, ["image", "class_name"])
        images, names = read_images(table["image"]), np.array(table["class_name"].to_pylist())
        for label, class_name in enumerate(shard.class_names):
            rows = np.flatnonzero(mask & (shard.labels == label))
            near[rows] |= nearest(shard.images[rows], images[names == class_name])[0] < below
    return near


def wanted_rows(
    counts: Mapping[str, int], tally: Tally, shard: Shard, mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Return the first rows of the mask that each class still lacks, and count them."""
    taken = []
    for label, class_name in enumerate(shard.class_names):
        rows = np.flatnonzero(mask & (shard.labels == label))
        room = counts[class_name] - tally.accepted[class_name]
        taken.append(rows[:room])
        tally.accepted[class_name] += len(taken[-1])
        tally.reject(class_name, "more_than_wanted", len(rows) - len(taken[-1]))
    return np.sort(np.concatenate(taken)).astype(np.int32)
