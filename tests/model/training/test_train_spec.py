"""Specs, presets and overrides: what is written is what runs, and mistakes are named."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.options import RunOptions
from model.presets import PRESETS, preset
from model.spec import (
    TrainSpec,
    apply_overrides,
    check_fit,
    fit_to_dataset,
    run_digest,
    spec_from_json,
    spec_to_json,
)
from pipelines.schema import Manifest

DATASET = Manifest(
    kind="datasets",
    name="d",
    digest="d" * 64,
    spec={},
    summary={"class_names": ["a", "b"], "image_shape": [28, 28]},
)


@pytest.mark.parametrize("name", PRESETS)
def test_spec_survives_json(name: str) -> None:
    spec = fit_to_dataset(preset(name), DATASET)
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


@pytest.mark.parametrize("name", PRESETS)
def test_preset_states_its_result_first(name: str) -> None:
    assert PRESETS[name].__doc__ is not None
    first = PRESETS[name].__doc__.splitlines()[0]
    assert re.match(r"Test (1\.\d{3} bits/dim;|bits/dim not measured yet)", first)
    assert re.search("minutes|time", first)
    assert re.search("CPU|GPU", first)


def test_presets_learn_with_muon_but_the_articles() -> None:
    assert {name for name in PRESETS if not preset(name).muon_learning_rate} == {"seed"}


def test_seed_preset_is_the_articles_configuration() -> None:
    spec = preset("seed")
    network = spec.network
    sizes = (network.num_resnet, network.num_hierarchies, network.num_filters)
    assert sizes == (5, 3, 128)
    assert (network.num_logistic_mix, network.dropout_p) == (5, 0.5)
    assert (spec.learning_rate, spec.batch_size, spec.num_epochs) == (1e-3, 32, 10)


def test_override_reaches_the_network_and_the_optimizer() -> None:
    spec = apply_overrides(
        preset("tiny"),
        [
            "num_filters=8",
            "learning_rate=2e-4",
            "budget_nimg=1e6",
            "decay=constant",
            "use_weight_norm=false",
            "receptive_field_dims=3,5",
        ],
    )
    assert spec.network.num_filters == 8
    assert spec.learning_rate == 2e-4
    assert spec.budget_nimg == 1_000_000
    assert spec.decay == "constant"
    assert spec.network.use_weight_norm is False
    assert spec.network.receptive_field_dims == (3, 5)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("num_filter=8", "did you mean num_filters"),
        ("batch_size", "expected field=value"),
        ("batch_size=many", "expected a value of type int"),
        ("batch_size=1.5", "expected a value of type int"),
        ("decay=linear", "expected one of constant, cosine"),
        ("use_data_init=1", "expected true or false"),
        ("batch_size=0", "batch_size must be positive"),
        ("beta1=1.5", "beta1 must be within 0 and 1"),
        ("num_epochs=3", "exactly one of budget_nimg and num_epochs"),
        ("num_hierarchies=4", "num_hierarchies"),
        ("network=x", "unknown training field"),
    ],
)
def test_bad_override_is_explained(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_overrides(preset("tiny"), [assignment])


def test_unknown_field_in_json_is_refused() -> None:
    with pytest.raises(ValueError, match="unexpected or missing"):
        spec_from_json(spec_to_json(preset("tiny")) | {"surprise": 1})


def test_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="expected one of tiny, small, seed, large"):
        preset("huge")


def test_fit_takes_shape_and_classes_from_the_dataset() -> None:
    spec = fit_to_dataset(preset("tiny"), DATASET)
    assert spec.network.image_shape == (28, 28, 1)
    assert spec.network.condition.num_classes == 2
    check_fit(spec, DATASET, num_ranks=2)
    with pytest.raises(ValueError, match="use fit_to_dataset"):
        check_fit(preset("tiny"), DATASET, num_ranks=1)


def test_address_changes_with_every_field_and_the_dataset() -> None:
    spec = fit_to_dataset(preset("tiny"), DATASET)
    other = dataclasses.replace(DATASET, digest="e" * 64)
    digests = {
        run_digest(spec, DATASET),
        run_digest(spec, other),
        run_digest(apply_overrides(spec, ["seed=1"]), DATASET),
        run_digest(apply_overrides(spec, ["num_filters=9"]), DATASET),
    }
    assert len(digests) == 4
    renamed = dataclasses.replace(DATASET, name="other")
    assert run_digest(spec, renamed) == run_digest(spec, DATASET)


@given(num_rows=st.integers(1, 10**6), num_epochs=st.floats(0.1, 50), batch=st.integers(1, 512))
def test_budget_is_whole_batches_nearest_to_the_epochs(num_rows, num_epochs, batch) -> None:
    spec = TrainSpec(network=preset("tiny").network, num_epochs=num_epochs, batch_size=batch)
    total = spec.total_nimg(num_rows)
    assert total % batch == 0
    assert total >= batch
    assert abs(total - num_epochs * num_rows) <= max(batch, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "expected auto, cpu, cuda"),
        ({"checkpoint_interval_sec": -1.0}, "checkpoint_interval_sec must not be negative"),
        ({"num_grids": -1}, "num_grids must not be negative"),
        ({"micro_batch_size": -8}, "micro_batch_size must not be negative"),
        ({"work_dir": Path(__file__)}, "is no folder"),
    ],
)
def test_bad_run_option_is_explained(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunOptions(**options)
