"""How far quotas are filled, and which drawings of a round are taken for them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.audit.filters import Filters
from model.audit.hashes import drawing_hashes, in_sorted
from model.audit.measures import Images
from model.audit.neighbors import nearest
from model.audit.quota_shards import Pick
from pipelines.schema import Manifest
from pipelines.shards import open_shard, read_images
from pipelines.store import Store


@dataclass(slots=True)
class Tally:
    """How far the quotas are filled: accepted and drawn by class, reasons, rounds, picks.

    hashes   of the picked drawings of earlier rounds, in order
    """

    accepted: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)
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
    earlier: Sequence[Pick],
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
    earlier: Sequence[Pick],
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
