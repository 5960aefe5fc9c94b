"""The fused activation is the composition of elu, concatenation, dropout and padding."""

import pytest
import torch
import torch.nn.functional as F

from model.activations import Border, bordered_activation, concat_elu, without_border

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


def test_gradient_check():
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: bordered_activation(x, "concat_elu", Border(1, 0, 1)), (x,)
    )


@pytest.mark.parametrize("name", ["concat_elu", "elu", "relu"])
def test_half_precision_is_as_exact_as_its_digits(name: str):
    x = pixels(torch.float32)
    border = Border(1, 1, 1)
    half = bordered_activation(x.bfloat16(), name, border)
    assert half.dtype == torch.bfloat16
    expected = bordered_activation(x.bfloat16().float(), name, border)
    torch.testing.assert_close(half.float(), expected, rtol=2**-8, atol=1e-6)
