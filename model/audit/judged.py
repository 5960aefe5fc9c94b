"""What a judge says of samples: its answers for each drawing, distances in its features."""

import dataclasses

import numpy as np
import numpy.typing as npt

from model.audit.filters import Judged
from model.audit.measures import Spill, read_batches
from model.audit.numbers import Sides
from model.evaluation.classifier import Judge, features, open_judge, probabilities
from model.evaluation.quality import NUM_NEIGHBORS, frechet_distance, manifolds
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

# Features are 128 numbers a drawing, and manifolds compare all pairs.
_MAX_FEATURES = 20_000


def judge_split(
    judge: Judge,
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
    judge = open_judge(store, manifest)
    made, held_out, training = (features(judge, images[:count]) for images in parts)
    return {
        "frechet_distance": frechet_distance(held_out, made),
        "real_frechet_distance": frechet_distance(held_out, training),
        **dataclasses.asdict(manifolds(held_out, made)),
    }
