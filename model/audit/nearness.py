"""Find drawings near training drawings or near each other, class by class, over whole sets.

The pictures do not fit into memory, so classes are taken in groups that do, and every group is
one pass over the files. The work grows with the square of a class's drawings: a filter that asks
is worth its time for thousands of drawings a class, not for a million.

The distance is Euclidean, of pixels:

    |a - b|^2 = |a|^2 + |b|^2 - 2 a.b

which makes the work one matrix product, 25 times as fast as differences. Pixels are whole numbers
up to 255, and float32 is off by a few units of 255^2 * 784 at most; equal drawings are found by
their hash, not by a distance of 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.audit.measures import Images, read_batches
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

Distances = npt.NDArray[np.float64]

# 512 x 8,192 float32 products are 17 MB, the reference's pixels 26 MB.
_CHUNK_ROWS = 512
_REFERENCE_ROWS = 8_192


Mask = npt.NDArray[np.bool_]
# Pictures of a group of classes; a class of more is a group of its own.
GROUP_BYTES = 128 << 20


def nearest(
    drawings: Images, reference: Images, *, exclude_self: bool = False
) -> tuple[Distances, npt.NDArray[np.int64]]:
    """Return each drawing's distance to the nearest reference, and which one that is.

    Distances are Euclidean over pixels scaled to [0, 1], so a pixel from paper to ink counts 1;
    infinite with index -1 where there is no reference. exclude_self: both are the same set and a
    drawing is no neighbor of itself.
    """
    count = len(drawings)
    squared, index = torch.full((count,), torch.inf), torch.full((count,), -1)
    for first in range(0, len(reference), _REFERENCE_ROWS):
        others = _rows(reference[first : first + _REFERENCE_ROWS])
        squares = (others * others).sum(1)
        for start in range(0, count, _CHUNK_ROWS):
            chunk = slice(start, min(start + _CHUNK_ROWS, count))
            table = squared_distances(_rows(drawings[chunk]), others, squares)
            if exclude_self:
                same = np.arange(max(start, first), min(chunk.stop, first + len(others)))
                table[same - start, same - first] = torch.inf
            found = table.min(1)
            nearer = found.values < squared[chunk]
            squared[chunk] = torch.where(nearer, found.values, squared[chunk])
            index[chunk] = torch.where(nearer, found.indices + first, index[chunk])
    return squared.double().sqrt().numpy() / 255.0, index.numpy()


def later_of_pairs(drawings: Images, *, below: float) -> npt.NDArray[np.bool_]:
    """Return which drawings are nearer than `below` to an earlier one that is not itself such.

    The first drawing of each cluster is therefore kept.
    """
    count = len(drawings)
    later = np.zeros(count, bool)
    for start in range(0, count, _CHUNK_ROWS):
        chunk = slice(start, min(start + _CHUNK_ROWS, count))
        earlier = drawings[:start][~later[:start]]
        near = nearest(drawings[chunk], earlier)[0] < below
        rows = _rows(drawings[chunk])
        table = squared_distances(rows, rows, (rows * rows).sum(1)).double().sqrt().numpy() / 255.0
        for place in range(len(near)):
            near[place] |= bool((table[place, :place][~near[:place]] < below).any())
        later[chunk] = near
    return later


def squared_distances(rows: torch.Tensor, others: torch.Tensor, squares: torch.Tensor):
    """Return |a - b|^2 of all pairs (n, m); squares: |b|^2 (m,)."""
    table = squares - 2 * (rows @ others.T) + (rows * rows).sum(1)[:, None]
    return table.clamp(min=0)


def _rows(images: Images) -> torch.Tensor:
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    return torch.from_numpy(flat.astype(np.float32))


@dataclass(slots=True)
class ClassPictures:
    """Pictures of a class (k, h, w) and their positions in the split (k,)."""

    images: Images
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNearness:
    """Nearness of samples to each other and to the dataset that they are compared with.

    labels   of the samples, as positions in the dataset's class_names (n,)
    """

    samples: Manifest
    dataset: Manifest
    store: Store
    labels: npt.NDArray[np.int16]

    def near_copies(self, rows: Mask, *, below: float) -> Mask:
        """Return which of `rows` are nearer than `below` to a training drawing of their class."""
        near = np.zeros(len(rows), bool)
        for group in self.groups(rows):
            for images, labels, _ in read_batches(self.dataset, self.store, split="train"):
                for label, mine in group.items():
                    found = nearest(mine.images, images[labels == label])[0] < below
                    near[mine.rows[found]] = True
        return near

    def near_duplicates(self, rows: Mask, *, below: float) -> Mask:
        """Return which of `rows` are nearer than `below` to an earlier one that stays."""
        near = np.zeros(len(rows), bool)
        for group in self.groups(rows):
            for mine in group.values():
                near[mine.rows[later_of_pairs(mine.images, below=below)]] = True
        return near

    def groups(self, rows: Mask) -> Iterator[dict[int, ClassPictures]]:
        """Yield the pictures of `rows` by label, as many classes at a time as fit."""
        height, width = self.samples.summary["image_shape"][:2]
        counts = np.bincount(self.labels[rows])
        for labels in _fitting(counts, GROUP_BYTES // (height * width)):
            group = {
                label: ClassPictures(
                    np.empty((counts[label], height, width), np.uint8),
                    np.flatnonzero(rows & (self.labels == label)),
                )
                for label in labels
            }
            self._fill(group)
            yield group

    def _fill(self, group: dict[int, ClassPictures]) -> None:
        start = 0
        for images, labels, _ in read_batches(self.samples, self.store, split="train"):
            for mine in group.values():
                first, last = np.searchsorted(mine.rows, (start, start + len(labels)))
                mine.images[first:last] = images[mine.rows[first:last] - start]
            start += len(labels)


def _fitting(counts: npt.NDArray[np.int64], limit: int) -> Iterator[list[int]]:
    """Yield the labels that have drawings in groups of at most `limit` drawings, or of one."""
    group: list[int] = []
    for label in np.flatnonzero(counts).tolist():
        if group and counts[[*group, label]].sum() > limit:
            yield group
            group = []
        group.append(label)
    if group:
        yield group
