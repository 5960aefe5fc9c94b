"""The audit finds what was planted, real drawings pass it, filters and gate say what failed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from walks import NAMES, drawings, publish

from model.audit.filters import Filters
from model.audit.measures import drawing_hashes, measure, members, repeats, stroke_density
from model.audit.nearness import nearest
from model.audit.numbers import judge_split
from model.audit.run import AuditSpec, audit_samples, read_audit
from model.evaluation.classifier import Classifier, ClassifierSpec, predict, train_classifier
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def dataset(store: Store) -> Manifest:
    return publish(store, "datasets", {"train": drawings(1, 200), "test": drawings(2, 100)})


def audit(store, samples, dataset, **spec):
    made = audit_samples(samples, dataset, store, name="walks", spec=AuditSpec(**spec))
    return read_audit(made, store), made


@pytest.mark.slow
def test_nearest_is_the_smallest_difference():
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 256, (n, 28, 28), np.uint8) for n in (600, 37))
    distance, index = nearest(left, right)
    flat = left.reshape(600, -1) / 255.0, right.reshape(37, -1) / 255.0
    table = np.linalg.norm(flat[0][:, None] - flat[1][None], axis=2)
    assert np.allclose(distance, table.min(1), atol=1e-4)
    assert (index == table.argmin(1)).all()


def test_a_drawing_is_no_neighbor_of_itself_if_so_asked():
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4), np.uint8)
    distance, index = nearest(images, images, exclude_self=True)
    assert (index != np.arange(600)).all()
    assert distance.min() > 0
    assert np.isinf(nearest(images[:1], images[:1], exclude_self=True)[0]).all()
    assert np.isinf(nearest(images, images[:0])[0]).all()


def test_equal_drawings_have_equal_hashes_and_the_first_is_no_repeat():
    images, _ = drawings(3, 5)
    hashes = drawing_hashes(np.concatenate([images, images[:4]]))
    assert repeats(hashes).tolist() == [False] * 15 + [True] * 4
    assert members(hashes, hashes[:2]).sum() == 4
    assert not members(hashes, hashes[:0]).any()


def test_a_split_is_measured_in_order_with_the_first_of_each_class(store, dataset):
    images, labels = drawings(1, 200)
    found = measure(dataset, store, split="train", keep_per_class=7)
    assert (found.labels == labels).all()
    assert (found.ink == (images > 0).sum((1, 2))).all()
    for label in range(3):
        kept, rows = found.kept_of(label)
        assert (rows == np.flatnonzero(labels == label)[:7]).all()
        assert (kept == images[rows]).all()


def test_held_out_drawings_pass_as_samples(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 100)})
    numbers, _ = audit(store, samples, dataset)
    assert numbers["exact_copy_rate"] == numbers["exact_duplicate_rate"] == 0
    assert numbers["near_copy_rate"] < 0.06
    assert 0.95 < numbers["copy_distance_ratio"] < 1.05
    assert set(numbers["classes"]) == set(NAMES)


def test_planted_copies_near_copies_and_duplicates_are_found(store, dataset):
    training, training_labels = drawings(1, 200)
    images, labels = drawings(5, 100)
    images, labels = images.copy(), labels.copy()
    bees = np.flatnonzero(labels == 0)
    sources = np.flatnonzero(training_labels == 0)
    images[bees[:10]] = training[sources[:10]]  # copies
    near = training[sources[20:40]].copy()
    near[:, 0, 0] ^= 255
    images[bees[10:30]] = near  # one pixel away
    images[bees[30:35]] = images[bees[40:45]]  # duplicates
    numbers, _ = audit(store, publish(store, "samples", {"train": (images, labels)}), dataset)
    bee, sun = numbers["classes"]["bee"], numbers["classes"]["sun"]
    assert bee["exact_copy_rate"] == 0.10
    assert bee["near_copy_rate"] >= 0.30
    assert bee["exact_duplicate_rate"] == 0.05
    assert sun["exact_copy_rate"] == sun["exact_duplicate_rate"] == 0
    assert sun["near_copy_rate"] < 0.1
    closest = numbers["closest"][0]
    assert closest["class_name"] == "bee"
    assert (images[closest["sample_row"]] == training[closest["training_row"]]).all()


def test_samples_of_fewer_classes_in_another_order_are_matched_by_name(store, dataset):
    images, labels = drawings(6, 20)
    two = labels < 2
    swapped = (images[two], 1 - labels[two])
    samples = publish(store, "samples", {"train": swapped}, names=("sea turtle", "bee"))
    numbers, _ = audit(store, samples, dataset)
    assert set(numbers["classes"]) == {"bee", "sea turtle"}
    ratio = numbers["classes"]["bee"]["copy_distance_ratio"]
    assert 0.9 < ratio < 1.1  # against another class it would be far more
    assert numbers["num_held_out"] == 200


@pytest.mark.slow
def test_samples_of_one_class_are_held_against_real_drawings_of_that_class(store, dataset):
    images, labels = drawings(6, 100)
    one = (images[labels == 1], np.zeros(100, np.int64))
    samples = publish(store, "samples", {"train": one}, names=(NAMES[1],))
    spec = ClassifierSpec(image_shape=(28, 28), num_classes=3, budget_nimg=640)
    judge = train_classifier(spec, dataset, store, "judge")
    made = audit_samples(samples, dataset, store, name="walks", judge=judge, spec=AuditSpec())
    numbers = read_audit(made, store)
    alone = numbers["classes"][NAMES[1]]
    assert numbers["real_judge_agreement"] == alone["real_judge_agreement"]
    # Both are of the same random walks: the other classes' walks would be far away.
    assert numbers["frechet_distance"] < 3 * numbers["real_frechet_distance"]


def test_rate_that_no_real_drawing_gives_a_meaning_is_left_out(store):
    dataset = publish(store, "datasets", {"train": drawings(1, 20), "test": drawings(2, 1)})
    copies = publish(store, "samples", {"train": drawings(1, 20)})
    numbers, _ = audit(store, copies, dataset)
    assert "near_copy_rate" in numbers
    # One real drawing of a class has no other to be near to.
    for found in (numbers, *numbers["classes"].values()):
        assert "near_duplicate_rate" not in found


def test_the_same_audit_is_answered_at_once(store, dataset, monkeypatch):
    samples = publish(store, "samples", {"train": drawings(4, 20)})
    _, first = audit(store, samples, dataset)
    monkeypatch.setattr("model.audit.run.measure", pytest.fail)
    assert audit(store, samples, dataset)[1] == first


def test_the_judge_is_asked_about_every_drawing(store, dataset):
    torch.manual_seed(0)
    judge = Classifier(3).eval()
    images, labels = drawings(2, 100)
    judged = judge_split(judge, dataset, store, split="test")
    assert (judged.predicted == predict(judge, images)).all()
    relabel = np.array([2, 1, 0], np.int16)
    other = judge_split(judge, dataset, store, split="test", relabel=relabel)
    same = labels == 1
    assert np.allclose(judged.confidence[same], other.confidence[same])
    assert not np.allclose(judged.confidence[~same], other.confidence[~same])


@pytest.mark.slow
def test_a_judge_adds_its_numbers_and_filters_with_them(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 40)})
    spec = ClassifierSpec(num_classes=3, budget_nimg=640)
    judge = train_classifier(spec, dataset, store, "judge")
    made = audit_samples(
        samples,
        dataset,
        store,
        name="walks",
        spec=AuditSpec(filters=Filters(judge_agrees=True)),
        judge=judge,
    )
    numbers = read_audit(made, store)
    raw = numbers["before_filters"]
    assert np.sum(raw["confusion"]) == numbers["drawn"] == 120
    assert np.trace(raw["confusion"]) == np.sum(numbers["confusion"]) == numbers["accepted"]
    assert numbers["accepted"] == round(raw["judge_agreement"] * 120)
    assert numbers["judge_agreement"] == 1
    assert numbers["frechet_distance"] > 0
    assert 0 <= numbers["recall"] <= 1
    assert any(ref.role == "judge" for ref in made.inputs)


def test_real_rates_are_those_before_duplicates_were_dropped(store):
    splits = {"train": drawings(1, 60), "test": drawings(2, 40)}
    counts = {split: dict.fromkeys(NAMES, len(rows[1]) // 3) for split, rows in splits.items()}
    dropped = {"duplicate": {"bee": 100, "sun": 20}, "near_duplicate": {"sun": 80}, "blank": {}}
    dataset = publish(store, "datasets", splits, counts=counts, dropped=dropped)
    numbers, _ = audit(store, publish(store, "samples", {"train": drawings(3, 20)}), dataset)
    found = {name: row["real_exact_copy_rate"] for name, row in numbers["classes"].items()}
    assert found == {"bee": 100 / 200, "sea turtle": 0.0, "sun": 20 / 200}
    assert numbers["real_exact_duplicate_rate"] == 120 / 500


def test_a_dataset_that_kept_its_duplicates_shows_them_itself(store):
    images, labels = (each.copy() for each in drawings(2, 40))
    suns = np.flatnonzero(labels == 2)
    images[suns[:5]] = images[suns[5]]
    dataset = publish(store, "datasets", {"train": drawings(1, 60), "test": (images, labels)})
    numbers, _ = audit(store, publish(store, "samples", {"train": drawings(3, 20)}), dataset)
    assert numbers["classes"]["sun"]["real_exact_copy_rate"] == 5 / 40
    assert numbers["real_exact_copy_rate"] == 5 / 120


def test_the_real_near_rate_is_measured_on_drawings_that_did_not_set_the_limit(store):
    images, labels = (each.copy() for each in drawings(2, 100))
    training, training_labels = drawings(1, 200)
    bees = np.flatnonzero(labels == 0)
    images[bees[1::2][:20]] = training[training_labels == 0][:20]
    images[bees[1::2][:20], 0, 0] ^= 255
    dataset = publish(store, "datasets", {"train": drawings(1, 200), "test": (images, labels)})
    numbers, _ = audit(store, publish(store, "samples", {"train": drawings(3, 50)}), dataset)
    assert numbers["classes"]["bee"]["real_near_copy_rate"] >= 20 / 50
    assert numbers["classes"]["sun"]["real_near_copy_rate"] < 0.1
    assert numbers["real_near_copy_rate"] >= 20 / 150
    assert 0 < numbers["real_copy_distance_low"] < numbers["real_copy_distance"]


def test_hashes_are_compared_in_parts_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    hashes, known = (rng.integers(0, 1 << 64, n, np.uint64) for n in (500, 300))
    hashes[250:] = rng.permutation(hashes[:250])
    known[:50] = hashes[:50]
    among = rng.random(500) < 0.7
    whole = repeats(hashes, among), members(hashes, known, among)
    seen: set[int] = set()
    later = []
    for value, asked in zip(hashes.tolist(), among.tolist(), strict=True):
        later.append(asked and value in seen)
        seen |= {value} if asked else set()
    assert whole[0].tolist() == later
    assert whole[1].tolist() == (np.isin(hashes, known) & among).tolist()
    monkeypatch.setattr("model.audit.measures._PART_ROWS", 16)
    assert (repeats(hashes, among) == whole[0]).all()
    assert (members(hashes, known, among) == whole[1]).all()


def test_pictures_are_capped_over_all_classes(store, dataset, monkeypatch):
    monkeypatch.setattr("model.audit.measures.MAX_KEPT", 30)
    found = measure(dataset, store, split="train", keep_per_class=5_000)
    assert np.bincount(found.labels[found.rows]).tolist() == [10, 10, 10]
    assert len(found) == 600


def test_stroke_density_counts_the_strokes_that_lines_cross():
    images = np.zeros((3, 9, 9), np.uint8)
    images[0, 1:8, 1:8] = 255
    images[0, 2:7, 2:7] = 0  # a ring
    images[1, 4, 2:7] = 255  # a line
    images[2] = 100  # too pale for a stroke
    ring = 2 * (2 * 1 + 5 * 2) / 14
    assert np.allclose(stroke_density(images), [ring, 1, 0])
