"""Winograd convolutions of 2x2 and 2x3 taps on a CPU, with half the products of direct ones.

Winograd's algorithm (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks")
computes a tile of outputs with one product per point instead of one per tap and output: 18 instead
of 48 for 2x4 outputs of 2x3 taps (vertical stream), 9 instead of 16 for 2x2 outputs of 2x2 taps
(horizontal stream). Every PixelCNN with receptive_field_dims (3, 3) consists of these. Rounding
errors are 2 and 1.4 times torch's.

The network stays causal to the last bit: with 2x2 taps an output depends only on the inputs that
it reads, with 2x3 taps only on the rows that it reads. There other columns of a tile cancel out
only up to rounding, but the vertical stream may read all columns of the rows above anyway.

Results do not depend on the number of threads or images, except gradients of weights: they are
sums over images and depend on the number of threads.

`lanes` is 0 if the C code is unavailable (model.network.kernels.native); torch is used then.
"""

import ctypes
import functools

import torch
from torch import Tensor

from model.network.kernels import native
from model.network.kernels.activations import Border, empty_with_border, without_border
from model.network.kernels.native import channels_last, images

_OPS = torch.library.Library("sketchmill", "FRAGMENT")
_known_lanes: int | None = None


def suits(x: Tensor, weight: Tensor) -> bool:
    """Return whether `conv` supports x [batch, inputs, rows, cols], border included, and weight."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and weight.shape[2] == 2
        and weight.shape[3] in (2, 3)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and _lanes_divide(weight.shape[0], weight.shape[1])
    )


def lanes() -> int:
    """Return the number of channels processed in parallel; 0 if the library is unavailable."""
    global _known_lanes
    if torch.compiler.is_compiling():  # cannot load the library, but sees a loaded one
        return _known_lanes or 0
    if _known_lanes is None:
        library = _library()
        _known_lanes = library.winograd_lanes() if library else 0
    return _known_lanes


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution without padding, of stride 1, channels last."""
    return torch.ops.sketchmill.winograd(x, weight, bias)


def input_gradient(gradient: Tensor, weight: Tensor, border: Border) -> Tensor:
    """Return the gradient of a bordered input, channels last, 0 in the border."""
    return torch.ops.sketchmill.winograd_input_gradient(gradient, weight, list(border))


def weight_gradient(gradient: Tensor, x: Tensor, width: int) -> Tensor:
    """Return the gradient of weights [outputs, inputs, 2, width]."""
    return torch.ops.sketchmill.winograd_weight_gradient(gradient, x, width)


def _lanes_divide(*channels: int) -> bool:
    return bool(lanes()) and all(count % (2 * lanes()) == 0 for count in channels)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = native.library("winograd.c")
    if library is None:
        return None
    long, pointer = ctypes.c_long, ctypes.c_void_p
    images = ctypes.POINTER(native.Images)
    library.winograd_convolve.argtypes = (
        *(images, images, long, long, long, pointer, ctypes.c_int, pointer),
        *(pointer, pointer, ctypes.c_int, ctypes.c_int),
    )
    library.winograd_weight_gradient.argtypes = (
        *(images, images, long, pointer, pointer, pointer, ctypes.c_int, ctypes.c_int),
    )
    for size in (library.winograd_points_size, library.winograd_scratch_size):
        size.argtypes, size.restype = (long, long, ctypes.c_int), long
    return library


def _loaded() -> ctypes.CDLL:
    library = _library()
    assert library is not None
    return library


def _new_channels_last(x: Tensor, channels: int, rows: int, cols: int) -> Tensor:
    return x.new_empty(len(x), rows, cols, channels).permute(0, 3, 1, 2)


def _convolve(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    first: tuple[int, int] = (0, 0),
    is_flipped: bool = False,
) -> None:
    """Write into y the convolution whose output (i, j) reads x from (i, j) + first."""
    library, num_threads, width = _loaded(), torch.get_num_threads(), weight.shape[3]
    x, weight = channels_last(x), weight.contiguous()
    sizes = (x.shape[1], y.shape[1], width)
    points = torch.empty(library.winograd_points_size(*sizes))
    scratch = torch.empty(num_threads * library.winograd_scratch_size(*sizes))
    library.winograd_convolve(
        *(images(x), images(y), len(x), *first),
        *(weight.data_ptr(), is_flipped, None if bias is None else bias.data_ptr()),
        *(points.data_ptr(), scratch.data_ptr(), width, num_threads),
    )


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = _conv_shape(x, weight)
    _convolve(x, y, weight, bias)
    return y


def _conv_shape(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    rows, cols = x.shape[2] - 1, x.shape[3] - weight.shape[3] + 1
    return _new_channels_last(x, weight.shape[0], rows, cols)


def _input_gradient(gradient: Tensor, weight: Tensor, border: list[int]) -> Tensor:
    around = Border(*border)
    _, channels, rows, cols = _input_gradient_shape(gradient, weight).shape
    size = (channels, rows - around.top, cols - around.left - around.right)
    found = empty_with_border(gradient, size, around)
    first = (around.top - 1, around.left - weight.shape[3] + 1)
    inside = without_border(found, around)
    _convolve(gradient, inside, weight, None, first=first, is_flipped=True)
    return found


def _input_gradient_shape(gradient: Tensor, weight: Tensor, *_: object) -> Tensor:
    rows, cols = gradient.shape[2] + 1, gradient.shape[3] + weight.shape[3] - 1
    return _new_channels_last(gradient, weight.shape[1], rows, cols)


def _weight_gradient(gradient: Tensor, x: Tensor, width: int) -> Tensor:
    library, num_threads = _loaded(), torch.get_num_threads()
    found = _weight_gradient_shape(gradient, x, width)
    gradient, x = channels_last(gradient), channels_last(x)
    sizes = (x.shape[1], gradient.shape[1], width)
    sums = torch.empty(num_threads * library.winograd_points_size(*sizes))
    scratch = torch.empty(num_threads * library.winograd_scratch_size(*sizes))
    library.winograd_weight_gradient(
        *(images(x), images(gradient), len(x), found.data_ptr()),
        *(sums.data_ptr(), scratch.data_ptr(), width, num_threads),
    )
    return found


def _weight_gradient_shape(gradient: Tensor, x: Tensor, width: int) -> Tensor:
    return x.new_empty(gradient.shape[1], x.shape[1], 2, width)


# Registered as torch operators, so that torch.compile treats each as one step.
for _signature, _work, _shape in (
    ("winograd(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _conv, _conv_shape),
    (
        "winograd_input_gradient(Tensor gradient, Tensor weight, int[] border) -> Tensor",
        *(_input_gradient, _input_gradient_shape),
    ),
    (
        "winograd_weight_gradient(Tensor gradient, Tensor x, int width) -> Tensor",
        *(_weight_gradient, _weight_gradient_shape),
    ),
):
    _OPS.define(_signature)
    _name = _signature.split("(")[0]
    _OPS.impl(_name, _work, "CPU")
    torch.library.register_fake(f"sketchmill::{_name}", _shape)
