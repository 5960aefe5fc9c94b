"""What a model is conditioned on can be chosen for training, as far as one label states it."""

import math

import pytest

from model.network.weights import open_model
from model.options import RunOptions
from model.training.presets import preset
from model.training.spec import apply_overrides, fit_to_dataset
from model.training.train import train_model

KINDS = ("none", "embedding", "embedding_map", "one_hot", "scalar")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_one_label_trains(store, make_dataset, small_spec, kind: str) -> None:
    dataset = make_dataset(store)
    chosen = apply_overrides(small_spec(dataset, "budget_nimg=8"), [f"condition.kind={kind}"])
    spec = fit_to_dataset(chosen, dataset)
    model = train_model(spec, dataset, store, "m", options=RunOptions(num_threads=1))
    condition = open_model(store, model).config.condition
    assert condition.kind == kind
    assert condition.num_classes == (None if kind in ("none", "scalar") else 3)
    assert math.isfinite(model.summary["test_bits_per_dim"])


def test_a_kind_may_be_changed_and_changed_back() -> None:
    spec = preset("tiny")
    there = apply_overrides(spec, ["condition.kind=scalar", "condition.embedding_dim=8"])
    assert there.network.condition.embedding_dim == 8
    kind = spec.network.condition.kind
    dim = spec.network.condition.embedding_dim
    again = [f"condition.kind={kind}", f"condition.embedding_dim={dim}"]
    assert there.network.condition.dropout_p == spec.network.condition.dropout_p
    assert apply_overrides(there, again) == spec


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("condition.kind=spatial", "one label each, expected one of none, embedding"),
        ("condition.kind=label", "expected one of none, embedding"),
        ("condition.embedding_dim=0", "embedding_dim must be at least 1"),
        ("condition.kid=none", "did you mean condition.kind"),
        ("condition.dropout_p=1", r"condition.dropout_p must be in \[0, 1\), found 1"),
    ],
)
def test_other_conditions_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_overrides(preset("tiny"), [assignment])
