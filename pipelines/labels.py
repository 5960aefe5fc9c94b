"""What the numbers in a shard's column `label` mean.

They are positions in the manifest's class_names, but in the linked layout: its shards serve
every list of classes, so there they are TFDS ids, and the manifest's `label_ids[i]` is that of
class_names[i]. Whoever reads drawings puts the labels through `class_positions` first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_NO_CLASS = -1


def class_positions(
    labels: npt.NDArray[np.int64], label_ids: Sequence[int] | None
) -> npt.NDArray[np.int64]:
    """Return labels as positions in class_names; -1 for one that is no class of the dataset's.

    label_ids  the manifest's; None or empty if the labels are positions already

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
