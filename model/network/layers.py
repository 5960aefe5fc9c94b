"""Network layers: causal, cropped convolutions with weight norm.

A layer stores only the unmasked taps of a kernel (as openai/pixel-cnn; tfd.PixelCNN multiplies by
masked zeros, 1.75 times the work). `Taps` defines the inputs that an output reads. For
receptive_field_dims (3, 3), with X the output's position and o the taps:

    vertical    o o o    horizontal  o o     first vertical  o o o    first left   o .
                o X o                o X                     o o o                 o X
                                                             . X .    first up     o o o
                                                                                   . X .

Weight norm, Salimans and Kingma 2016: W = g * v * rsqrt(max(sum v^2, 1e-12)), the sum over all
axes but the output's. Weights are [out, in, height, width], also in transposed layers.

`bordered_conv` convolves an input that includes its padding, faster on a CPU than torch. It uses
model.network.kernels.winograd where supported. Otherwise torch convolves, and the gradient of the
weights is computed here: oneDNN does so at half the speed of a matrix product (AMD EPYC with AVX2:
97 of 180 GFLOP/s; forward and the gradient of the input reach 170). As products it reaches 130:

    dW[o, c, r, s] = sum over p of G[p, o] X[p + r * cols + s, c]

where p runs over the positions of the padded images in row-major order, and G is the output's
gradient on the same grid, 0 where there is no output. Each tap is one product of two channels-last
matrices in memory, without a gather.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.network.kernels import winograd
from model.network.kernels.activations import Border, is_plain_cpu, without_border

# With fewer channels the matrix products are too thin to gain.
_MIN_CHANNELS = 64


# The epsilon of tf.math.l2_normalize: keeps a zero direction finite.
_NORM_EPSILON = 1e-12


def bordered_conv(
    x: Float[Tensor, "batch inputs rows cols"],
    weight: Float[Tensor, "outputs inputs tap_rows tap_cols"],
    bias: Float[Tensor, " outputs"] | None,
    border: Border,
) -> Float[Tensor, "batch outputs height width"]:
    """Return the convolution without padding, of stride 1.

    border: the constant part of x, which needs no gradient; it may be left at 0
    """
    by_winograd = winograd.suits(x, weight)
    if torch.is_grad_enabled() and (by_winograd or _is_faster_by_products(x, weight)):
        return _BorderedConv.apply(x, weight, bias, border, by_winograd)
    return winograd.conv(x, weight, bias) if by_winograd else F.conv2d(x, weight, bias)


def _is_faster_by_products(x: Tensor, weight: Tensor) -> bool:
    # Under autocast the output's dtype differs from x's.
    is_plain = is_plain_cpu(x) and not torch.is_autocast_enabled("cpu")
    return is_plain and min(weight.shape[:2]) >= _MIN_CHANNELS


class _BorderedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        border: Border,
        by_winograd: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.border, ctx.by_winograd = border, by_winograd
        return winograd.conv(x, weight, bias) if by_winograd else F.conv2d(x, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (gradient,), (x, weight) = grad_outputs, ctx.saved_tensors
        into_x, into_weight, into_bias, *_ = ctx.needs_input_grad
        of_x = of_weight = None
        if ctx.by_winograd:
            if into_x:
                of_x = winograd.input_gradient(gradient, weight, ctx.border)
            if into_weight:
                of_weight = winograd.weight_gradient(gradient, x, weight.shape[3])
        else:
            of_x = _input_gradient(gradient, x, weight) if into_x else None
            of_weight = weight_gradient(gradient, x, weight.shape) if into_weight else None
        return of_x, of_weight, gradient.sum((0, 2, 3)) if into_bias else None, None, None


def weight_gradient(
    gradient: Float[Tensor, "batch outputs height width"],
    x: Float[Tensor, "batch inputs rows cols"],
    shape: torch.Size,
) -> Float[Tensor, "outputs inputs tap_rows tap_cols"]:
    """Return the gradient of the weights of a convolution without padding."""
    outputs, inputs, tap_rows, tap_cols = shape
    cols = x.shape[3]
    border = (0, 0, 0, tap_cols - 1, 0, tap_rows - 1)
    spread = F.pad(gradient.permute(0, 2, 3, 1), border).reshape(-1, outputs)
    places = x.permute(0, 2, 3, 1).reshape(-1, inputs)
    taps = x.new_empty(tap_rows, tap_cols, outputs, inputs)
    for row in range(tap_rows):
        for col in range(tap_cols):
            offset = row * cols + col
            torch.mm(spread[: len(places) - offset].T, places[offset:], out=taps[row, col])
    return taps.permute(2, 3, 0, 1).contiguous()


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    # torch.nn.grad.conv2d_input would lose the channels-last memory format.
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
    )
    return found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Which inputs an output reads, or, in a transposed layer, which outputs an input feeds.

    Output (i, j) of a convolution reads rows stride*i + row ... + height - 1 and the columns
    likewise; outside the image is 0. Input (i, j) of a transposed layer adds to those rows and
    columns of the output; outside the image is dropped.
    """

    height: int
    width: int
    row: int
    col: int
    stride: int = 1

    def border(self) -> Border:
        """Return the zero padding that a convolution with these taps reads."""
        return Border(-self.col, self.width + self.col - self.stride, -self.row)


class NormedLayer(nn.Module):
    """A linear layer's weights: direction v and gain g, or plain weights in v if g is None."""

    def __init__(self, num_inputs: int, num_outputs: int, taps: Taps, *, has_gain: bool) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.num_outputs = num_outputs
        self.taps = taps
        self.v = nn.Parameter(torch.empty(num_outputs, num_inputs, taps.height, taps.width))
        self.g = nn.Parameter(torch.ones(num_outputs)) if has_gain else None
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize v Glorot-uniform over the existing taps, g = ||v|| (so W = v) and bias 0."""
        nn.init.xavier_uniform_(self.v)
        nn.init.zeros_(self.bias)
        if self.g is not None:
            with torch.no_grad():
                self.g.copy_(self.v.square().sum((1, 2, 3)).sqrt())

    def weight(self) -> Float[Tensor, "outputs inputs rows cols"]:
        """Return the effective weights W."""
        if self.g is None:
            return self.v
        return self.direction() * self.g[:, None, None, None]

    def direction(self) -> Float[Tensor, "outputs inputs rows cols"]:
        """Return v scaled to length 1 for each output."""
        square = self.v.square().sum((1, 2, 3), keepdim=True)
        return self.v * square.clamp_min(_NORM_EPSILON).rsqrt()

    def convolve(self, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        """Apply other weights of this layer's geometry to its inputs."""
        raise NotImplementedError

    def forward(
        self, *inputs: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch outputs rows cols"]:
        """Return the layer's output, W applied to the inputs plus bias."""
        return self.convolve(self.weight(), self.bias, *inputs)

    def extra_repr(self) -> str:
        """Return the sizes for printing."""
        return f"{self.num_inputs}, {self.num_outputs}, {self.taps}"


class CroppedConv(NormedLayer):
    """Convolution over the taps; the output has the input's size / stride."""

    def convolve(self, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        """Apply other weights of this layer's geometry to one input."""
        (x,), taps = inputs, self.taps
        bottom = taps.height + taps.row - taps.stride
        bordered = F.pad(x, (*taps.border(), bottom))
        return F.conv2d(bordered, weight, bias, stride=taps.stride)


class BorderedConv(CroppedConv):
    """CroppedConv of an already padded input, see model.network.kernels.activations."""

    def convolve(self, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        """Apply other weights of this layer's geometry to one bordered input."""
        return bordered_conv(inputs[0], weight, bias, self.taps.border())


class CroppedTransposedConv(NormedLayer):
    """Transposed convolution to `stride` times the size; bias is added everywhere."""

    def convolve(self, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        """Apply other weights of this layer's geometry to one input."""
        (x,), taps = inputs, self.taps
        full = F.conv_transpose2d(x, weight.transpose(0, 1), stride=taps.stride)
        bottom = taps.stride - taps.height - taps.row
        right = taps.stride - taps.width - taps.col
        y = F.pad(full, (taps.col, right, taps.row, bottom))
        return y if bias is None else y + bias.to(y.dtype)[:, None, None]


class Dense(NormedLayer):
    """A 1x1 layer over the channels of one or more inputs, as if they were concatenated.

    borders: the padding of each input, which is cropped
    """

    def __init__(self, num_inputs: int, num_outputs: int, *borders: Border, has_gain: bool) -> None:
        super().__init__(
            num_inputs, num_outputs, Taps(height=1, width=1, row=0, col=0), has_gain=has_gain
        )
        self.borders = borders

    def convolve(self, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        """Apply other weights of this layer's shape, without concatenating the inputs."""
        parts = weight[:, :, 0, 0].split([x.shape[1] for x in inputs], dim=1)
        y = _dense(inputs[0], parts[0], bias, self.borders[0])
        for x, part, border in zip(inputs[1:], parts[1:], self.borders[1:], strict=True):
            y = y + _dense(x, part, None, border)
        return y


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, border: Border) -> Tensor:
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        # torch would first copy the inside of the border, which takes longer than all products,
        # those of the border included.
        whole = F.linear(x.permute(0, 2, 3, 1), weight, bias)
        return without_border(whole.permute(0, 3, 1, 2), border)
    return F.linear(without_border(x, border).permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


# The geometry of TFP's kernels after its masks, for receptive_field_dims (rows, cols).


def init_vertical_taps(dims: tuple[int, int]) -> Taps:
    """Return the taps of the first vertical layer: the rows above, centered."""
    rows, cols = dims
    return Taps(height=rows - 1, width=cols, row=1 - rows, col=-(cols // 2))


def init_up_taps(dims: tuple[int, int]) -> Taps:
    """Return the taps of the first horizontal layer that reads the row above."""
    return Taps(height=1, width=dims[1], row=-1, col=-(dims[1] // 2))


def init_left_taps(dims: tuple[int, int]) -> Taps:
    """Return the taps of the first horizontal layer that reads the pixels to the left."""
    return Taps(height=2, width=dims[1] // 2, row=-1, col=-(dims[1] // 2))


def vertical_taps(dims: tuple[int, int], *, stride: int = 1) -> Taps:
    """Return the taps of the vertical stream: the own row and those above, centered."""
    rows, cols = dims
    return Taps(height=rows - 1, width=cols, row=2 - rows, col=-(cols // 2), stride=stride)


def horizontal_taps(dims: tuple[int, int], *, stride: int = 1) -> Taps:
    """Return the taps of the horizontal stream: up to the own column, two rows."""
    half = dims[1] // 2
    return Taps(height=2, width=half + 1, row=-1, col=-half, stride=stride)


def vertical_transposed_taps(dims: tuple[int, int]) -> Taps:
    """Return where the vertical stream's upsampling writes: rows downward, centered."""
    rows, cols = dims
    return Taps(height=rows - 1, width=cols, row=0, col=-(cols // 2), stride=2)


def horizontal_transposed_taps(dims: tuple[int, int]) -> Taps:
    """Return where the horizontal stream's upsampling writes: rightward and downward."""
    return Taps(height=2, width=dims[1] // 2 + 1, row=0, col=0, stride=2)
