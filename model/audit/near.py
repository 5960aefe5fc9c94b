"""Which drawings of a whole set are near training drawings or near each other, class by class.

The pictures do not fit into memory, so classes are taken in groups that do, and every group is
one pass over the files. The work grows with the square of a class's drawings: a filter that asks
is worth its time for thousands of drawings a class, not for a million.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.audit.measures import Images, read_batches
from model.audit.neighbors import later_of_pairs, nearest
from pipelines.schema import Manifest
from pipelines.store import Store

Mask = npt.NDArray[np.bool_]
# Pictures of a group of classes; a class of more is a group of its own.
GROUP_BYTES = 128 << 20


@dataclass(slots=True)
class ClassPictures:
    """Pictures of a class (k, h, w) and their positions in the split (k,)."""

    images: Images
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNearness:
    """Answers for samples and the dataset they are held against.

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
