"""PixelCNN: a distribution over images of integers, used as those of `torch.distributions`.

>>> from model.network.config import PixelCNNConfig
>>> model = PixelCNN(PixelCNNConfig(image_shape=(4, 4, 1), num_resnet=1, num_hierarchies=1,
...                                 num_filters=2, num_logistic_mix=2))
>>> model.log_prob(torch.zeros(3, 1, 4, 4, dtype=torch.uint8)).shape
torch.Size([3])
"""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from model.network.conditioning import ConditionEncoder
from model.network.config import PixelCNNConfig
from model.network.dropout import DropoutKey, image_keys, key_tensor
from model.network.likelihood import Params, num_params, read_params, to_unit
from model.network.network import PixelCNNNetwork
from model.network.precision import fast_autocast

Images = Num[Tensor, "batch channels height width"]


class PixelCNN(nn.Module):
    """A conditional PixelCNN++, Salimans et al. 2017, exactly as `tfd.PixelCNN` but causal.

    Images are [batch, channels, height, width] of any dtype, values low..high; conditions are
    what `ConditionConfig` says. Other values raise ValueError, on a CPU and outside
    torch.compile, where looking at them is cheap. Log-probabilities are in nats, float32 at
    least.
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

        It is `forward` so that the hooks of DistributedDataParallel see every call. Raises
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
        # Between float32 and a wider network, the wider: x - loc must not lose digits.
        return params.log_prob(value.to(params.logits.dtype))

    def bits_per_dim(
        self, value: Images, condition: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Return -log2 P(value | condition) / (height * width * channels)."""
        return self(value, condition) / (-math.log(2) * self.config.num_dims)

    def distribution_params(self, value: Images, condition: Tensor | None = None) -> Params:
        """Return the parameters of each pixel's distribution given the pixels before it."""
        self._check_images(value)
        with fast_autocast(value.device):
            return self._params(value, condition)

    def _params(self, value: Images, condition: Tensor | None) -> Params:
        dtype = self.network.output.bias.dtype
        x = to_unit(value.to(dtype), self.config.low, self.config.high)
        keys = None
        if self.training and self._dropout_key is not None:
            keys = image_keys(self._dropout_key.to(value.device), len(value))
        codes = self.encoder(condition, keys, batch=len(value), dtype=dtype, device=value.device)
        return read_params(self.network(x, codes, keys), self.config)

    def set_dropout_key(self, key: DropoutKey | None) -> None:
        """Let dropout in training mode be decided by `key`; None: by torch's generator."""
        self._dropout_key = None if key is None else key_tensor(key)

    def _check_images(self, value: Tensor) -> None:
        height, width, channels = self.config.image_shape
        if value.ndim != 4 or tuple(value.shape[1:]) != (channels, height, width):
            raise ValueError(
                f"expected images of shape (batch, {channels}, {height}, {width}), found "
                f"{tuple(value.shape)}"
            )
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_levels(value)

    def _check_levels(self, value: Tensor) -> None:
        """Raise ValueError for NaN and for what rounds down to no level.

        On an accelerator a look at the values would stall it.
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
