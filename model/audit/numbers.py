"""The numbers of an audit: generated drawings beside the real held-out ones, as JSON values.

    exact_duplicate_rate   equal to an earlier drawing of the set
    exact_copy_rate        equal to a drawing of the training split
    near_copy_rate         nearer to a training drawing of its class than 99 of 100 held-out real
                           drawings of that class are
    near_duplicate_rate    the same, of distances within the set
    copy_distance_ratio    median distance to the nearest training drawing, over that of held-out
    judge_agreement        the judge sees the class that was asked for
    judge_confidence       mean probability it gives that class

`real_` before a name is the same number of the held-out drawings: Quick, Draw! has drawings so
simple that real ones repeat too, so a rate means little alone. Near means are taken over a
sample of every class; exact ones over all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.audit.filters import Judged
from model.audit.measures import Measured, members, rate, repeats
from model.audit.neighbors import nearest

# Held-out drawings below this part of their distances count as near: their own rate is 1 %.
NEAR_QUANTILE = 0.01
_INK_QUANTILES = {"ink_low": 0.05, "ink_median": 0.5, "ink_high": 0.95}
_NUM_CLOSEST = 6
_CLOSEST_OF_CLASS = 2

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The three sets that are compared, and what the judge says of two of them."""

    class_names: list[str]
    samples: Measured
    training: Measured
    held_out: Measured
    judged: Judged | None = None
    judged_held_out: Judged | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Of one class: distances of samples and of held-out drawings to training, and within."""

    copy: Floats
    copy_index: npt.NDArray[np.int64]
    real_copy: Floats
    twin: Floats
    real_twin: Floats


def audit_numbers(sides: Sides) -> dict[str, Any]:
    """Return every number of the audit, those of single classes under "classes"."""
    masks = _masks(sides)
    classes, near, closest = {}, [], []
    for label, name in enumerate(sides.class_names):
        if not (sides.samples.labels == label).any():
            continue
        distances = class_distances(sides, label)
        flags = _near_flags(distances)
        near.append((distances, flags))
        classes[name] = _class_numbers(sides, label, masks) | _near_numbers(distances, flags)
        closest += _closest(sides, label, distances)
    numbers: dict[str, Any] = {
        "num_drawings": len(sides.samples),
        "num_held_out": len(sides.held_out),
    }
    numbers |= {name: rate(mask) for name, mask in masks.items()}
    numbers |= _near_totals(near) | _bits(sides.samples)
    if sides.judged is not None:
        numbers |= _judge_numbers(sides, slice(None), slice(None))
        numbers["confusion"] = confusion(sides.samples, sides.judged, len(sides.class_names))
    closest.sort(key=lambda pair: (pair["relative_distance"], pair["sample_row"]))
    return numbers | {"classes": classes, "closest": closest[:_NUM_CLOSEST]}


def class_distances(sides: Sides, label: int) -> Distances:
    """Return the distances of a class's kept pictures."""
    samples, _ = sides.samples.kept_of(label)
    training, _ = sides.training.kept_of(label)
    held_out, _ = sides.held_out.kept_of(label)
    copy, copy_index = nearest(samples, training)
    return Distances(
        copy=copy,
        copy_index=copy_index,
        real_copy=nearest(held_out, training)[0],
        # Against as many of each: a larger set has nearer neighbors.
        twin=nearest(*[samples[: len(held_out) or None]] * 2, exclude_self=True)[0],
        real_twin=nearest(*[held_out[: len(samples)]] * 2, exclude_self=True)[0],
    )


def confusion(drawings: Measured, judged: Judged, num_classes: int) -> list[list[int]]:
    """Return how often the judge sees class j (column) in a drawing of class i (row)."""
    pairs = drawings.labels.astype(np.int64) * num_classes + judged.predicted
    found = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return found.tolist()


def _masks(sides: Sides) -> dict[str, npt.NDArray[np.bool_]]:
    return {
        "exact_duplicate_rate": repeats(sides.samples.hashes),
        "real_exact_duplicate_rate": repeats(sides.held_out.hashes),
        "exact_copy_rate": members(sides.samples.hashes, sides.training.hashes),
        "real_exact_copy_rate": members(sides.held_out.hashes, sides.training.hashes),
        "blank_rate": sides.samples.ink == 0,
    }


def _class_numbers(
    sides: Sides, label: int, masks: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, Any]:
    made, real = sides.samples.labels == label, sides.held_out.labels == label
    numbers: dict[str, Any] = {"num_drawings": int(made.sum()), "num_held_out": int(real.sum())}
    for name, mask in masks.items():
        numbers[name] = rate(mask[real if name.startswith("real_") else made])
    numbers |= _ink("", sides.samples, made)
    numbers |= _ink("real_", sides.held_out, real) if real.any() else {}
    if sides.samples.bits_per_dim is not None:
        numbers["bits_per_dim"] = float(sides.samples.bits_per_dim[made].mean())
    if sides.judged is not None:
        numbers |= _judge_numbers(sides, made, real)
    return numbers


def _ink(prefix: str, drawings: Measured, rows: npt.NDArray[np.bool_]) -> dict[str, float]:
    ink = drawings.ink[rows]
    numbers = {f"{prefix}{name}": float(np.quantile(ink, q)) for name, q in _INK_QUANTILES.items()}
    numbers[f"{prefix}ink_mean"] = float(ink.mean())
    numbers[f"{prefix}darkness"] = float(drawings.darkness[rows].mean())
    return numbers


def _near_flags(distances: Distances) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which samples are near copies, and which are near duplicates."""
    copy_limit = _limit(distances.real_copy)
    twin_limit = _limit(distances.real_twin)
    return distances.copy < copy_limit, distances.twin < twin_limit


def _limit(real: Floats) -> float:
    finite = real[np.isfinite(real)]
    return float(np.quantile(finite, NEAR_QUANTILE)) if len(finite) else 0.0


def _near_numbers(
    distances: Distances, flags: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
) -> dict[str, float]:
    numbers = {"near_copy_rate": rate(flags[0]), "near_duplicate_rate": rate(flags[1])}
    return numbers | _ratio(distances.copy, distances.real_copy)


def _near_totals(near: list) -> dict[str, float]:
    """Return the rates over all classes; held-out ones are near by definition in 1 of 100."""
    copies = np.concatenate([flags[0] for _, flags in near])
    twins = np.concatenate([flags[1] for _, flags in near])
    made = np.concatenate([distances.copy for distances, _ in near])
    real = np.concatenate([distances.real_copy for distances, _ in near])
    numbers = {
        "near_copy_rate": rate(copies),
        "near_duplicate_rate": rate(twins),
        "real_near_copy_rate": NEAR_QUANTILE,
        "num_compared": len(made),
    }
    return numbers | _ratio(made, real)


def _ratio(made: Floats, real: Floats) -> dict[str, float]:
    made, real = made[np.isfinite(made)], real[np.isfinite(real)]
    if not len(made) or not len(real) or not np.median(real):
        return {}
    return {
        "copy_distance": float(np.median(made)),
        "real_copy_distance": float(np.median(real)),
        "copy_distance_ratio": float(np.median(made) / np.median(real)),
    }


def _closest(sides: Sides, label: int, distances: Distances) -> list[dict[str, Any]]:
    """Return the class's samples nearest to a training drawing, with both positions.

    relative_distance is over the median of held-out drawings: classes differ in how near their
    drawings are to each other.
    """
    _, rows = sides.samples.kept_of(label)
    _, training_rows = sides.training.kept_of(label)
    real = distances.real_copy[np.isfinite(distances.real_copy)]
    scale = (float(np.median(real)) if len(real) else 0.0) or 1.0
    order = np.argsort(distances.copy, kind="stable")[:_CLOSEST_OF_CLASS]
    return [
        {
            "class_name": sides.class_names[label],
            "distance": float(distances.copy[place]),
            "relative_distance": float(distances.copy[place]) / scale,
            "sample_row": int(rows[place]),
            "training_row": int(training_rows[distances.copy_index[place]]),
        }
        for place in order
        if np.isfinite(distances.copy[place])
    ]


def _judge_numbers(sides: Sides, made, real) -> dict[str, float]:
    assert sides.judged is not None
    agrees = sides.judged.predicted[made] == sides.samples.labels[made]
    confidence = sides.judged.confidence[made]
    numbers = {"judge_agreement": rate(agrees), "judge_confidence": float(confidence.mean())}
    if sides.judged_held_out is not None:
        right = sides.judged_held_out.predicted[real] == sides.held_out.labels[real]
        numbers["real_judge_agreement"] = rate(right)
    return numbers


def _bits(samples: Measured) -> dict[str, float]:
    if samples.bits_per_dim is None:
        return {}
    return {
        "bits_per_dim": float(samples.bits_per_dim.mean()),
        "bits_per_dim_min": float(samples.bits_per_dim.min()),
        "bits_per_dim_max": float(samples.bits_per_dim.max()),
    }
