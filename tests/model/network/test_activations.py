"""The fused activation is the composition of elu, concatenation, dropout and padding."""

import pytest
import torch
import torch.nn.functional as F

from model.network.kernels import native
from model.network.kernels.activations import (
    Border,
    bordered_activation,
    concat_elu,
    gated_residual,
    without_border,
)

BORDERS = [Border(1, 1, 1), Border(1, 0, 1), Border(2, 2, 3), Border(0, 0, 0)]


def pixels(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return values around 0, 0 itself among them, in channels-last order."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=dtype) * 2
    x[0, 0, 0] = torch.tensor([0.0, -1e-7, 1e-7, 40.0, -40.0])
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("with_keep", [True, False])
def test_values_and_gradients_are_those_of_the_composition(border: Border, with_keep: bool):
    keep = (torch.rand(2, 6, 4, 5) < 0.5).double() * 2 if with_keep else None
    found_at, expected_at = pixels().requires_grad_(), pixels().requires_grad_()
    found = bordered_activation(found_at, "concat_elu", border, keep)
    active = concat_elu(expected_at) * (1.0 if keep is None else keep)
    expected = F.pad(active, (border.left, border.right, border.top, 0))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(without_border(found, border), active)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(found_at.grad, expected_at.grad)


def channels_last(*size: int, scale: float = 3.0) -> torch.Tensor:
    """Return float32 numbers with 0 and large ones among them, as many channels as C serves."""
    torch.manual_seed(1)
    x = torch.randn(size) * scale
    x[0, :6, 0, 0] = torch.tensor([0.0, -0.0, 1e-7, -1e-7, 95.0, -95.0])
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("has_compiler", [True, False])
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("with_keep", [True, False])
def test_float32_is_as_exact_as_its_digits(border, with_keep, has_compiler, monkeypatch):
    if not has_compiler:
        monkeypatch.setattr(native, "library", lambda name: None)
    found_at = channels_last(2, 32, 5, 3).requires_grad_()
    exact_at = found_at.detach().double().requires_grad_()
    keep = (torch.rand(2, 64, 5, 3) < 0.5).float() * 2 if with_keep else None
    found = bordered_activation(found_at, "concat_elu", border, keep)
    active = concat_elu(exact_at) * (1.0 if keep is None else keep.double())
    exact = F.pad(active, (border.left, border.right, border.top, 0))
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=3e-7)
    weights = torch.randn(exact.shape)
    (found * weights).sum().backward()
    (exact * weights.double()).sum().backward()
    torch.testing.assert_close(found_at.grad.double(), exact_at.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("has_compiler", [True, False])
def test_gated_residual_of_float32_is_as_exact_as_its_digits(has_compiler, monkeypatch):
    if not has_compiler:
        monkeypatch.setattr(native, "library", lambda name: None)
    x, gated = channels_last(2, 32, 5, 3), channels_last(2, 64, 5, 3, scale=20.0)
    found_at = [part.requires_grad_() for part in (x, gated)]
    exact_at = [part.detach().double().requires_grad_() for part in found_at]
    found, exact = gated_residual(*found_at), gated_residual(*exact_at)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    weights = torch.randn(exact.shape)
    into = torch.autograd.grad(found, found_at, weights)
    exactly = torch.autograd.grad(exact, exact_at, weights.double())
    for left, right in zip(into, exactly, strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_passed_on(dtype: torch.dtype):
    x = channels_last(1, 16, 2, 2).to(dtype)
    x[0, :3, 1, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    found = bordered_activation(x, "concat_elu", Border(0, 0, 0))[0, :, 1, 1]
    expected = concat_elu(x)[0, :, 1, 1]
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_gradient_check():
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: bordered_activation(x, "concat_elu", Border(1, 0, 1)), (x,)
    )


def half_and_exact(*size: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bfloat16 numbers and the same in float64, both leaves."""
    half = channels_last(*size, scale=scale).bfloat16()
    return half.requires_grad_(), half.detach().double().requires_grad_()


# Half a unit in the last place of 8 bits: one rounding, at the end, of what float32 found.
ROUNDED_ONCE = {"rtol": 2**-8 * 1.001, "atol": 1e-6}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("with_keep", [True, False])
def test_bfloat16_is_rounded_once(border, with_keep):
    found_at, exact_at = half_and_exact(2, 32, 5, 3, scale=3.0)
    keep = (torch.rand(2, 64, 5, 3) < 0.5).bfloat16() * 2 if with_keep else None
    found = bordered_activation(found_at, "concat_elu", border, keep)
    active = concat_elu(exact_at) * (1.0 if keep is None else keep.double())
    exact = F.pad(active, (border.left, border.right, border.top, 0))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, **ROUNDED_ONCE)
    weights = torch.randn(exact.shape).bfloat16()
    (into,) = torch.autograd.grad(found, found_at, weights)
    (exactly,) = torch.autograd.grad(exact, exact_at, weights.double())
    torch.testing.assert_close(into.double(), exactly, **ROUNDED_ONCE)


def test_gated_residual_of_bfloat16_is_rounded_once():
    parts = half_and_exact(2, 32, 5, 3, scale=3.0), half_and_exact(2, 64, 5, 3, scale=20.0)
    found_at, exact_at = zip(*parts, strict=True)
    found, exact = gated_residual(*found_at), gated_residual(*exact_at)
    torch.testing.assert_close(found.double(), exact, **ROUNDED_ONCE)
    weights = torch.randn(exact.shape).bfloat16()
    into = torch.autograd.grad(found, found_at, weights)
    exactly = torch.autograd.grad(exact, exact_at, weights.double())
    for left, right in zip(into, exactly, strict=True):
        # Where the gate is nearly open, what float32 leaves of 1 - gate.
        torch.testing.assert_close(left.double(), right, rtol=2**-8 * 1.001, atol=1e-5)


@pytest.mark.parametrize("name", ["concat_elu", "elu", "relu"])
def test_half_precision_is_as_exact_as_its_digits(name: str):
    x = pixels(torch.float32)
    border = Border(1, 1, 1)
    half = bordered_activation(x.bfloat16(), name, border)
    assert half.dtype == torch.bfloat16
    expected = bordered_activation(x.bfloat16().float(), name, border)
    torch.testing.assert_close(half.float(), expected, rtol=2**-8, atol=1e-6)
