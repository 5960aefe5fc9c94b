"""What the numbers in a shard's column `label` mean.

They are positions in the manifest's class_names, but in the linked layout: its shards serve
every list of classes, so there they are TFDS ids, and `label_ids` says which is that of
class_names[i]. Whoever reads drawings puts the labels through `class_positions` first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.store.manifest import Manifest

_NO_CLASS = -1


def label_ids(manifest: Manifest) -> tuple[int, ...]:
    """Return what stands in a dataset's shards for each of its class_names, () for positions.

    The datasets of one class that a linked one is made of do not say it: theirs is the TFDS id.
    """
    summary = manifest.summary
    is_linked = manifest.spec.get("layout") == "linked"
    return tuple(summary.get("label_ids") or (summary["tfds_ids"] if is_linked else ()))


def class_positions(
    labels: npt.NDArray[np.int64], label_ids: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Return labels as positions in class_names; -1 for one that is no class of the dataset's.

    label_ids  of `label_ids`; empty if the labels are positions already

    >>> class_positions(np.array([26, 7, 3]), [7, 26]).tolist()
    [1, 0, -1]
    """
    if not label_ids:
        return labels
    # One place more than there are ids: whatever is beyond them ends there.
    lookup = np.full(max(label_ids) + 2, _NO_CLASS, np.int64)
    lookup[list(label_ids)] = np.arange(len(label_ids))
    known = (labels >= 0) & (labels < len(lookup))
    return lookup[np.where(known, labels, len(lookup) - 1)]
