"""How often real drawings repeat: counted before a dataset's duplicates are dropped.

A dataset has no duplicates left and puts equal drawings into one split, so that a copy rate of
its held-out drawings is 0 by construction. Its manifest tells how many drawings of a class
equalled an earlier one, the number to hold copies and duplicates against.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.audit.hashes import repeats
from model.audit.measures import Measured
from pipelines.store.manifest import Manifest


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
