"""Schedules as functions of drawings seen, the weight average, clipping."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network.config import PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.training.optimizer import WeightAverage, average_weight, clip_gradients, learning_rate
from model.training.spec import TrainSpec

NETWORK = PixelCNNConfig(
    image_shape=(4, 4, 1), num_resnet=1, num_hierarchies=1, num_filters=2, num_logistic_mix=1
)
SPEC = TrainSpec(
    network=NETWORK,
    budget_nimg=1_000,
    batch_size=10,
    learning_rate=0.1,
    warmup_nimg=100,
    decay="cosine",
    final_ratio=0.2,
)


def rate(seen_nimg: int, spec: TrainSpec = SPEC) -> float:
    return learning_rate(spec, seen_nimg=seen_nimg, total_nimg=1_000)


def test_rate_warms_up_linearly_peaks_and_falls_to_its_floor() -> None:
    assert rate(0) == pytest.approx(0.01, rel=1e-3)
    assert rate(40) == pytest.approx(0.05, rel=0.01)
    assert rate(1_000) == pytest.approx(0.02)
    constant = dataclasses.replace(SPEC, decay="constant")
    assert rate(900, constant) == 0.1


@given(seen=st.integers(0, 1_000), batch_size=st.sampled_from([1, 10, 100]))
def test_rate_hardly_depends_on_the_batch_size_after_warmup(seen: int, batch_size: int) -> None:
    spec = dataclasses.replace(SPEC, batch_size=batch_size, warmup_nimg=0)
    assert rate(seen, spec) == pytest.approx(rate(seen, dataclasses.replace(SPEC, warmup_nimg=0)))


@given(batches=st.integers(1, 20))
def test_average_of_many_small_batches_equals_that_of_one_large(batches: int) -> None:
    spec = dataclasses.replace(SPEC, ema_rampup_ratio=1e9, ema_halflife_nimg=500)
    small = average_weight(dataclasses.replace(spec, batch_size=10), seen_nimg=1)
    large = average_weight(dataclasses.replace(spec, batch_size=10 * batches), seen_nimg=1)
    assert math.isclose(small**batches, large)


def test_average_forgets_at_its_halflife_and_faster_when_young() -> None:
    spec = dataclasses.replace(SPEC, batch_size=500, ema_halflife_nimg=500)
    assert average_weight(spec, seen_nimg=10**6) == 0.5
    assert average_weight(spec, seen_nimg=0) == 0.0
    assert average_weight(spec, seen_nimg=1_000) < 0.01


def test_weight_average_is_the_recursion() -> None:
    torch.manual_seed(0)
    network = PixelCNN(NETWORK)
    average = WeightAverage(network)
    expected = [p.detach().clone() for p in network.parameters()]
    for _ in range(3):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(0.9)
        expected = [
            0.9 * e + 0.1 * p.detach() for e, p in zip(expected, network.parameters(), strict=True)
        ]
    for found, value in zip(average.network.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), value)
    assert not any(p.requires_grad for p in average.network.parameters())


def test_clipping_scales_all_gradients_together_and_returns_their_norm() -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, max_norm=1.0) == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0])
    assert parameters[1].grad.tolist() == pytest.approx([0.8])
    assert clip_gradients(parameters, max_norm=0.0) == pytest.approx(1.0)


def test_clipping_leaves_gradients_that_are_not_finite_as_they_are() -> None:
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.tensor([1.0, math.inf])
    assert math.isinf(clip_gradients([parameter], max_norm=1.0))
    assert parameter.grad[0] == 1.0
