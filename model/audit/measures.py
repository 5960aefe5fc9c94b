"""Measure every drawing of a split: ink, hash and columns, with a few pictures to compare.

One pass, a row group at a time. The columns of every drawing and the pictures are kept in
memory-mapped temporary files in TMPDIR, so memory does not grow with the set: 20 bytes a drawing
are 1 GB for 50 million drawings.

    ink             pixels above 0
    darkness        mean value of the inked pixels, 0 to 1: how thick and sharp the strokes are
    stroke_density  strokes that a row or a column of pixels crosses: runs of pixels of at least
                    half ink, mean over the rows and columns that have any; a ring has nearly 2
    hash            64 bits of BLAKE2b over the pixels

Equal drawings have equal hashes; among 50 million different ones a single false match has a
chance of 1 in 15,000. Sets are compared one range of hashes at a time, so that sorting takes
100 MB for sets of any size.
"""

import hashlib
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import count_ink
from pipelines.drawings.reading import Columns, Images, Labels, read_shard, split_shards
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

Scalar = TypeVar("Scalar", bound=np.generic)

BITS_PER_DIM = "bits_per_dim"
# Pictures that are kept of a split at most, over all classes: 160 MB of 28 x 28.
MAX_KEPT = 200_000
# Gray from which a pixel belongs to a stroke: less is the soft edge between two.
_STROKE_GRAY = 128
# By the column's name: its type in the temporary file.
_TYPES = {
    "labels": np.int16,
    "ink": np.uint16,
    "darkness": np.float32,
    "stroke_density": np.float32,
    "hashes": np.uint64,
    BITS_PER_DIM: np.float32,
}

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


class Spill(Generic[Scalar]):
    """Arrays of one kind that come one after the other and are one array in the end."""

    def __init__(self, kind: type[Scalar]) -> None:
        """Open the file; it is gone with this object and the arrays it gave."""
        self._dtype, self._rows = np.dtype(kind), 0
        self._shape: tuple[int, ...] = ()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed in array)
        weakref.finalize(self, self._file.close)  # also where an error comes before that

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Append values (n, ...); all but n are the same in every call."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._shape, self._rows = values.shape[1:], self._rows + len(values)

    def array(self) -> npt.NDArray[Scalar]:
        """Return the whole array, read-only; no further values can be appended."""
        shape = (self._rows, *self._shape)
        with self._file:
            self._file.flush()
            if not self._rows:  # nothing can be mapped
                return np.zeros(shape, self._dtype)
            return np.memmap(self._file, self._dtype, "r", shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The drawings of a split, in order.

    labels, ink, darkness, stroke_density, hashes, bits_per_dim
        one a drawing; bits_per_dim is None for real ones
    images, rows
        the first drawings of each class (k, h, w), and their positions (k,)
    """

    labels: npt.NDArray[np.int16]
    ink: npt.NDArray[np.uint16]
    darkness: npt.NDArray[np.float32]
    stroke_density: npt.NDArray[np.float32]
    hashes: npt.NDArray[np.uint64]
    bits_per_dim: npt.NDArray[np.float32] | None
    images: Images
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def kept_of(
        self, label: int, among: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Images, npt.NDArray[np.int64]]:
        """Return the kept pictures of a class and their positions in the split.

        among: of these drawings of the split only.
        """
        mine = self.labels[self.rows] == label
        if among is not None:
            mine &= among[self.rows]
        return self.images[mine], self.rows[mine]


def measure(manifest: Manifest, store: Store, *, split: str, keep_per_class: int) -> Measured:
    """Measure a split and keep the first `keep_per_class` pictures of each class.

    Fewer are kept if they would be more than MAX_KEPT over all classes. Shards are shuffled when
    they are made, so the first are as good as any. Raises ValueError if the split has no
    drawings.
    """
    seen = np.zeros(len(manifest.summary["class_names"]), np.int64)
    limit = min(keep_per_class, max(1, MAX_KEPT // len(seen)))
    spills = {name: Spill(kind) for name, kind in _TYPES.items()}
    images, rows, row = Spill(np.uint8), [], 0
    for found, labels, columns in read_batches(manifest, store, split=split):
        for name, values in (_measure_batch(found, labels) | columns).items():
            spills[name].add(values)
        picked = _first_of_class(labels, seen, limit)
        images.add(found[picked])
        rows.append(picked + row)
        row += len(labels)
    joined: dict = {name: spill.array() for name, spill in spills.items()}
    pictures = images.array()
    if not row:
        raise ValueError(f"{manifest.kind}/{manifest.name} has no drawings in split {split!r}")
    if not len(joined[BITS_PER_DIM]):
        joined[BITS_PER_DIM] = None
    return Measured(**joined, images=pictures, rows=np.concatenate(rows))


def read_batches(
    manifest: Manifest, store: Store, *, split: str
) -> Iterator[tuple[Images, Labels, Columns]]:
    """Yield pixels, labels and bits_per_dim (if there) of a split, a row group at a time."""
    for entry in split_shards(manifest, split):
        yield from read_shard(manifest, entry, store, columns=[BITS_PER_DIM])


def stroke_density(images: Images) -> npt.NDArray[np.float64]:
    """Return how many strokes a row or column of pixels crosses, mean over those with any (n,).

    >>> stroke_density(np.array([[[255, 0, 255], [0, 0, 0], [0, 0, 0]]], np.uint8)).tolist()
    [1.3333333333333333]
    """
    inked = images >= _STROKE_GRAY
    runs = np.zeros(len(images), np.int64)
    lines = np.zeros(len(images), np.int64)
    for axis in (1, 2):
        first = inked.take(0, axis).sum(1)
        begins = np.diff(inked.view(np.int8), axis=axis) > 0
        runs += first + np.count_nonzero(begins, axis=(1, 2))
        lines += inked.any(axis).sum(1)
    return runs / np.maximum(lines, 1)


@dataclass(frozen=True, slots=True)
class Repeats:
    """Of each class: drawings that repeat an earlier one, and all of them (classes,)."""

    repeated: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]

    def rates(self, labels: Sequence[int]) -> dict[str, float]:
        """Return the real rates of some classes together; empty if nothing was counted."""
        total = int(self.total[list(labels)].sum())
        if not total:
            return {}
        found = int(self.repeated[list(labels)].sum()) / total
        return {"real_exact_duplicate_rate": found, "real_exact_copy_rate": found}


def count_repeats(dataset: Manifest, held_out: Measured) -> Repeats:
    """Return what the manifest counted; of a dataset that kept its duplicates, what it holds."""
    names = dataset.summary["class_names"]
    dropped, kept = dataset.summary.get("dropped", {}), dataset.summary.get("counts")
    if not dropped.get("duplicate") or kept is None:
        later = held_out.labels[repeats(held_out.hashes)]
        return Repeats(
            np.bincount(later, minlength=len(names)),
            np.bincount(held_out.labels, minlength=len(names)),
        )
    # Near duplicates were looked for after equal ones, so they were read too.
    counted = [*kept.values(), dropped["duplicate"], dropped.get("near_duplicate", {})]
    return Repeats(
        np.array([dropped["duplicate"].get(name, 0) for name in names]),
        np.array([sum(part.get(name, 0) for part in counted) for name in names]),
    )


def _measure_batch(images: Images, labels: npt.NDArray[np.int64]) -> Columns:
    ink = count_ink(images)
    total = images.sum(axis=(1, 2), dtype=np.int64)
    return {
        "labels": labels,
        "ink": ink,
        "darkness": total / np.maximum(ink, 1) / 255.0,
        "stroke_density": stroke_density(images),
        "hashes": drawing_hashes(images),
    }


def _first_of_class(
    labels: npt.NDArray[np.int64], seen: npt.NDArray[np.int64], limit: int
) -> npt.NDArray[np.int64]:
    """Return the rows that are among the first `limit` of their class; count them in `seen`."""
    picked: list[npt.NDArray[np.int64]] = []
    for label in range(len(seen)):
        room = max(0, limit - int(seen[label]))
        rows = np.flatnonzero(labels == label)[:room] if room else np.zeros(0, np.int64)
        seen[label] += len(rows)
        picked.append(rows)
    return np.sort(np.concatenate(picked))


def rate(mask: Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    """Return the part of a mask that is true; 0 for none at all."""
    return float(np.mean(mask)) if len(mask) else 0.0


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
