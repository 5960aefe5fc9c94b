"""PixelCNN: a distribution over integer images, with the interface of `torch.distributions`.

>>> from model.network.config import PixelCNNConfig
>>> model = PixelCNN(PixelCNNConfig(image_shape=(4, 4, 1), num_resnet=1, num_hierarchies=1,
...                                 num_filters=2, num_logistic_mix=2))
>>> model.log_prob(torch.zeros(3, 1, 4, 4, dtype=torch.uint8)).shape
torch.Size([3])

Before training the weight-normed layers are initialized from data, causal and equal on all ranks
(Salimans and Kingma 2016, section 3, as `tfd.PixelCNN` does it): in the order of evaluation each
layer gets the g and b that give its outputs mean 0 and variance 1 per channel on one batch, and
passes those outputs on. TFP does this on kernels not yet masked, so its network starts off its
own scale after the first step; here no tap sees a later pixel at any time. With torch.distributed
the directions v come from rank 0 and moments are those of all ranks' images together: each
replica ends with the same numbers.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Float, Num
from torch import Tensor, nn

from model.network.conditioning import ConditionEncoder
from model.network.config import PixelCNNConfig
from model.network.dropout import DropoutKey, image_keys, key_tensor
from model.network.layers import NormedLayer
from model.network.likelihood import Params, num_params, read_params, to_unit
from model.network.network import PixelCNNNetwork
from model.network.precision import fast_autocast

Images = Num[Tensor, "batch channels height width"]

# Keeps the gain of a channel that is constant on the batch finite; TFP's value.
_VARIANCE_EPSILON = 1e-10


class PixelCNN(nn.Module):
    """A conditional PixelCNN++, Salimans et al. 2017, exactly as `tfd.PixelCNN` but causal.

    Images are [batch, channels, height, width] of any dtype, with values low..high; conditions
    follow `ConditionConfig`. Other values raise ValueError on a CPU outside of torch.compile,
    where the check is cheap. Log-probabilities are in nats, in float32 or wider.
    """

    def __init__(self, config: PixelCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ConditionEncoder(
            config.condition,
            num_hierarchies=config.num_hierarchies,
            image_size=config.image_shape[:2],
        )
        self.network = PixelCNNNetwork(
            config, num_params=num_params(config), code_dim=self.encoder.code_dim
        )
        self._dropout_key: Tensor | None = None

    def forward(self, value: Images, condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Return log P(value | condition) in nats per image.

        Named `forward` so that DistributedDataParallel's hooks run on every call. Raises
        ValueError if the images or the condition have a wrong shape.
        """
        return self.log_prob_map(value, condition).sum(dim=(1, 2))

    def log_prob(self, value: Images, condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Return log P(value | condition) in nats per image."""
        return self(value, condition)

    def log_prob_map(
        self, value: Images, condition: Tensor | None = None
    ) -> Float[Tensor, "batch height width"]:
        """Return log P(pixel | pixels before it, condition) in nats; their sum is log_prob."""
        params = self.distribution_params(value, condition)
        # At least float32: x - loc must not lose digits.
        return params.log_prob(value.to(params.logits.dtype))

    def bits_per_dim(
        self, value: Images, condition: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Return -log2 P(value | condition) / (height * width * channels)."""
        return self(value, condition) / (-math.log(2) * self.config.num_dims)

    def distribution_params(self, value: Images, condition: Tensor | None = None) -> Params:
        """Return the parameters of each pixel's distribution given the pixels before it."""
        self.check_images(value)
        with fast_autocast(value.device):
            return self._params(value, condition)

    def _params(self, value: Images, condition: Tensor | None) -> Params:
        dtype = self.network.output.bias.dtype
        x = to_unit(value.to(dtype), self.config.low, self.config.high)
        keys = None
        if self.training and self._dropout_key is not None:
            keys = image_keys(self._dropout_key.to(value.device), len(value))
        codes = self.encoder(
            condition, keys, batch=value.shape[0], dtype=dtype, device=value.device
        )
        return read_params(self.network(x, codes, keys), self.config)

    def set_dropout_key(self, key: DropoutKey | None) -> None:
        """Set the key of the dropout masks in training mode; None: use torch's generator."""
        self._dropout_key = None if key is None else key_tensor(key)

    def check_images(self, value: Tensor) -> None:
        """Raise ValueError for another shape, or on a CPU for values that are no level."""
        height, width, channels = self.config.image_shape
        if value.ndim != 4 or tuple(value.shape[1:]) != (channels, height, width):
            raise ValueError(
                f"expected images of shape (batch, {channels}, {height}, {width}), found "
                f"{tuple(value.shape)}"
            )
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_levels(value)

    def _check_levels(self, value: Tensor) -> None:
        """Raise ValueError for NaN and for values outside of the levels.

        Skipped on an accelerator, which reading the values would synchronize.
        """
        low, high = self.config.low, self.config.high
        if not value.numel() or (value.dtype == torch.uint8 and low <= 0 and high >= 255):
            return
        least, most = (bound.item() for bound in value.detach().aminmax())
        if not (least >= low and most < high + 1):
            raise ValueError(
                f"expected pixels in {low}..{high}, found values from {least:g} to {most:g}: scale "
                "images to the model's levels"
            )


@torch.no_grad()
def initialize_from_data(model: PixelCNN, value: Tensor, condition: Tensor | None = None) -> None:
    """Set g and bias of every layer from a batch [batch, channels, height, width] of images.

    Every rank calls this with its own part of the batch, of any size. A no-op if the config has no
    weight norm or no data init. Dropout is disabled during the call.
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
    """Make each layer standardize itself on its input before it computes its output."""
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
