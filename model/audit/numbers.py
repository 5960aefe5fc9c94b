"""The audit's numbers: generated beside real held-out drawings, as JSON values.

    exact_duplicate_rate   equal to an earlier drawing of the set
    exact_copy_rate        equal to a drawing of the training split
    near_copy_rate         nearer to a training drawing of its class than 99 of 100 held-out real
                           drawings of that class are
    near_duplicate_rate    the same, of distances within the set
    copy_distance          median distance to the nearest training drawing; _low: of the nearest
                           1 %; _ratio: over that of held-out drawings
    ink, darkness, stroke_density   see model.audit.measures
    judge_agreement        the judge sees the class that was asked for
    judge_confidence       mean probability it gives that class

`real_` before a name is the same number of real drawings: Quick, Draw! has drawings so simple
that real ones repeat too, so a rate means little alone. Two of them cannot be had from the
dataset. Its duplicates were dropped and equal drawings share a split, so no held-out drawing
equals another one or a training drawing, by construction: the real exact rates are those of
the source, drawings that repeat an earlier one of their class. And what is near is set by
held-out drawings: by every other one, and the real near rates are measured on the rest; they
come out at about 1 % if held-out drawings are alike at all.

Near means are taken over a sample of every class; exact ones over all.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.audit.filters import Judged
from model.audit.measures import Measured, Repeats, Spill, members, rate, read_batches, repeats
from model.audit.nearness import nearest
from model.evaluation.classifier import Classifier, features, open_classifier, probabilities
from model.evaluation.compare import NUM_NEIGHBORS, frechet_distance, manifolds
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

# Held-out drawings below this part of their distances count as near.
NEAR_QUANTILE = 0.01
_INK_QUANTILES = {"ink_low": 0.05, "ink_median": 0.5, "ink_high": 0.95}
_NUM_CLOSEST = 6
_CLOSEST_OF_CLASS = 2
_CHUNK_ROWS = 1 << 20

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

# Features are 128 numbers a drawing, and manifolds compare all pairs.
_MAX_FEATURES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The three sets that are compared, and what the judge says of two of them.

    asked      labels of the classes that the samples are of
    repeats    how often real drawings repeat an earlier one
    accepted   mask of the samples that are meant; None: all
    """

    class_names: list[str]
    asked: list[int]
    samples: Measured
    training: Measured
    held_out: Measured
    repeats: Repeats
    judged: Judged | None = None
    judged_held_out: Judged | None = None
    accepted: Mask | None = None

    def mask(self) -> Mask:
        """Return the mask of the samples that are compared (n,)."""
        return np.ones(len(self.samples), bool) if self.accepted is None else self.accepted

    def is_asked(self, drawings: Measured) -> Mask:
        """Return which drawings are of the classes that the samples are of (n,)."""
        return np.isin(drawings.labels, self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Of one class: distances of samples and of held-out drawings to training, and within."""

    copy: Floats
    copy_index: Rows
    real_copy: Floats
    twin: Floats
    real_twin: Floats


def audit_numbers(sides: Sides) -> dict[str, Any]:
    """Return every number of the audit, those of single classes under "classes"."""
    meant = sides.mask()
    held_out = np.flatnonzero(sides.is_asked(sides.held_out))
    masks = _masks(sides)
    classes, near, closest = {}, [], []
    for label in sides.asked:
        numbers = _class_numbers(sides, label, masks)
        if numbers["num_drawings"]:
            distances = class_distances(sides, label)
            near.append(distances)
            numbers |= near_numbers([distances])
            closest += _closest(sides, label, distances)
        classes[sides.class_names[label]] = numbers
    numbers: dict[str, Any] = {
        "num_drawings": int(meant.sum()),
        "num_held_out": len(held_out),
        "num_compared": sum(len(distances.copy) for distances in near),
    }
    numbers |= sides.repeats.rates(sides.asked)
    if near:
        numbers |= {name: rate(mask[meant]) for name, mask in masks.items()}
        numbers |= near_numbers(near) | _bits(sides.samples, meant)
    if near and sides.judged is not None:
        numbers |= _judge_numbers(sides, np.flatnonzero(meant), held_out)
        numbers["confusion"] = confusion(sides)
    closest.sort(key=lambda pair: (pair["relative_distance"], pair["sample_row"]))
    return numbers | {"classes": classes, "closest": closest[:_NUM_CLOSEST]}


def class_distances(sides: Sides, label: int) -> Distances:
    """Return the distances of a class's kept pictures."""
    samples, _ = sides.samples.kept_of(label, sides.accepted)
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


def near_numbers(near: list[Distances]) -> dict[str, float]:
    """Return the rates and distances of some classes together.

    A class that has too few real drawings to say what is near has no part in a rate; a rate of
    which no class has a part is left out.
    """
    copies = [_near(each.copy, each.real_copy) for each in near]
    twins = [_near(each.twin, each.real_twin) for each in near]
    made = np.concatenate([each.copy for each in near])
    real = np.concatenate([each.real_copy for each in near])
    numbers = {}
    for name, found in (("near_copy_rate", copies), ("near_duplicate_rate", twins)):
        compared = [flags for flags in found if flags is not None]
        for prefix, sides in zip(("", "real_"), zip(*compared, strict=True), strict=False):
            flags = np.concatenate(sides)
            numbers |= {f"{prefix}{name}": rate(flags)} if len(flags) else {}
    return numbers | _ratio(made, real)


def confusion(sides: Sides) -> list[list[int]]:
    """Return how often the judge sees class j (column) in a drawing of class i (row)."""
    assert sides.judged is not None
    num_classes, meant = len(sides.class_names), sides.mask()
    found = np.zeros(num_classes**2, np.int64)
    for start in range(0, len(meant), _CHUNK_ROWS):
        rows = np.flatnonzero(meant[start : start + _CHUNK_ROWS]) + start
        asked = sides.samples.labels[rows].astype(np.int64)
        found += np.bincount(
            asked * num_classes + sides.judged.predicted[rows], minlength=num_classes**2
        )
    return found.reshape(num_classes, num_classes).tolist()


def judge_split(
    judge: Classifier,
    manifest: Manifest,
    store: Store,
    *,
    split: str,
    relabel: npt.NDArray[np.int16] | None = None,
) -> Judged:
    """Ask the judge about every drawing of a split.

    relabel: the judge's label of each label of the split; None: they are the same.
    """
    predicted, confidence = Spill(np.int16), Spill(np.float32)
    for images, labels, _ in read_batches(manifest, store, split=split):
        asked = labels if relabel is None else relabel[labels]
        probability = probabilities(judge, images)
        predicted.add(probability.argmax(1))
        confidence.add(probability[np.arange(len(asked)), asked])
    return Judged(predicted.array(), confidence.array())


def feature_numbers(manifest: Manifest, sides: Sides, store: Store) -> dict[str, float]:
    """Return Frechet distance, precision, recall, density and coverage in the judge's features.

    Of equally many samples, held-out and training drawings of the samples' classes;
    real_frechet_distance is between the latter two, the least that can be hoped for. Empty if
    there are too few.
    """
    accepted = sides.mask()[sides.samples.rows]
    real = [
        drawings.images[sides.is_asked(drawings)[drawings.rows]]
        for drawings in (sides.held_out, sides.training)
    ]
    parts = (sides.samples.images[accepted], *real)
    count = min(_MAX_FEATURES, *[len(images) for images in parts])
    if count <= NUM_NEIGHBORS:
        return {}
    judge = open_classifier(store, manifest)
    made, held_out, training = (features(judge, images[:count]) for images in parts)
    return {
        "frechet_distance": frechet_distance(held_out, made),
        "real_frechet_distance": frechet_distance(held_out, training),
        **dataclasses.asdict(manifolds(held_out, made)),
    }


def _masks(sides: Sides) -> dict[str, Mask]:
    samples = sides.samples
    return {
        "exact_duplicate_rate": repeats(samples.hashes, sides.accepted),
        "exact_copy_rate": members(samples.hashes, sides.training.hashes, sides.accepted),
        "blank_rate": samples.ink == 0,
    }


def _class_numbers(sides: Sides, label: int, masks: Mapping[str, Mask]) -> dict[str, Any]:
    made = np.flatnonzero((sides.samples.labels == label) & sides.mask())
    real = np.flatnonzero(sides.held_out.labels == label)
    numbers: dict[str, Any] = {"num_drawings": len(made), "num_held_out": len(real)}
    numbers |= sides.repeats.rates([label])
    numbers |= _looks("real_", sides.held_out, real) if len(real) else {}
    if not len(made):
        return numbers
    numbers |= {name: rate(mask[made]) for name, mask in masks.items()}
    numbers |= _looks("", sides.samples, made)
    if sides.samples.bits_per_dim is not None:
        numbers["bits_per_dim"] = float(sides.samples.bits_per_dim[made].mean())
    if sides.judged is not None:
        numbers |= _judge_numbers(sides, made, real)
    return numbers


def _looks(prefix: str, drawings: Measured, rows: Rows) -> dict[str, float]:
    ink = drawings.ink[rows]
    numbers = {f"{prefix}{name}": float(np.quantile(ink, q)) for name, q in _INK_QUANTILES.items()}
    numbers[f"{prefix}ink_mean"] = float(ink.mean())
    numbers[f"{prefix}darkness"] = float(drawings.darkness[rows].mean())
    numbers[f"{prefix}stroke_density"] = float(drawings.stroke_density[rows].mean())
    return numbers


def _near(made: Floats, real: Floats) -> tuple[Mask, Mask] | None:
    """Return which samples are near, and which of the real drawings that did not set the limit.

    None if no real drawing says what is near.
    """
    limits = real[::2][np.isfinite(real[::2])]
    if not len(limits):
        return None
    limit = float(np.quantile(limits, NEAR_QUANTILE))
    return made < limit, real[1::2] < limit


def _ratio(made: Floats, real: Floats) -> dict[str, float]:
    made, real = made[np.isfinite(made)], real[np.isfinite(real)]
    if not len(made) or not len(real) or not np.median(real):
        return {}
    return {
        "copy_distance": float(np.median(made)),
        "real_copy_distance": float(np.median(real)),
        "copy_distance_low": float(np.quantile(made, NEAR_QUANTILE)),
        "real_copy_distance_low": float(np.quantile(real, NEAR_QUANTILE)),
        "copy_distance_ratio": float(np.median(made) / np.median(real)),
    }


def _closest(sides: Sides, label: int, distances: Distances) -> list[dict[str, Any]]:
    """Return the class's samples nearest to a training drawing, with both positions.

    relative_distance is over the median of held-out drawings: classes differ in how near their
    drawings are to each other.
    """
    _, rows = sides.samples.kept_of(label, sides.accepted)
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


def _judge_numbers(sides: Sides, made: Rows, real: Rows) -> dict[str, float]:
    assert sides.judged is not None
    agrees = sides.judged.predicted[made] == sides.samples.labels[made]
    confidence = sides.judged.confidence[made]
    numbers = {"judge_agreement": rate(agrees), "judge_confidence": float(confidence.mean())}
    if sides.judged_held_out is not None and len(real):
        right = sides.judged_held_out.predicted[real] == sides.held_out.labels[real]
        numbers["real_judge_agreement"] = rate(right)
    return numbers


def _bits(samples: Measured, meant: Mask) -> dict[str, float]:
    if samples.bits_per_dim is None:
        return {}
    bits = samples.bits_per_dim[meant]
    return {
        "bits_per_dim": float(bits.mean(dtype=np.float64)),
        "bits_per_dim_min": float(bits.min()),
        "bits_per_dim_max": float(bits.max()),
    }
