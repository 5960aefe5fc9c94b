"""Filters reject what they say, the numbers are of what is left, and the gate judges those."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from walks import drawings, publish

from model.audit.filters import ACCEPTED, REASONS, Filters, filters_from, read_filters
from model.audit.gate import GateError, check_gate, gate_from, read_gate, require_passed
from model.audit.nearness import GROUP_BYTES, later_of_pairs
from model.audit.run import AuditSpec, audit_samples, kept_rows, read_audit
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


def rejected(numbers: dict) -> dict[str, int]:
    """Return how many drawings were rejected for each reason that rejected any."""
    total: dict[str, int] = {}
    for counts in numbers["reasons"].values():
        for reason in set(counts) - {"accepted"}:
            total[reason] = total.get(reason, 0) + counts[reason]
    return total


def kept(store: Store, made: Manifest, samples: Manifest) -> np.ndarray:
    masks = kept_rows(made, samples)
    return np.concatenate([np.load(store.local_path(mask.path)) for mask in masks.values()])


def test_filters_count_each_rejection_once_and_masks_follow(store, dataset):
    images, labels = drawings(7, 30)
    images = images.copy()
    images[0] = 0
    images[1] = drawings(1, 200)[0][np.flatnonzero(drawings(1, 200)[1] == labels[1])[0]]
    images[3] = images[2]
    samples = publish(store, "samples", {"train": (images, labels)})
    filters = Filters(min_ink=5, drop_copies=True, drop_duplicates=True)
    numbers, made = audit(store, samples, dataset, filters=filters)
    assert rejected(numbers) == {"too_little_ink": 1, "copy_of_training_drawing": 1, "duplicate": 1}
    assert numbers["accepted"] == 87
    assert sum(mask.rows for mask in kept_rows(made, samples).values()) == 87
    assert np.flatnonzero(~kept(store, made, samples)).tolist() == [0, 1, 3]
    assert ACCEPTED not in range(len(REASONS))


def test_the_numbers_are_of_accepted_drawings_and_the_gate_judges_those(store, dataset):
    images, labels = (each.copy() for each in drawings(4, 40))
    training, training_labels = drawings(1, 200)
    bees = np.flatnonzero(labels == 0)
    images[bees[:20]] = training[training_labels == 0][:20]
    images[np.flatnonzero(labels == 1)[:5]] = 0
    samples = publish(store, "samples", {"train": (images, labels)})
    limits = gate_from({"max": {"exact_copy_rate": 0.0, "blank_rate": 0.0}}, source="g")

    raw, _ = audit(store, samples, dataset)
    assert raw["exact_copy_rate"] == 20 / 120
    with pytest.raises(GateError, match=r"exact_copy_rate is 0.166667, at most 0 is allowed"):
        require_passed(check_gate(limits, raw))

    clean, _ = audit(store, samples, dataset, filters=Filters(min_ink=5, drop_copies=True))
    require_passed(check_gate(limits, clean))
    assert (clean["num_drawings"], clean["accepted"], clean["drawn"]) == (95, 95, 120)
    assert clean["classes"]["bee"]["num_drawings"] == 20
    assert clean["classes"]["bee"]["near_copy_rate"] < 0.2
    assert all(pair["distance"] > 0 for pair in clean["closest"])
    assert clean["before_filters"]["exact_copy_rate"] == raw["exact_copy_rate"]
    assert clean["before_filters"]["classes"]["bee"] == raw["classes"]["bee"]


def test_near_copies_and_near_duplicates_are_rejected_with_their_reasons(store, dataset):
    images, labels = (each.copy() for each in drawings(4, 30))
    training, training_labels = drawings(1, 200)
    bees, suns = np.flatnonzero(labels == 0), np.flatnonzero(labels == 2)
    images[bees[:6]] = training[training_labels == 0][-6:]
    images[bees[:6], 27, 27] ^= 255  # one pixel away from a drawing
    images[suns[5:8]] = images[suns[4]]
    images[suns[5], 0, 0] = 200  # less than a pixel from each other
    images[suns[6], 0, 1] = 200
    samples = publish(store, "samples", {"train": (images, labels)}, shards=3)
    filters = Filters(drop_duplicates=True, min_copy_distance=1.5, min_twin_distance=1.5)
    numbers, made = audit(store, samples, dataset, filters=filters)
    assert rejected(numbers) == {"near_copy": 6, "near_duplicate": 2, "duplicate": 1}
    gone = np.flatnonzero(~kept(store, made, samples)).tolist()
    assert gone == sorted([*bees[:6].tolist(), *suns[5:8].tolist()])
    assert numbers["accepted"] == 81
    assert numbers["classes"]["bee"]["num_drawings"] == 24


def test_classes_in_groups_give_what_all_at_once_give(store, dataset, monkeypatch):
    samples = publish(store, "samples", {"train": drawings(4, 30)}, shards=3)
    filters = Filters(min_copy_distance=5.0, min_twin_distance=6.0)
    whole = audit(store, samples, dataset, filters=filters)[0]
    assert {"near_copy", "near_duplicate"} <= set(rejected(whole))
    assert GROUP_BYTES > 90 * 784
    monkeypatch.setattr("model.audit.nearness.GROUP_BYTES", 70 * 784)  # two classes of 30
    other = open_store(str(Path(store.url) / "other"))
    data = publish(other, "datasets", {"train": drawings(1, 200), "test": drawings(2, 100)})
    again = publish(other, "samples", {"train": drawings(4, 30)}, shards=3)
    assert audit(other, again, data, filters=filters)[0] == whole


def test_of_a_cluster_the_first_stays_and_a_chain_goes_on():
    images = np.zeros((1030, 6, 6), np.uint8)
    images[:, 0] = np.random.default_rng(0).integers(0, 2, (1030, 6), np.uint8) * 255
    images[:, 1:] = (np.arange(1030)[:, None, None] % 256).astype(np.uint8)
    flat = images.reshape(1030, -1) / 255.0
    stay: list[int] = []
    for place, row in enumerate(flat):
        if not stay or np.linalg.norm(flat[stay] - row, axis=1).min() >= 0.4:
            stay.append(place)
    assert np.flatnonzero(~later_of_pairs(images, below=0.4)).tolist() == stay
    assert 10 < len(stay) < 1000


def test_a_filter_that_asks_a_missing_judge_is_refused(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 10)})
    with pytest.raises(ValueError, match="needs a classifier, and none is given"):
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
    limits = gate_from({"max": {"x": 1}}, source="g")
    with pytest.raises(ValueError, match="limits 'x', the audit has only y"):
        check_gate(limits, {"x": float("nan"), "y": 1, "classes": {}})
    check = check_gate(limits, {"x": float("nan"), "num_drawings": 0, "classes": {}})
    assert not check[0].is_passed


def test_an_empty_class_closes_a_gate_on_classes(store, dataset):
    images, labels = (each.copy() for each in drawings(4, 20))
    images[labels == 1] = 0
    samples = publish(store, "samples", {"train": (images, labels)})
    numbers, _ = audit(store, samples, dataset, filters=Filters(min_ink=5))
    assert numbers["classes"]["sea turtle"]["num_drawings"] == 0
    limits = gate_from({"class": {"max": {"near_copy_rate": 1.0}}}, source="g")
    checks = check_gate(limits, numbers)
    assert {check.subject: check.is_passed for check in checks} == {
        "bee": True, "sea turtle": False, "sun": True
    }  # fmt: skip
    with pytest.raises(GateError, match="near_copy_rate of sea turtle is not to be had"):
        require_passed(checks)


def test_filters_that_leave_nothing_close_every_gate(store, dataset):
    samples = publish(store, "samples", {"train": drawings(4, 20)})
    numbers, made = audit(store, samples, dataset, filters=Filters(max_ink=1))
    assert numbers["num_drawings"] == numbers["accepted"] == 0
    limits = gate_from({"max": {"near_copy_rate": 1.0, "exact_copy_rate": 1.0}}, source="g")
    assert not any(check.is_passed for check in check_gate(limits, numbers))
    assert not kept(store, made, samples).any()


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
