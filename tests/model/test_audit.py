"""The audit finds what was planted, real drawings pass it, filters and gate say what failed."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.audit.filters import ACCEPTED, REASONS, Filters, filters_from, read_filters
from model.audit.gate import GateError, check_gate, gate_from, read_gate, require_passed
from model.audit.judged import judge_split
from model.audit.measures import drawing_hashes, measure, members, repeats
from model.audit.neighbors import nearest
from model.audit.run import AuditSpec, audit_samples, kept_rows, read_audit
from model.judge import Judge, JudgeSpec, predict, train_judge
from pipelines.schema import FileEntry, InputRef, Manifest, artifact_digest, artifact_prefix
from pipelines.shards import shard_name, shard_schema, write_shard
from pipelines.store import Store, open_store

NAMES = ("bee", "sea turtle", "sun")


def strokes(rng: np.random.Generator, count: int, label: int) -> np.ndarray:
    """Return drawings of one random walk each; each class begins in another corner."""
    images = np.zeros((count, 28, 28), np.uint8)
    place = np.tile([4 + 8 * label, 6], (count, 1))
    for _ in range(60):
        place = np.clip(place + rng.integers(-1, 2, place.shape), 0, 27)
        images[np.arange(count), place[:, 0], place[:, 1]] = 255
    return images


def drawings(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(NAMES)), per_class)
    images = np.concatenate([strokes(rng, per_class, label) for label in range(len(NAMES))])
    order = rng.permutation(len(labels))
    return images[order], labels[order]


def publish(store: Store, kind: str, splits: dict, *, shards: int = 2, names=NAMES) -> Manifest:
    """Publish drawings; samples get their row as sample_index and 2 bits/dim."""
    extra = {"bits_per_dim": pa.float32()} if kind == "samples" else {}
    spec = {"splits": {k: hashlib.sha256(v[0].tobytes()).hexdigest() for k, v in splits.items()}}
    inputs = (InputRef(role="source", kind="source", name="walks", digest="1" * 64),)
    digest = artifact_digest(kind, spec, inputs)
    entries = []
    for split, (images, labels) in splits.items():
        for index, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
            columns = {"label": labels[rows]} | {name: np.full(len(rows), 2.0) for name in extra}
            content = write_shard(images[rows], columns, shard_schema(names, (28, 28), extra))
            path = shard_name(split, index, shards)
            store.put(f"{artifact_prefix(kind, 'walks', digest)}/{path}", content)
            sha256 = hashlib.sha256(content).hexdigest()
            entries.append(
                FileEntry(path=path, bytes=len(content), sha256=sha256, rows=len(rows), split=split)
            )
    summary = {"class_names": list(names), "image_shape": [28, 28]}
    return store.publish(
        Manifest(
            kind=kind,
            name="walks",
            digest=digest,
            spec=spec,
            inputs=inputs,
            files=tuple(entries),
            summary=summary,
        )
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def dataset(store: Store) -> Manifest:
    return publish(store, "datasets", {"train": drawings(1, 200), "test": drawings(2, 100)})


def audit(store, samples, dataset, **spec):
    made = audit_samples(samples, dataset, store, name="walks", spec=AuditSpec(**spec))
    return read_audit(made, store), made


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


def test_filters_count_each_rejection_once_and_masks_follow(store, dataset):
    images, labels = drawings(7, 30)
    images = images.copy()
    images[0] = 0
    images[1] = drawings(1, 200)[0][np.flatnonzero(drawings(1, 200)[1] == labels[1])[0]]
    images[3] = images[2]
    samples = publish(store, "samples", {"train": (images, labels)})
    filters = Filters(min_ink=5, drop_copies=True, drop_duplicates=True)
    numbers, made = audit(store, samples, dataset, filters=filters)
    total = dict.fromkeys((*REASONS, "accepted"), 0)
    for counts in numbers["reasons"].values():
        for reason, count in counts.items():
            total[reason] += count
    assert total["too_little_ink"] == 1
    assert total["copy_of_training_drawing"] == 1
    assert total["duplicate"] == 1
    assert total["accepted"] == numbers["accepted"] == 87
    masks = kept_rows(made, samples)
    assert sum(rows for _, rows in masks.values()) == 87
    kept = np.concatenate([np.load(store.local_path(path)) for path, _ in masks.values()])
    assert np.flatnonzero(~kept).tolist() == [0, 1, 3]
    assert ACCEPTED not in range(len(REASONS))


def test_the_same_audit_is_answered_at_once(store, dataset, monkeypatch):
    samples = publish(store, "samples", {"train": drawings(4, 20)})
    _, first = audit(store, samples, dataset)
    monkeypatch.setattr("model.audit.run.measure", pytest.fail)
    assert audit(store, samples, dataset)[1] == first


def test_the_judge_is_asked_about_every_drawing(store, dataset):
    torch.manual_seed(0)
    judge = Judge(3).eval()
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
    spec = JudgeSpec(num_classes=3, budget_nimg=640)
    judge = train_judge(spec, dataset, store, "judge")
    made = audit_samples(
        samples,
        dataset,
        store,
        name="walks",
        spec=AuditSpec(filters=Filters(judge_agrees=True)),
        judge=judge,
    )
    numbers = read_audit(made, store)
    assert np.sum(numbers["confusion"]) == 120
    assert np.trace(numbers["confusion"]) == numbers["accepted"]
    assert numbers["accepted"] == round(numbers["judge_agreement"] * 120)
    assert numbers["frechet_distance"] > 0
    assert 0 <= numbers["recall"] <= 1
    assert any(ref.role == "judge" for ref in made.inputs)


def test_a_filter_that_asks_a_missing_judge_is_refused(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 10)})
    with pytest.raises(ValueError, match="asks the judge and there is none"):
        audit(store, samples, dataset, filters=Filters(judge_agrees=True))


def test_bits_per_dim_is_limited_on_both_sides(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 10)})
    for limits, accepted in (
        ({"max_bits_per_dim": 1.9}, 0),
        ({"min_bits_per_dim": 2.1}, 0),
        ({"min_bits_per_dim": 1.9, "max_bits_per_dim": 2.1}, 30),
    ):
        assert audit(store, samples, dataset, filters=Filters(**limits))[0]["accepted"] == accepted


def test_an_open_gate_passes_and_a_closed_one_names_the_number(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 50)})
    numbers, _ = audit(store, samples, dataset)
    limits = gate_from(
        {"max": {"near_copy_rate": 0.5}, "class": {"min": {"ink_mean": 1}}}, source="g"
    )
    checks = check_gate(limits, numbers)
    assert len(checks) == 4
    require_passed(checks)
    closed = gate_from({"min": {"copy_distance_ratio": 3.0}}, source="g")
    with pytest.raises(GateError, match=r"copy_distance_ratio is .*, at least 3 is allowed"):
        require_passed(check_gate(closed, numbers))
    by_class = gate_from({"class": {"max": {"ink_mean": 2}}}, source="g")
    with pytest.raises(GateError, match="ink_mean of sea turtle is"):
        require_passed(check_gate(by_class, numbers))


def test_a_number_that_is_no_number_closes_the_gate():
    check = check_gate(gate_from({"max": {"x": 1}}, source="g"), {"x": float("nan"), "classes": {}})
    assert not check[0].is_passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[max]\nnear = 1", "limits 'near', the audit has only copies"),
        ("[most]\ncopies = 1", "expected tables max, min and class"),
        ("[max]\ncopies = true", "the limit of copies must be a number"),
        ("", "has no limits"),
        ("[max", "cannot read"),
    ],
)
def test_a_gate_file_with_a_mistake_says_which(tmp_path, text, message):
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        check_gate(read_gate(path), {"copies": 0.5, "classes": {}})


def test_a_filter_file_with_a_mistake_says_which(tmp_path):
    path = tmp_path / "filters.toml"
    path.write_text("min_ink = 15\ndrop_copies = true\n")
    assert read_filters(path) == Filters(min_ink=15, drop_copies=True)
    with pytest.raises(ValueError, match="no filter 'min_inc'"):
        filters_from({"min_inc": 1}, source="f")
    with pytest.raises(ValueError, match="drop_copies must be true or false, found 1"):
        filters_from({"drop_copies": 1}, source="f")
    with pytest.raises(ValueError, match="min_ink must be a number, found 'x'"):
        filters_from({"min_ink": "x"}, source="f")


def test_filters_that_are_set_are_part_of_the_address():
    assert AuditSpec(filters=Filters(min_ink=0)).to_json()["filters"] == {"min_ink": 0}
    assert dataclasses.replace(AuditSpec(), filters=Filters()).to_json()["filters"] == {}
