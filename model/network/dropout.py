"""Deterministic dropout: masks depend on a drawing's place in the global batch, not on the ranks.

With a DropoutKey, a hash of (seed, step, n, l, e) decides whether element e of image n is dropped
in layer l. It is the same on every device, for any number of ranks and micro-batches, and after a
resume. One 64-bit word of splitmix64 (Steele et al. 2014) serves eight elements (four if p is not
a multiple of 1/256; p is then rounded to 1/65536), so that on a CPU a mask costs no more than
torch's. Without a key this is torch's dropout.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

_WORD_BITS = 64
_SIGN = 1 << 63
# The constants of splitmix64: 2^64 / golden ratio, and its two multipliers.
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutKey:
    """Key of the masks of one step; `first_image` is this rank's first index in the batch."""

    seed: int
    step: int
    first_image: int = 0


class Dropout(nn.Module):
    """Zero elements with probability p while training; scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float, *, layer_index: int, num_channels: int) -> None:
        super().__init__()
        self.p = p
        self.layer_index = layer_index
        self.num_channels = num_channels

    def forward(
        self, x: Float[Tensor, "batch _ height width"], keys: Tensor | None
    ) -> Float[Tensor, "batch channels height width"] | None:
        """Return the factors for num_channels channels at x's positions; None if all are 1.

        Uses the images' keys, or torch's generator if `keys` is None.
        """
        if not self.training or self.p == 0:
            return None
        batch, _, height, width = x.shape
        like = x.new_empty(()).expand(batch, self.num_channels, height, width)
        if keys is None:
            return F.dropout(torch.ones_like(like), self.p)
        return keep_mask(keys, self.layer_index, like, self.p)


def key_tensor(key: DropoutKey) -> Int[Tensor, " 2"]:
    """Return the key as a tensor, an input of a compiled network.

    Python numbers would be compiled as constants, and every step would recompile.
    """
    root = _mix_int(_mix_int(key.seed) ^ key.step)
    return torch.tensor([_signed(root), key.first_image])


def image_keys(key: Int[Tensor, " 2"], num_images: int) -> Int[Tensor, " batch"]:
    """Return a hash for each image of this rank's part of the step's batch."""
    places = torch.arange(num_images, dtype=torch.int64, device=key.device) + key[1]
    return _mix(places.mul_(_signed(_GAMMA)).add_(key[0]))


@torch.no_grad()
def keep_mask(
    keys: Int[Tensor, " batch"],
    layer_index: int,
    x: Float[Tensor, "batch channels height width"],
    p: float,
) -> Float[Tensor, "batch channels height width"]:
    """Return 0 where an element of x is dropped, else 1 / (1 - p), in channels-last order."""
    batch, channels, height, width = x.shape
    size = channels * height * width
    bits = 8 if (p * 256).is_integer() else 16
    words = _words(keys, layer_index, math.ceil(size * bits / _WORD_BITS))
    lanes = words.view(torch.uint8 if bits == 8 else torch.int16)[:, :size]
    # int16 is signed: shift the threshold instead of the numbers.
    threshold = round(p * 2**bits) - (0 if bits == 8 else 2**15)
    kept = (lanes >= threshold).to(x.dtype).mul_(1 / (1 - p))
    return kept.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _words(keys: Tensor, layer_index: int, count: int) -> Int[Tensor, "batch words"]:
    """Return splitmix64's stream number (key, layer) for each image."""
    starts = _mix(keys ^ _signed(_mix_int(layer_index + 1)))
    counter = torch.arange(count, dtype=torch.int64, device=keys.device).mul_(_signed(_GAMMA))
    return _mix(starts[:, None] + counter)


def _mix(z: Tensor) -> Tensor:
    """Return splitmix64's output function of each int64, in place."""
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        z ^= _logical_shift(z, shift)
        z *= _signed(multiplier)
    z ^= _logical_shift(z, _SHIFTS[2])
    return z


def _logical_shift(z: Tensor, shift: int) -> Tensor:
    return (z >> shift).bitwise_and_((1 << (_WORD_BITS - shift)) - 1)


def _mix_int(number: int) -> int:
    """Return splitmix64's next output after state `number`, as `_mix` but of one Python int."""
    limit = (1 << _WORD_BITS) - 1
    z = (number + _GAMMA) & limit
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        z = ((z ^ (z >> shift)) * multiplier) & limit
    return z ^ (z >> _SHIFTS[2])


def _signed(number: int) -> int:
    return number - 2 * _SIGN if number & _SIGN else number
