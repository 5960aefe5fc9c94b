"""Conditioning: encodes a condition and projects it into every gated block.

A condition is encoded as a code, [batch, dim], or [batch, dim, height, width] at each level's
resolution if spatial; a block projects it to 2 * num_filters channels (van den Oord et al. 2016b,
equation 4, with a bias as in tfd.PixelCNN). A condition is an input, so reading all of it does not
break causality.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from model.network.config import LABEL_KINDS, ConditionConfig, PixelCNNConfig
from model.network.dropout import keep_mask

Code = Float[Tensor, "batch dim"] | Float[Tensor, "batch dim height width"]


# Maps start nearly flat: training would have to unlearn noise that differs between pixels.
MAP_STD = 0.1
# Stream of the condition dropout, distinct from those of the dropout layers, which start at 0.
_DROPOUT_LAYER = -1


class ConditionEncoder(nn.Module):
    """Encodes a condition as codes, one per level of the network's pyramid."""

    def __init__(
        self, config: ConditionConfig, *, num_hierarchies: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.config = config
        self.num_hierarchies = num_hierarchies
        self.image_size = image_size
        self.code_dim = code_dim(config)
        self.table: nn.Parameter | None = None
        sizes = (config.num_classes or 0, config.embedding_dim)
        if config.kind in ("embedding", "multi_label"):
            self.table = nn.Parameter(torch.randn(*sizes))
        if config.kind == "embedding_map":
            self.table = nn.Parameter(MAP_STD * torch.randn(*sizes, *image_size))

    def forward(
        self,
        condition: Tensor | None,
        keys: Int[Tensor, " batch"] | None = None,
        *,
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> list[Tensor | None]:
        """Return the code of each level, level 0 first; None for an unconditional model.

        keys: select the withheld codes in training, as in model.network.dropout; None: use torch's
        generator. Raises ValueError as `code` does.
        """
        code = self.code(condition, batch=batch, dtype=dtype, device=device)
        if code is not None and self.training and self.config.dropout_p:
            code = code * self._kept(keys, code)
        return self.pyramid(code)

    def code(
        self,
        condition: Tensor | None,
        *,
        batch: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Code | None:
        """Return the code of each image, 0 without a condition; None for an unconditional model.

        Raises ValueError if a condition is missing, unexpected, of a wrong shape or no class.
        """
        self._check(condition, batch)
        if self.config.kind == "none":
            return None
        if condition is not None:
            return self._encode(condition, dtype)
        is_map = self.config.kind in ("embedding_map", "spatial")
        size = self.image_size if is_map else ()
        return torch.zeros(batch, self.code_dim, *size, dtype=dtype, device=device)

    def pyramid(self, code: Code | None) -> list[Tensor | None]:
        """Return the code at each level's resolution."""
        if code is None or code.ndim == 2:
            return [code] * self.num_hierarchies
        # A coarse position gets the mean over the pixels that it covers.
        return [F.avg_pool2d(code, 2**level) for level in range(self.num_hierarchies)]

    def _check(self, condition: Tensor | None, batch: int) -> None:
        kind = self.config.kind
        if condition is not None and kind != "none":
            check_condition(self.config, condition, batch=batch)
        elif condition is not None:
            raise ValueError("the model is unconditional, but a condition was given")
        elif kind != "none" and not self.config.dropout_p:
            raise ValueError(
                f"the model's condition is of kind {kind!r}, but none was given, and the model was "
                "trained without condition dropout (condition.dropout_p is 0)"
            )

    def _kept(self, keys: Tensor | None, code: Tensor) -> Tensor:
        """Return 1 for each kept code and 0 for each withheld one."""
        one = code.new_ones(len(code), 1, 1, 1)
        if keys is None:
            mask = F.dropout(one, self.config.dropout_p)
        else:
            mask = keep_mask(keys, _DROPOUT_LAYER, one, self.config.dropout_p)
        return (mask > 0).to(code.dtype).view(len(code), *[1] * (code.ndim - 1))

    def _encode(self, condition: Tensor, dtype: torch.dtype) -> Tensor:
        kind = self.config.kind
        if kind in ("embedding", "embedding_map"):
            assert self.table is not None
            return self.table[condition.long()]
        if kind == "multi_label":
            assert self.table is not None
            # The table has the model's dtype; a sampler may use another.
            return condition.to(self.table.dtype) @ self.table
        if kind == "one_hot":
            return F.one_hot(condition.long(), self.code_dim).to(dtype)
        if kind == "spatial":
            return condition.to(dtype)
        return condition.to(dtype).reshape(condition.shape[0], -1)


class Projection(nn.Linear):
    """A block's linear projection of the code."""

    def reset_parameters(self) -> None:
        """Initialize weights Glorot-uniform, as Keras' Dense does, and bias 0."""
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Code) -> Float[Tensor, "batch channels rows cols"]:
        """Return the term added to the block's channels; rows = cols = 1 unless spatial."""
        if input.ndim == 2:
            return F.linear(input, self.weight, self.bias)[:, :, None, None]
        return F.conv2d(input, self.weight[:, :, None, None], self.bias)


def code_dim(config: ConditionConfig) -> int:
    """Return the size of a code, 0 without a condition."""
    match config.kind:
        case "none":
            return 0
        case "embedding" | "embedding_map" | "multi_label":
            return config.embedding_dim
        case "one_hot":
            return config.num_classes or 0
        case "scalar":
            return 1
        case "spatial":
            return (config.shape or (0,))[-1]
        case "vector":
            return math.prod(config.shape or (0,))


def condition_shape(config: ConditionConfig) -> tuple[int, ...]:
    """Return the shape of one image's condition as a tensor; spatial ones are C, H, W."""
    match config.kind:
        case "multi_label":
            return (config.num_classes or 0,)
        case "spatial":
            height, width, channels = config.shape or (0, 0, 0)
            return (channels, height, width)
        case "vector":
            return config.shape or ()
    return ()


def check_condition(config: ConditionConfig, condition: Tensor, *, batch: int) -> None:
    """Raise ValueError unless the condition fits the config and the batch."""
    expected = (batch, *condition_shape(config))
    if tuple(condition.shape) != expected:
        raise ValueError(
            f"a condition of kind {config.kind!r} for {batch} images has shape {expected}, "
            f"found {tuple(condition.shape)}"
        )
    if config.kind in LABEL_KINDS:
        _check_labels(condition, config.num_classes or 0)


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if labels.is_floating_point():
        raise ValueError(f"class labels are integers, found {labels.dtype}")
    # Reading the values would synchronize an accelerator; there the lookup itself asserts.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in labels.aminmax()) if len(labels) else (0, 0)
        if low < 0 or high >= num_classes:
            raise ValueError(f"class labels must be in 0..{num_classes - 1}, found {low}..{high}")


def label_condition(config: PixelCNNConfig, labels: npt.NDArray[np.int64]) -> Tensor | None:
    """Return the condition of images of these classes."""
    return encode_labels(config, torch.from_numpy(np.ascontiguousarray(labels)))


def encode_labels(config: PixelCNNConfig, labels: Int64[Tensor, " batch"]) -> Tensor | None:
    """Return the condition of images of these classes, on the device of the labels."""
    match config.condition.kind:
        case "none":
            return None
        case "multi_label":
            return F.one_hot(labels, config.condition.num_classes or 0).float()
        case "scalar":
            return labels.float()
    return labels
