"""How two datasets differ, down to their drawings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.dataset.spec import spec_from_json
from pipelines.dataset.verify import as_bytes, changed, flat, recount_format
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDiff:
    """How dataset B differs from A.

    spec       field -> (A's value, B's value)
    counts     "split/class" -> (A's drawings, B's drawings)
    dropped    "reason/class" -> (A's, B's)
    only_in_a, only_in_b  drawings by split (same pixels, any class)
    is_same_content       whether drawings, classes and splits are the same
    """

    spec: dict[str, tuple[Any, Any]]
    counts: dict[str, tuple[int, int]]
    dropped: dict[str, tuple[int, int]]
    only_in_a: dict[str, int]
    only_in_b: dict[str, int]
    is_same_content: bool


@doing("diff", "reading the drawings of both")
def diff_datasets(a: Manifest, b: Manifest, store: Store) -> DatasetDiff:
    """Compare two datasets; their drawings are read unless the content digests are equal."""
    same = a.summary["content_digest"] == b.summary["content_digest"]
    mine, theirs = ({}, {}) if same else (_drawings(a, store), _drawings(b, store))
    splits = sorted(set(mine) | set(theirs))
    nothing = np.empty(0, "S16")
    pairs = {s: (mine.get(s, nothing), theirs.get(s, nothing)) for s in splits}
    return DatasetDiff(
        spec=changed(dict(a.spec), dict(b.spec)),
        counts=changed(flat(a.summary["counts"]), flat(b.summary["counts"]), 0),
        dropped=changed(flat(a.summary["dropped"]), flat(b.summary["dropped"]), 0),
        only_in_a={s: len(np.setdiff1d(x, y)) for s, (x, y) in pairs.items()},
        only_in_b={s: len(np.setdiff1d(y, x)) for s, (x, y) in pairs.items()},
        is_same_content=same,
    )


def _drawings(manifest: Manifest, store: Store) -> dict[str, npt.NDArray[Any]]:
    """Return the sorted identities of the drawings of each split."""
    spec = spec_from_json(manifest.spec)
    recount = recount_format(manifest, spec, store, spec.formats[0])
    return {s: np.unique(as_bytes(np.concatenate(h))) for s, h in recount.hashes.items()}
