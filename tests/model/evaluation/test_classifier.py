"""The judge tells classes apart, is published once, and scores samples beside real drawings."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from model.data import open_split, read_split
from model.evaluation.classifier import (
    ClassifierSpec,
    classifier_spec,
    open_classifier,
    predict,
    shift,
    train_classifier,
)
from model.evaluation.compare import classification_accuracy_score, score_samples
from model.options import RunOptions
from pipelines.drawings.parquet import shard_schema, write_shard
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import FileEntry, Manifest, artifact_digest

SPEC = ClassifierSpec(
    image_shape=(8, 8), num_classes=3, budget_nimg=960, batch_size=32, max_shift=1
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("judge")))


@pytest.fixture(scope="module")
def judged(store, make_dataset):
    dataset = make_dataset(store, rows=96)
    return dataset, train_classifier(SPEC, dataset, store, "judge", options=RunOptions())


def test_judge_learns_bar_dot_and_ring(store, judged, tmp_path) -> None:
    dataset, judge = judged
    assert judge.summary["test_accuracy"] > 0.9
    test = open_split(store, dataset, split="test", cache_dir=tmp_path)
    found = predict(open_classifier(store, judge), test.images)
    assert (found == test.labels).mean() == judge.summary["test_accuracy"]


def test_judge_is_trained_once(store, judged) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a published judge was trained again")

    dataset, judge = judged
    assert train_classifier(SPEC, dataset, store, "judge", progress=refuse) == judge


@pytest.mark.slow
def test_real_drawings_in_the_samples_place_score_as_real_ones(
    store, judged, make_dataset, tmp_path
) -> None:
    dataset, judge = judged
    samples = make_dataset(store, rows=24, seed=5)
    found = score_samples(samples, judge, dataset, store, cache_dir=tmp_path)
    assert found["accuracy"]["samples"] > 0.9
    assert found["manifolds"]["samples"]["precision"] > 0.8
    assert found["num_samples"] == 24
    assert set(found["accuracy"]["classes"]) == {"bar", "dot", "ring"}


@pytest.mark.slow
def test_training_drawings_as_samples_are_found_out(store, judged, tmp_path) -> None:
    dataset, judge = judged
    found = score_samples(dataset, judge, dataset, store, cache_dir=tmp_path)
    assert found["memorization"]["num_copies"] == 96


@pytest.mark.slow
def test_classification_accuracy_score_of_real_drawings_is_that_of_real_ones(
    store, judged, make_dataset, tmp_path
) -> None:
    dataset, _ = judged
    samples = make_dataset(store, rows=48, seed=5)
    found = classification_accuracy_score(samples, dataset, store, spec=SPEC, cache_dir=tmp_path)
    assert min(found.values()) > 0.8


def two_classes(store, dataset, name: str) -> Manifest:
    """Publish the dots and rings of a dataset as a set of samples with two class names."""
    content = {"image": [], "label": []}
    for images, labels in read_split(store, dataset, split="train"):
        chosen = labels > 0
        content["image"].append(images[chosen])
        content["label"].append(labels[chosen] - 1)
    images, labels = (np.concatenate(parts) for parts in content.values())
    shard = write_shard(images, {"label": labels}, shard_schema(("dot", "ring"), (8, 8)))
    sha256 = hashlib.sha256(shard).hexdigest()
    entry = FileEntry(
        path="data/train-0.parquet",
        bytes=len(shard),
        sha256=sha256,
        rows=len(labels),
        split="train",
    )
    spec = {"of": dataset.digest}
    manifest = Manifest(
        kind="samples",
        name=name,
        digest=artifact_digest("samples", spec, ()),
        spec=spec,
        files=(entry,),
        summary={"class_names": ["dot", "ring"], "image_shape": [8, 8]},
    )
    return store.publish_files(manifest, {entry.path: shard})


@pytest.mark.slow
def test_scores_of_samples_of_two_classes_are_beside_real_drawings_of_these_two(
    store, judged, make_dataset, tmp_path
) -> None:
    dataset, judge = judged
    samples = two_classes(store, make_dataset(store, rows=48, seed=5), "two")
    found = classification_accuracy_score(samples, dataset, store, spec=SPEC, cache_dir=tmp_path)
    # A third of the test drawings is of the class that neither judge was shown.
    assert min(found.values()) > 0.8
    found = score_samples(samples, judge, dataset, store, cache_dir=tmp_path)
    assert set(found["accuracy"]["classes"]) == {"dot", "ring"}
    assert found["accuracy"]["samples"] > 0.9


def test_judge_of_other_classes_is_refused(store, judged, make_dataset, tmp_path) -> None:
    dataset, judge = judged
    names = ["ring", "dot", "bar"]
    other = dataclasses.replace(judge, summary=judge.summary | {"class_names": names})
    with pytest.raises(ValueError, match="use the judge that was trained on this dataset"):
        score_samples(dataset, other, dataset, store, cache_dir=tmp_path)


def test_samples_of_a_class_that_the_dataset_lacks_are_refused(store, judged, tmp_path) -> None:
    dataset, _ = judged
    names = ["bar", "dot", "house"]
    samples = dataclasses.replace(dataset, summary=dataset.summary | {"class_names": names})
    with pytest.raises(ValueError, match="has no drawings of house"):
        classification_accuracy_score(samples, dataset, store, spec=SPEC, cache_dir=tmp_path)


def test_shift_moves_whole_drawings() -> None:
    images = torch.zeros(50, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 3, 4] = 255
    moved = shift(images, 2, torch.Generator().manual_seed(0))
    places = {tuple(place) for place in moved.nonzero()[:, 2:].tolist()}
    assert (moved.sum((1, 2, 3)) == 255).all()
    assert places <= {(row, column) for row in range(1, 6) for column in range(2, 7)}
    assert len(places) > 10


def test_judge_of_a_dataset_fits_it(store, make_dataset) -> None:
    spec = classifier_spec(make_dataset(store))
    assert (spec.image_shape, spec.num_classes, spec.budget_nimg) == ((8, 8), 3, 240)


def test_model_that_is_no_judge_is_refused(store, judged) -> None:
    _, judge = judged
    with pytest.raises(ValueError, match="is not a judge"):
        open_classifier(store, dataclasses.replace(judge, summary={}))
    assert np.isfinite(judge.summary["test_accuracy"])
