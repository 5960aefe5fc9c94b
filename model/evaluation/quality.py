"""How good a set of generated drawings is, next to what real drawings get from the same test.

    judge accuracy     part of the samples that the judge takes for their class
    Frechet distance   between Gaussians fitted to the judge's features (Heusel et al. 2017)
    precision, recall, density, coverage   by k nearest neighbors (Naeem et al. 2020)
    classification accuracy score   judge trained on samples, tested on real (Ravuri 2019)
    nearest neighbor   pixel distance of samples to the training split, and of real test
                       drawings to it; samples that are much nearer are memorized

Every distance has its floor: the same number for real training drawings instead of samples.
The Frechet distance falls with the number of drawings, so compare only equal counts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

# k of precision and recall in Naeem et al. 2020, section 5.
NUM_NEIGHBORS = 5
# Rows of a distance matrix at a time: 256 x 100,000 float64 are 200 MB.
_CHUNK_ROWS = 256


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
    from torchmetrics.image.fid import FrechetInceptionDistance  # an extra of a second to load

    if min(len(real), len(generated)) < 2:
        raise ValueError("a Frechet distance needs two drawings on each side")
    metric = FrechetInceptionDistance(feature=_Identity(real.shape[1]), normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    return float(metric.compute())


class _Identity(torch.nn.Module):
    """Hands features through: they were extracted before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def manifolds(real: FloatArray, generated: FloatArray) -> Manifolds:
    """Return precision, recall, density and coverage of features (n, d).

    precision  part of generated inside some real ball;  recall  the other way round
    density    real balls around a generated drawing / k, mean; k is NUM_NEIGHBORS
    coverage   part of real balls that hold a generated drawing
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


def _radius(features: FloatArray) -> FloatArray:
    """Return the distance to the k-th nearest other drawing of the same set (n,)."""
    parts = []
    for start in range(0, len(features), _CHUNK_ROWS):
        distance = _distance(features[start : start + _CHUNK_ROWS], features)
        parts.append(np.partition(distance, NUM_NEIGHBORS, axis=1)[:, NUM_NEIGHBORS])
    return np.concatenate(parts)


def _distance(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return Euclidean distances (n, m); equal rows are at exactly 0."""
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(torch.from_numpy(left), torch.from_numpy(right), compute_mode=mode).numpy()


def _pixels(images: Uint8Array) -> FloatArray:
    return images.reshape(len(images), -1) / 255.0
