"""Score a samples dataset with the judge: every number beside what real drawings get.

`score_samples` compares samples with the real dataset that their model learned from; the
measures themselves are in model.evaluation.quality, the judge in model.evaluation.classifier.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.data import Drawings, batch_rows, open_split
from model.evaluation.classifier import JudgeSpec, features, fit_judge, open_judge, predict
from model.evaluation.evaluate import match_classes
from model.evaluation.quality import frechet_distance, manifolds, memorization, nearest_distance
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest, artifact_label

Labels = npt.NDArray[np.int64]

# The reference set of the Frechet distance; beyond it the distance hardly moves.
_REFERENCE_ROWS = 20_000
# Distances between all pairs: 5,000 x 5,000 in 128 dimensions take seconds.
_MANIFOLD_ROWS = 5_000


@doing("judge", "comparing samples with real drawings")
def score_samples(
    samples: Manifest,
    judge: Manifest,
    dataset: Manifest,
    store: Store,
    *,
    cache_dir: Path,
) -> dict[str, Any]:
    """Return judge accuracy, Frechet distance, manifolds and memorization, as JSON values.

    `real` is the same number for real test drawings (accuracy, memorization) or for as many
    real test drawings in the samples' place (Frechet distance), or training ones (manifolds).
    Raises ValueError if the samples have a class that the dataset lacks, or the judge is of other
    classes than the dataset.
    """
    _check_judge(judge, dataset)
    network = open_judge(store, judge)
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
    spec: JudgeSpec,
    cache_dir: Path,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Train judges on samples and on as many real drawings; test both on real ones.

    Ravuri and Vinyals 2019. The spec's budget holds for both, and the real drawings are of the
    samples' classes alone: no judge is asked for what it was not shown.
    """
    fake, train, test = _open_comparable(samples, dataset, store, cache_dir=cache_dir)
    real = _take(train, min(len(fake), len(train)))
    found = {}
    for name, drawings in (("samples", fake), ("real", real)):
        judge = fit_judge(spec, drawings, dataset_digest=name, progress=progress)
        found[name] = _accuracy(predict(judge, test.images), test.labels)
    return found


def _open_comparable(
    samples: Manifest, dataset: Manifest, store: Store, *, cache_dir: Path
) -> tuple[Drawings, Drawings, Drawings]:
    """Return samples, and the training and test drawings of their classes, labelled alike."""
    names: Sequence[str] = dataset.summary["class_names"]
    unknown = [name for name in samples.summary["class_names"] if name not in names]
    if unknown:
        raise ValueError(
            f"dataset {artifact_label(dataset)} has no drawings of {', '.join(unknown)}, which the "
            "samples have: score them against the dataset that their model learned from"
        )
    fake = match_classes(open_split(store, samples, split="train", cache_dir=cache_dir), names)
    classes = np.unique(fake.labels)
    train, test = (
        _of_classes(open_split(store, dataset, split=split, cache_dir=cache_dir), classes)
        for split in ("train", "test")
    )
    return fake, train, test


def _check_judge(judge: Manifest, dataset: Manifest) -> None:
    known, names = (list(artifact.summary["class_names"]) for artifact in (judge, dataset))
    if known != names:
        raise ValueError(
            f"judge {artifact_label(judge)} tells {len(known)} classes apart ({_few(known)}), "
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
    """Return `count` drawings in a fixed random order, all of them if there are fewer."""
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
