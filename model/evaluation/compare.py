"""Quality metrics of generated drawings, each beside the same metric of real drawings.

    judge accuracy     fraction of samples that the classifier assigns to their class
    Frechet distance   between Gaussians fitted to the classifier's features (Heusel et al. 2017)
    precision, recall, density, coverage   by k nearest neighbors (Naeem et al. 2020)
    classification accuracy score   classifier trained on samples, tested on real (Ravuri 2019)
    nearest neighbor   pixel distance of samples, and of real test drawings, to the training split;
                       samples that are much nearer are memorized

`score_samples` compares samples with the dataset that their model was trained on. Every distance
has a baseline: the same number for real training drawings. The Frechet distance decreases with the
number of drawings, so compare equal counts only.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.data import Drawings, batch_rows, open_split
from model.evaluation.classifier import (
    ClassifierSpec,
    features,
    fit_classifier,
    open_classifier,
    predict,
)
from model.evaluation.evaluate import match_classes
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest, artifact_label

Labels = npt.NDArray[np.int64]

# Size of the reference set of the Frechet distance; larger sets hardly change the distance.
_REFERENCE_ROWS = 20_000
# Distances between all pairs: 5,000 x 5,000 in 128 dimensions take seconds.
_MANIFOLD_ROWS = 5_000

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

# k of precision and recall in Naeem et al. 2020, section 5.
NUM_NEIGHBORS = 5
# Rows of a distance matrix at a time: 256 x 100,000 float64 are 200 MB.
_CHUNK_ROWS = 256


@doing("judge", "comparing samples with real drawings")
def score_samples(
    samples: Manifest,
    judge: Manifest,
    dataset: Manifest,
    store: Store,
    *,
    cache_dir: Path,
) -> dict[str, Any]:
    """Return classifier accuracy, Frechet distance, manifolds and memorization, as JSON values.

    `real` is the same metric of real test drawings (accuracy, memorization), of equally many real
    test drawings (Frechet distance), or of training drawings (manifolds). Raises ValueError if the
    samples have a class that the dataset lacks, or if the classifier's classes differ from the
    dataset's.
    """
    _check_classifier(judge, dataset)
    network = open_classifier(store, judge)
    fake, train, test = _open_comparable(samples, dataset, store, cache_dir=cache_dir)
    return {
        "samples": samples.digest,
        "judge": judge.digest,
        "dataset": dataset.digest,
        "num_samples": len(fake),
        "accuracy": {
            "samples": _accuracy(predict(network, fake.images), fake.labels),
            "real": _accuracy(predict(network, test.images), test.labels),
            "classes": _class_accuracy(predict(network, fake.images), fake),
        },
        **_feature_scores(network, fake=fake, train=train, test=test),
        "memorization": memorization(_nearest(fake, train), _nearest(test, train)),
    }


def classification_accuracy_score(
    samples: Manifest,
    dataset: Manifest,
    store: Store,
    *,
    spec: ClassifierSpec,
    cache_dir: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train classifiers on samples and on equally many real drawings; test both on real ones.

    Ravuri and Vinyals 2019. Both have the spec's budget and use real drawings of the samples'
    classes only.
    """
    fake, train, test = _open_comparable(samples, dataset, store, cache_dir=cache_dir)
    real = _take(train, min(len(fake), len(train)))
    found = {}
    for name, drawings in (("samples", fake), ("real", real)):
        judge = fit_classifier(spec, drawings, dataset_digest=name, progress=progress)
        found[name] = _accuracy(predict(judge, test.images), test.labels)
    return found


@dataclass(frozen=True, slots=True)
class Manifolds:
    """Precision, recall, density and coverage of generated against real features."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(real: FloatArray, generated: FloatArray) -> float:
    """Return the Frechet distance of two sets of features (n, d), by torchmetrics.

    Raises ValueError if a set has fewer than two drawings.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes a second to import

    if min(len(real), len(generated)) < 2:
        raise ValueError("a Frechet distance needs two drawings on each side")
    metric = FrechetInceptionDistance(feature=_Identity(real.shape[1]), normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    return float(metric.compute())


def manifolds(real: FloatArray, generated: FloatArray) -> Manifolds:
    """Return precision, recall, density and coverage of features (n, d).

    precision  fraction of generated drawings inside some real ball;  recall  the reverse
    density    real balls around a generated drawing / k, mean; k is NUM_NEIGHBORS
    coverage   fraction of real balls that contain a generated drawing
    where a ball reaches to a drawing's k-th nearest neighbor in its own set. Raises ValueError
    if a set has no k-th neighbor.
    """
    if min(len(real), len(generated)) <= NUM_NEIGHBORS:
        raise ValueError(f"need over {NUM_NEIGHBORS} drawings on each side")
    real_radius = _radius(real)
    generated_radius = _radius(generated)
    in_real, in_generated = np.zeros(len(generated), np.int64), np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    for start in range(0, len(real), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        distance = _distance(real[rows], generated)
        inside = distance < real_radius[rows, None]
        in_real += inside.sum(0)
        covered[rows] = inside.any(1)
        in_generated[rows] = (distance < generated_radius).any(1)
    return Manifolds(
        precision=float((in_real > 0).mean()),
        recall=float(in_generated.mean()),
        density=float(in_real.mean() / NUM_NEIGHBORS),
        coverage=float(covered.mean()),
    )


def nearest_distance(
    drawings: Uint8Array,
    labels: npt.NDArray[np.int64],
    *,
    reference: Uint8Array,
    reference_labels: npt.NDArray[np.int64],
) -> FloatArray:
    """Return each drawing's distance to the nearest reference of its class (n,).

    Euclidean over pixels scaled to [0, 1]; infinite where the class has no reference.
    """
    found = np.full(len(drawings), np.inf)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        theirs = reference[reference_labels == label]
        if not len(theirs):
            continue
        theirs = _pixels(theirs)
        for start in range(0, len(mine), _CHUNK_ROWS):
            rows = mine[start : start + _CHUNK_ROWS]
            found[rows] = _distance(_pixels(drawings[rows]), theirs).min(1)
    return found


def memorization(samples: FloatArray, real: FloatArray) -> dict[str, Any]:
    """Compare nearest distances of samples with those of real test drawings, as JSON values.

    `median_ratio` well under 1 means that samples are copies; `num_copies` have distance 0.
    """
    samples, real = samples[np.isfinite(samples)], real[np.isfinite(real)]
    if not len(samples) or not len(real):
        return {"num_copies": 0}
    return {
        "median_ratio": float(np.median(samples) / np.median(real)),
        "sample_median": float(np.median(samples)),
        "real_median": float(np.median(real)),
        "nearer_than_real_first_percentile": float((samples < np.percentile(real, 1)).mean()),
        "num_copies": int((samples == 0).sum()),
    }


def _open_comparable(
    samples: Manifest, dataset: Manifest, store: Store, *, cache_dir: Path
) -> tuple[Drawings, Drawings, Drawings]:
    """Return samples, and the training and test drawings of their classes, with common labels."""
    names: Sequence[str] = dataset.summary["class_names"]
    unknown = [name for name in samples.summary["class_names"] if name not in names]
    if unknown:
        raise ValueError(
            f"dataset {artifact_label(dataset)} has no drawings of {', '.join(unknown)}, which the "
            "samples have: score them against the dataset that their model was trained on"
        )
    fake = match_classes(open_split(store, samples, split="train", cache_dir=cache_dir), names)
    classes = np.unique(fake.labels)
    train, test = (
        _of_classes(open_split(store, dataset, split=split, cache_dir=cache_dir), classes)
        for split in ("train", "test")
    )
    return fake, train, test


def _check_classifier(judge: Manifest, dataset: Manifest) -> None:
    known, names = (list(artifact.summary["class_names"]) for artifact in (judge, dataset))
    if known != names:
        raise ValueError(
            f"judge {artifact_label(judge)} has {len(known)} classes ({_few(known)}), "
            f"dataset {artifact_label(dataset)} has {len(names)} ({_few(names)}): use the judge "
            "that was trained on this dataset"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _feature_scores(
    network: Any, *, fake: Drawings, train: Drawings, test: Drawings
) -> dict[str, Any]:
    count = min(len(fake), len(test))
    fake_features = features(network, _take(fake, count).images)
    test_features = features(network, _take(test, count).images)
    reference = features(network, _take(train, _REFERENCE_ROWS).images)
    few = min(count, _MANIFOLD_ROWS)
    return {
        "num_compared": count,
        "frechet": {
            "samples": frechet_distance(reference, fake_features),
            "real": frechet_distance(reference, test_features),
        },
        "manifolds": {
            "samples": dataclasses.asdict(manifolds(test_features[:few], fake_features[:few])),
            "real": dataclasses.asdict(manifolds(test_features[:few], reference[:few])),
        },
    }


def _nearest(drawings: Drawings, reference: Drawings) -> npt.NDArray[np.float64]:
    return nearest_distance(
        drawings.images,
        drawings.labels,
        reference=reference.images,
        reference_labels=reference.labels,
    )


def _take(drawings: Drawings, count: int) -> Drawings:
    """Return at most `count` drawings in a fixed random order."""
    rows = batch_rows(len(drawings), min(count, len(drawings)), key="take", step=0)
    return Drawings(drawings.images[rows], drawings.labels[rows], drawings.class_names)


def _of_classes(drawings: Drawings, labels: npt.NDArray[np.int64]) -> Drawings:
    rows = np.flatnonzero(np.isin(drawings.labels, labels))
    if len(rows) == len(drawings):
        return drawings
    return Drawings(drawings.images[rows], drawings.labels[rows], drawings.class_names)


def _accuracy(predicted: Labels, labels: Labels) -> float:
    return float((predicted == labels).mean())


def _class_accuracy(predicted: npt.NDArray[np.int64], drawings: Drawings) -> dict[str, float]:
    return {
        name: _accuracy(
            predicted[drawings.labels == index], drawings.labels[drawings.labels == index]
        )
        for index, name in enumerate(drawings.class_names)
        if (drawings.labels == index).any()
    }


class _Identity(torch.nn.Module):
    """Identity feature extractor, for features extracted beforehand."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def _radius(features: FloatArray) -> FloatArray:
    """Return the distance to the k-th nearest other drawing of the same set (n,)."""
    parts = []
    for start in range(0, len(features), _CHUNK_ROWS):
        distance = _distance(features[start : start + _CHUNK_ROWS], features)
        parts.append(np.partition(distance, NUM_NEIGHBORS, axis=1)[:, NUM_NEIGHBORS])
    return np.concatenate(parts)


def _distance(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return Euclidean distances (n, m), exactly 0 for equal rows."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(torch.from_numpy(left), torch.from_numpy(right), compute_mode=mode).numpy()


def _pixels(images: Uint8Array) -> FloatArray:
    return images.reshape(len(images), -1) / 255.0
