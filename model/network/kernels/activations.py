"""Activations of residual blocks, written into a buffer with the convolution's zero padding.

`concat_elu` of Salimans et al. 2017 is concat(elu(x), elu(-x)). Both halves need the same
exponential, since with e = exp(-|x|) - 1

    elu(x) = max(x, e),  elu(-x) = max(-x, e)

so a CPU computes both at once, directly into a padded channels-last buffer. Backward derives the
slope from the result, which the convolution saves anyway: min(1, elu(x) + 1), without an
exponential. `gated_residual` writes the gradient of both halves into one buffer for the same
reason. In float32 and bfloat16 each is one pass of activations.c if model.network.kernels.native
can compile it. bfloat16 slopes are computed from x: elu(x) + 1 would lose small ones. Under
torch.compile, and for bfloat16 without the C code, both are plain compositions, which a compiler
fuses.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model.network.kernels import native
from model.network.kernels.native import channels_last

# The longest vector in activations.c.
_LANES = 16


class Border(NamedTuple):
    """Rows and columns of zero padding; none below, where no convolution reads."""

    left: int
    right: int
    top: int


def concat_elu(
    x: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels*2 height width"]:
    """Return concat(elu(x), elu(-x)) along the channels."""
    return F.elu(torch.cat((x, -x), dim=1))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "concat_elu": concat_elu,
    "elu": F.elu,
    "relu": F.relu,
}


def activation_width(name: str) -> int:
    """Return the number of output channels of an activation per input channel."""
    return 2 if name == "concat_elu" else 1


def bordered_activation(
    x: Float[Tensor, "batch channels height width"],
    name: str,
    border: Border,
    keep: Tensor | None = None,
) -> Float[Tensor, "batch wide rows cols"]:
    """Return the activation of x, times dropout's `keep` if given, with zero padding."""
    if name == "concat_elu" and (is_plain_cpu(x) or _library(x, x.shape[1]) is not None):
        return _BorderedConcatElu.apply(x, border, keep)
    active = ACTIVATIONS[name](x)
    if keep is not None:
        active = active * keep
    return F.pad(active, (border.left, border.right, border.top, 0))


def gated_residual(
    x: Float[Tensor, "batch channels height width"],
    gated: Float[Tensor, "batch channels*2 height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Return x + a * sigmoid(b), where a is the first half of `gated` and b the second."""
    # torch's glu is faster in a forward pass alone; the custom function gains in backward.
    is_ours = is_plain_cpu(gated) and torch.is_grad_enabled()
    if is_ours or (x.dtype == gated.dtype and _library(x, x.shape[1]) is not None):
        return _GatedResidual.apply(x, gated)
    return x + F.glu(gated, dim=1)


def without_border(
    active: Float[Tensor, "batch wide rows cols"], border: Border
) -> Float[Tensor, "batch wide height width"]:
    """Return the part inside the border, a view."""
    return active[:, :, border.top :, border.left : active.shape[3] - border.right]


def empty_with_border(like: Tensor, inside: tuple[int, int, int], border: Border) -> Tensor:
    """Return channels-last memory with `like`'s batch and dtype, of which only the border is set.

    inside: channels, height and width within the border of zeros
    """
    channels, height, width = inside
    rows, cols = height + border.top, width + border.left + border.right
    buffer = like.new_empty(len(like), rows, cols, channels).permute(0, 3, 1, 2)
    buffer[:, :, : border.top].zero_()
    buffer[..., : border.left].zero_()
    buffer[..., cols - border.right :].zero_()
    return buffer


def is_plain_cpu(x: Tensor) -> bool:
    """Return whether the eager CPU code for float32 and float64 supports x."""
    # In bfloat16 arithmetic exp(-|x|) - 1 would lose the digits of small numbers.
    wide = x.dtype in (torch.float32, torch.float64)
    return wide and x.device.type == "cpu" and not torch.compiler.is_compiling()


class _BorderedConcatElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, border: Border, keep: Tensor | None) -> Tensor:
        ctx.border = border
        _, channels, height, width = x.shape
        active = empty_with_border(x, (2 * channels, height, width), border)
        inside = without_border(active, border)
        if (library := _library(x, channels)) is not None:
            x, keep = channels_last(x), None if keep is None else channels_last(keep)
            _run(library.concat_elu, len(x), x, keep, inside)
        else:
            _write_concat_elu(inside, x, keep)
        # Dropout destroys the slope of dropped elements, so backward recomputes it from x.
        ctx.has_x = keep is not None or x.dtype == torch.bfloat16
        ctx.save_for_backward(x if ctx.has_x else active, keep)
        return active

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        saved, keep = ctx.saved_tensors
        inside = without_border(grad_outputs[0], ctx.border)
        x, result = (saved, None) if ctx.has_x else (None, without_border(saved, ctx.border))
        batch, wide, height, width = inside.shape
        if (library := _library(inside, wide // 2)) is not None:
            found = inside.new_empty(batch, height, width, wide // 2).permute(0, 3, 1, 2)
            gradient = channels_last(inside)
            _run(library.concat_elu_gradient, batch, gradient, x, result, keep, found)
            return found, None, None
        if result is not None:
            plus, minus = _elu_gradient(inside, result, is_result=True).chunk(2, dim=1)
        else:
            plus, minus = (inside * keep).chunk(2, dim=1)
            plus = _elu_gradient(plus, saved, is_result=False)
            minus = _elu_gradient(minus, -saved, is_result=False)
        return plus - minus, None, None


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gated: Tensor) -> Tensor:
        if (library := _library(x, x.shape[1])) is not None:
            x, gated = channels_last(x), channels_last(gated)
            ctx.save_for_backward(gated)
            y = torch.empty_like(x)
            _run(library.gated_residual, len(x), x, gated, y)
            return y
        a, b = gated.chunk(2, dim=1)
        gate = torch.sigmoid(b)
        ctx.save_for_backward(a, gate)
        return torch.addcmul(x, a, gate)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor]:
        (gradient,), (a, *gates) = grad_outputs, ctx.saved_tensors
        batch, channels, height, width = gradient.shape
        both = gradient.new_empty(batch, height, width, 2 * channels).permute(0, 3, 1, 2)
        if (library := _library(gradient, channels)) is not None:
            _run(library.gated_gradient, batch, channels_last(gradient), a, both)
            return gradient, both
        (gate,) = gates
        torch.mul(gradient, gate, out=both[:, :channels])
        into_gate = both[:, channels:]
        torch.ops.aten.sigmoid_backward.grad_input(gradient * a, gate, grad_input=into_gate)
        return gradient, both


def _library(x: Tensor, channels: int) -> ctypes.CDLL | None:
    """Return the compiled library if it supports x's dtype and shape, else None."""
    is_served = x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"
    if not is_served or channels % _LANES or torch.compiler.is_compiling():
        return None
    return native.library("activations.c")


def _run(function: Callable[..., None], num_images: int, *operands: Tensor | None) -> None:
    (dtype,) = {x.dtype for x in operands if x is not None}
    at = (None if x is None else ctypes.byref(native.images(x)) for x in operands)
    is_half = dtype == torch.bfloat16
    function(*at, ctypes.c_long(num_images), is_half, torch.get_num_threads())


def _write_concat_elu(inside: Tensor, x: Tensor, keep: Tensor | None) -> None:
    channels = x.shape[1]
    e = x.abs().neg_().exp_().sub_(1)
    torch.maximum(x, e, out=inside[:, :channels])
    torch.maximum(-x, e, out=inside[:, channels:])
    if keep is not None:
        inside *= keep


def _elu_gradient(gradient: Tensor, x: Tensor, *, is_result: bool) -> Tensor:
    """Return elu's gradient; x is its argument, or its result if is_result."""
    return torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, is_result, x)
