"""The bordered convolution and its gradients are torch's own, however they are computed."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_weight

from model.network.kernels import winograd
from model.network.kernels.activations import Border, without_border
from model.network.layers import (
    CroppedTransposedConv,
    Dense,
    bordered_conv,
    vertical_transposed_taps,
    weight_gradient,
)

# Of an input that is not constant anywhere.
NO_BORDER = Border(0, 0, 0)


@pytest.fixture
def without_winograd(monkeypatch) -> None:
    """Compute as where there is no C compiler."""
    monkeypatch.setattr(winograd, "_known_lanes", 0)


def inputs(size: tuple[int, ...], dtype: torch.dtype, *, memory: torch.memory_format):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(size, generator=generator, dtype=dtype)
    return tensor.contiguous(memory_format=memory).requires_grad_()


@pytest.mark.parametrize("taps", [(1, 1), (2, 3), (2, 2), (3, 5)])
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_are_those_of_conv2d(taps, memory, has_bias) -> None:
    x = inputs((3, 64, 9, 8), torch.float64, memory=memory)
    weight = inputs((128, 64, *taps), torch.float64, memory=torch.contiguous_format)
    bias = torch.zeros(128, dtype=torch.float64, requires_grad=True) if has_bias else None
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    ours, theirs = bordered_conv(x, weight, bias, NO_BORDER), F.conv2d(x, weight, bias)
    assert torch.equal(ours, theirs)
    assert type(ours.grad_fn).__name__ != type(theirs.grad_fn).__name__
    gradient = torch.randn_like(ours)
    found = torch.autograd.grad(ours, leaves, gradient)
    expected = torch.autograd.grad(theirs, leaves, gradient)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-11)


def test_float32_is_as_exact_as_torch() -> None:
    x = inputs((16, 64, 29, 30), torch.float32, memory=torch.channels_last).detach()
    gradient = inputs((16, 64, 28, 28), torch.float32, memory=torch.channels_last).detach()
    shape = (64, 64, 2, 3)
    exact = conv2d_weight(x.double(), shape, gradient.double())
    ours = weight_gradient(gradient, x, torch.Size(shape)) - exact
    theirs = conv2d_weight(x, shape, gradient) - exact
    assert ours.square().mean().sqrt() < 2 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("taps", [(2, 3), (3, 3)])
def test_gradient_of_the_input_keeps_the_channels_last(taps) -> None:
    x = inputs((2, 64, 9, 8), torch.float32, memory=torch.channels_last)
    weight = inputs((64, 64, *taps), torch.float32, memory=torch.contiguous_format)
    (found,) = torch.autograd.grad(bordered_conv(x, weight, None, NO_BORDER).sum(), x)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_autocast_is_left_to_torch() -> None:
    x = inputs((1, 64, 4, 4), torch.float32, memory=torch.channels_last)
    weight = inputs((64, 64, 2, 2), torch.float32, memory=torch.contiguous_format)
    with torch.autocast("cpu", torch.bfloat16):
        y = bordered_conv(x, weight, None, NO_BORDER)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_few_channels_and_no_gradients_are_left_to_torch(without_winograd) -> None:
    x, weight = torch.zeros(1, 16, 4, 4), torch.zeros(64, 16, 2, 2, requires_grad=True)
    assert "Convolution" in type(bordered_conv(x, weight, None, NO_BORDER).grad_fn).__name__
    with torch.no_grad():
        y = bordered_conv(torch.zeros(1, 64, 4, 4), torch.zeros(64, 64, 2, 2), None, NO_BORDER)
    assert y.grad_fn is None


@pytest.mark.parametrize("taps", [(2, 2), (3, 2)])
def test_only_wanted_gradients_are_computed(taps) -> None:
    x = torch.randn(1, 64, 4, 4)
    weight = torch.randn(64, 64, *taps, requires_grad=True)
    bordered_conv(x, weight, None, NO_BORDER).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dense_layers_leave_out_the_borders_of_their_inputs(dtype) -> None:
    borders = Border(1, 1, 1), Border(1, 0, 2)
    layer = Dense(48, 16, *borders, has_gain=True).to(dtype)
    memory = torch.channels_last
    inside = [inputs((2, channels, 5, 4), dtype, memory=memory) for channels in (16, 32)]
    around = [
        F.pad(x, (border.left, border.right, border.top, 0), value=torch.nan)
        for x, border in zip(inside, borders, strict=True)
    ]
    found = layer(*around)
    expected = F.conv2d(torch.cat(inside, 1).float(), layer.weight().float(), layer.bias.float())
    exact = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=exact, atol=exact)


def test_gradients_of_dense_layers_are_zero_in_the_borders() -> None:
    x = inputs((2, 16, 6, 6), torch.bfloat16, memory=torch.channels_last)
    border = Border(1, 1, 1)
    layer = Dense(16, 8, border, has_gain=False).bfloat16()
    y = layer(x)
    gradient = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, layer.v, layer.bias), gradient)
    exact_x = without_border(x.detach().double(), border).requires_grad_()
    weight, bias = (part.detach().double().requires_grad_() for part in (layer.v, layer.bias))
    exact_y = F.conv2d(exact_x, weight, bias)
    exact = torch.autograd.grad(exact_y, (exact_x, weight, bias), gradient.double())
    torch.testing.assert_close(
        without_border(found[0], border).double(), exact[0], rtol=2e-2, atol=2e-2
    )
    for left, right in zip(found[1:], exact[1:], strict=True):
        torch.testing.assert_close(left.double(), right, rtol=2e-2, atol=2e-1)
    without_border(found[0], border).zero_()
    assert found[0].count_nonzero() == 0


def test_a_transposed_layer_keeps_the_precision_of_autocast() -> None:
    layer = CroppedTransposedConv(16, 16, vertical_transposed_taps((3, 3)), has_gain=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(1, 16, 4, 4))
    assert y.dtype == torch.bfloat16
