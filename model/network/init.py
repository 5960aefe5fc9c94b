"""Data-dependent initialization of the weight-normed layers, causal and equal on all ranks.

Salimans and Kingma 2016, section 3, as `tfd.PixelCNN` does it: in the order of evaluation each
layer gets the g and b that give its outputs mean 0 and variance 1 per channel on one batch,
and passes those outputs on. TFP does this on kernels not yet masked, so its network starts
off its own scale after the first step; here no tap sees a later pixel at any time. With
torch.distributed the directions v come from rank 0 and moments are those of all ranks'
images together: each replica ends with the same numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from model.network.layers import NormedLayer
from model.network.pixelcnn import PixelCNN

# Keeps the gain of a channel that is constant on the batch finite; TFP's number.
_VARIANCE_EPSILON = 1e-10


@torch.no_grad()
def initialize_from_data(model: PixelCNN, value: Tensor, condition: Tensor | None = None) -> None:
    """Set g and bias of every layer by a batch [batch, channels, height, width] of images.

    Every rank calls this with its own part of the batch, of any size. Does nothing where the
    config has no weight norm or no data init. Dropout is off meanwhile.
    """
    if not (model.config.use_weight_norm and model.config.use_data_init):
        return
    if _is_distributed():
        for parameter in model.parameters():
            dist.broadcast(parameter, src=0)
    was_training = model.training
    model.eval()
    try:
        with _standardizing(model):
            model(value, condition)
    finally:
        model.train(was_training)


@contextmanager
def _standardizing(model: PixelCNN) -> Iterator[None]:
    """Let each layer standardize itself on its input before it computes its output."""
    hooks = [
        layer.register_forward_pre_hook(_standardize) for layer in model.network.causal_layers()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _standardize(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(layer, NormedLayer)
    assert layer.g is not None
    mean, variance = global_moments(layer.convolve(layer.direction(), None, *inputs))
    gain = (variance + _VARIANCE_EPSILON).rsqrt()
    layer.g.copy_(gain)
    layer.bias.copy_(-mean * gain)


def global_moments(
    x: Float[Tensor, "batch channels height width"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Return mean and biased variance of each channel over all ranks, in float64."""
    wide = x.double()
    count = wide.new_full((1, x.shape[1]), x.numel() / x.shape[1])
    total = _sum_over_ranks(torch.cat((wide.sum((0, 2, 3))[None], count)))
    mean = total[0] / total[1]
    squares = _sum_over_ranks((wide - mean[:, None, None]).square().sum((0, 2, 3)))
    return mean, squares / total[1]


def _sum_over_ranks(x: Tensor) -> Tensor:
    if _is_distributed():
        dist.all_reduce(x)
    return x


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
