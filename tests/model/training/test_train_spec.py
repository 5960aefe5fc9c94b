"""What may be set of a spec, and what is refused before anything is trained."""

import dataclasses

import pytest

from model.training.presets import preset
from model.training.spec import apply_overrides, check_fit, spec_from_json, spec_to_json


def test_a_budget_of_drawings_takes_the_place_of_epochs_in_any_order() -> None:
    for order in (1, -1):
        wanted = ["num_epochs=0", "budget_nimg=3_200"][::order]
        spec = apply_overrides(preset("article"), wanted)
        assert spec.total_nimg(10**6) == 3_200
    with pytest.raises(ValueError, match=r"exactly one of .*: set the other to 0"):
        apply_overrides(preset("article"), ["budget_nimg=3200"])


def test_every_digit_of_a_seed_counts() -> None:
    assert apply_overrides(preset("tiny"), ["seed=1234567890123456789"]).seed == 1234567890123456789
    assert apply_overrides(preset("tiny"), ["seed=1e6"]).seed == 10**6


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=0.5", "expected a value of type int"),
        (f"seed={2**63}", "seed must be below"),
        ("num_epochs=inf", "expected a value of type float"),
        ("learning_rate=nan", "expected a value of type float"),
        ("precision=bf16", "expected one of float32, float64, bfloat16"),
        ("widht=3", "unknown training field 'widht'"),
        ("seed", "expected field=value"),
    ],
)
def test_what_cannot_be_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_overrides(preset("tiny"), [assignment])


@pytest.mark.parametrize(("name", "value"), [("precision", "bf16"), ("decay", "cosin")])
def test_a_file_is_held_to_the_same_choices(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        spec_from_json(spec_to_json(preset("tiny")) | {name: value})


def test_network_that_does_not_know_the_pixels_is_refused(store, make_dataset, small_spec) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset)
    dark = dataclasses.replace(spec, network=dataclasses.replace(spec.network, high=15))
    with pytest.raises(ValueError, match="pixels are 0 to 255, the network's range is 0 to 15"):
        check_fit(dark, dataset, num_ranks=1)
