"""The likelihoods are probabilities, and float32 computes them as promised."""

import math

import families
import pytest
import torch
from torch import Tensor

from model.network import precision
from model.network.config import PixelCNNConfig
from model.network.likelihood import (
    LevelLogits,
    LogisticMixture,
    conditional_locs,
    logistic_log_prob,
    num_params,
    pick_option,
    read_params,
    to_unit,
)

NUM_CASES = 200_000


def random_cases(low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return levels, locs and scales; log-scales are uniform between low and high."""
    torch.manual_seed(0)
    level = to_unit(torch.randint(0, 256, (NUM_CASES,)).float(), 0, 255)
    loc = torch.rand(NUM_CASES) * 2.4 - 1.2
    return level, loc, torch.exp(torch.rand(NUM_CASES) * (high - low) + low)


def largest_error(level: Tensor, loc: Tensor, scale: Tensor) -> float:
    half_bin = 1 / 255
    exact_level = to_unit(((level.double() + 1) * 127.5).round(), 0, 255)
    exact = logistic_log_prob(exact_level, loc.double(), scale.double(), half_bin=half_bin)
    found = logistic_log_prob(level, loc, scale, half_bin=half_bin)
    return (found - exact).abs().max().item()


def test_float32_is_within_5e_4_nats_in_narrow_scales():
    assert largest_error(*random_cases(-7.0, 0.0)) <= 5e-4


def test_float32_is_within_2e_6_nats_in_wide_scales():
    assert largest_error(*random_cases(0.0, 8.0)) <= 2e-6


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (-7, 8), (0, 250)])
def test_logistic_mixture_sums_to_one_over_all_levels(low: int, high: int):
    config = PixelCNNConfig(num_logistic_mix=4, low=low, high=high)
    raw = torch.randn(5, num_params(config), 3, 2, dtype=torch.float64) * 3
    params = read_params(raw, config)
    levels = torch.arange(low, high + 1, dtype=torch.float64)
    values = levels[:, None, None, None, None].expand(-1, 5, 1, 3, 2)
    total = torch.stack([params.log_prob(value) for value in values]).exp().sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    each = torch.stack([params.log_prob(value) for value in values], dim=1)
    # Beyond what a float holds a level is only known to be unlikely.
    found = params.level_log_probs()
    is_known = each > -700
    torch.testing.assert_close(found[is_known], each[is_known], rtol=1e-12, atol=1e-12)
    assert (found[~is_known] < -690).all()


@pytest.mark.parametrize("head", ["logistic", "softmax"])
def test_levels_at_a_temperature_are_as_likely_as_they_are_drawn(head: str):
    config = PixelCNNConfig(num_logistic_mix=2, high=7, head=head)
    params = read_params(torch.randn(1, num_params(config), 1, 1, dtype=torch.float64), config)
    # A fine grid over the unit square integrates both uniforms.
    side = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    grid = torch.cartesian_prod(side, side)[:, : 1 if head == "softmax" else 2]
    many = params._replace(
        **{
            name: part.expand(len(grid), *part.shape[1:])
            for name, part in params._asdict().items()
            if isinstance(part, Tensor)
        }
    )
    drawn = many.draw(grid[:, :, None, None], temperature=0.4).flatten().long()
    found = torch.bincount(drawn, minlength=8) / len(grid)
    expected = params.level_log_probs(temperature=0.4).exp().flatten()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-3)


def test_color_mixture_sums_to_one_over_all_colors():
    config = PixelCNNConfig(image_shape=(28, 28, 3), num_logistic_mix=2, high=5)
    torch.manual_seed(0)
    params = read_params(torch.randn(1, num_params(config), 1, 1, dtype=torch.float64), config)
    levels = torch.arange(6, dtype=torch.float64)
    colors = torch.cartesian_prod(levels, levels, levels)[:, None, :, None, None]
    total = torch.stack([params.log_prob(color) for color in colors]).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_softmax_sums_to_one_and_reads_levels_from_low():
    params = LevelLogits(torch.randn(2, 4, 1, 1, dtype=torch.float64), low=-1)
    values = [torch.full((2, 1, 1, 1), value, dtype=torch.float64) for value in (-1, 0, 1, 2)]
    log_probs = torch.stack([params.log_prob(value) for value in values])
    torch.testing.assert_close(log_probs[:, :, 0, 0].T, params.logits[..., 0, 0].log_softmax(1))


def test_identity_equals_the_difference_of_cdfs():
    level, loc, scale = (x.double() for x in random_cases(-2.0, 1.0))
    interior = (level > -0.99) & (level < 0.99)
    level, loc, scale = level[interior], loc[interior], scale[interior]
    difference = torch.sigmoid((level - loc + 1 / 255) / scale) - torch.sigmoid(
        (level - loc - 1 / 255) / scale
    )
    found = logistic_log_prob(level, loc, scale, half_bin=1 / 255)
    torch.testing.assert_close(found, difference.log(), rtol=1e-9, atol=1e-9)


def test_channels_depend_on_earlier_ones_in_the_order_of_pairs():
    locs = torch.zeros(1, 1, 3, 1, 1)
    coeffs = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1, 1)
    scaled = torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1)
    shifted = conditional_locs(locs, coeffs, scaled).flatten()
    assert shifted.tolist() == [0.0, 0.5, 5.0 + 25.0]


def extreme_mixture(num_mixtures: int, size: float) -> Tensor:
    """Return raw outputs as large as `size`, in every combination of signs."""
    torch.manual_seed(0)
    config = PixelCNNConfig(num_logistic_mix=num_mixtures)
    return torch.randn(8, num_params(config), 6, 6).sign() * size


@pytest.mark.parametrize("num_mixtures", [1, 10, 30])
@pytest.mark.parametrize("size", [1.0, 80.0, 1e4])
def test_values_and_gradients_are_finite(num_mixtures: int, size: float):
    config = PixelCNNConfig(num_logistic_mix=num_mixtures)
    raw = extreme_mixture(num_mixtures, size).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = torch.randint(0, 256, (8, 1, 6, 6)).float()
        log_prob = read_params(raw, config).log_prob(value)
    log_prob.sum().backward()
    assert log_prob.dtype == torch.float32
    assert log_prob.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("num_mixtures", [5, 30])
def test_network_of_bfloat16_weights_has_finite_gradients(num_mixtures: int):
    """Every product in bfloat16, on any CPU; autocast is left out where it is only emulated."""
    config = PixelCNNConfig(
        image_shape=(8, 8, 1), num_resnet=1, num_filters=8, num_logistic_mix=num_mixtures
    )
    model = families.build(config, dtype=torch.bfloat16)
    log_prob = model(families.images(config))
    log_prob.sum().backward()
    assert log_prob.dtype == torch.float32
    assert log_prob.isfinite().all()
    exact = families.build(config, dtype=torch.float32)(families.images(config))
    torch.testing.assert_close(log_prob, exact, rtol=0.05, atol=0)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.fixture
def _cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autocast be as where the CPU has bfloat16; here it may be emulated."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)


@pytest.mark.usefixtures("_cpu_with_bfloat16")
@pytest.mark.parametrize("num_mixtures", [1, 5, 30])
def test_network_in_bfloat16_autocast_has_finite_gradients(num_mixtures: int):
    config = PixelCNNConfig(
        image_shape=(8, 8, 1), num_resnet=1, num_filters=8, num_logistic_mix=num_mixtures
    )
    model, value = families.build(config, dtype=torch.float32), families.images(config)
    exact = model(value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = model(value)
    # Otherwise nothing was rounded, and the rest says nothing of bfloat16.
    assert not torch.equal(log_prob, exact)
    torch.testing.assert_close(log_prob, exact, rtol=0.05, atol=0)
    log_prob.sum().backward()
    assert log_prob.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_autocast_is_left_out_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    model, value = (
        families.build(families.TINY, dtype=torch.float32),
        families.images(families.TINY),
    )
    exact = model(value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(value), exact)


@pytest.mark.parametrize(("has_bfloat16", "says"), [(False, 1), (True, 0)])
def test_emulated_sampling_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_bfloat16: bool, says: int
):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has_bfloat16)
    precision._warn_once.cache_clear()
    for dtype in (torch.bfloat16, torch.bfloat16, torch.float32):
        precision.warn_if_emulated(dtype, torch.device("cpu"))
    assert len(caplog.messages) == says
    assert not says or "emulates it, up to 50 times slower" in caplog.messages[0]


def test_option_is_picked_by_cumulative_probability():
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).view(1, 3, 1, 1)
    picks = [pick_option(logits, torch.full((1, 1, 1), u)).item() for u in (0.1, 0.3, 0.69, 0.71)]
    assert picks == [0, 1, 1, 2]


def test_bits_per_dim_of_the_uniform_distribution_is_eight():
    config = PixelCNNConfig(image_shape=(4, 4, 1), num_hierarchies=1, num_resnet=1, head="softmax")
    model = families.build(config)
    torch.nn.init.zeros_(model.network.output.g)
    torch.nn.init.zeros_(model.network.output.bias)
    bits = model.bits_per_dim(families.images(config))
    torch.testing.assert_close(bits, torch.full_like(bits, 8.0))


def test_draw_inverts_the_cdf():
    """The smallest uniform number that gives a value is the probability of all below it."""
    mixture = LogisticMixture(
        logits=torch.zeros(1, 1, 1, 1, dtype=torch.float64),
        locs=torch.full((1, 1, 1, 1, 1), 0.1, dtype=torch.float64),
        scales=torch.full((1, 1, 1, 1, 1), 0.3, dtype=torch.float64),
        coeffs=None,
        low=0,
        high=15,
    )
    below = 0.0
    for level in range(16):
        probability = mixture.log_prob(torch.full((1, 1, 1, 1), float(level)).double()).exp()
        for uniform in (below + 1e-9, below + probability.item() - 1e-9):
            noise = torch.tensor([0.5, uniform], dtype=torch.float64).view(1, 2, 1, 1)
            assert mixture.draw(noise).item() == level
        below += probability.item()
    assert math.isclose(below, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_autocast_is_decided_within_one_graph(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool):
    """torch.compile must not trace what looks at the CPU, nor break the network for it."""
    monkeypatch.setattr(precision, "_CPU_HAS_BFLOAT16", has_bfloat16)
    config = families.FAMILIES["one level"]
    model, value = families.build(config, dtype=torch.float32), families.images(config)
    exact = model(value)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, eager = compiled(value), model(value)
    # What is compiled has other kernels than what is eager (model.network.kernels.activations): they round alike
    # at most, to 24 bits where autocast is left out, to 8 where it is not.
    rounding = 1e-2 if has_bfloat16 else 1e-5
    torch.testing.assert_close(found, eager, rtol=rounding, atol=0)
    is_rounded_to_bfloat16 = (found - exact).abs().max() > 1e-5 * exact.abs().max()
    assert is_rounded_to_bfloat16 == has_bfloat16
