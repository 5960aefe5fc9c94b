"""The PixelCNN++ network: two causal streams through a pyramid of gated residual blocks.

Salimans et al. 2017, figure 2, wired and ordered as `tfd.PixelCNN`: the vertical stream reads all
rows above, the horizontal one also the pixels to the left. On the way down, each level has
num_resnet pairs of blocks, followed by downsampling; on the way up, each block has a skip
connection from its counterpart.

    vertical    v0 - v1 - v2 - strided - v3 - v4 --------- up4 - up3 - transposed - up2 ...
                |    |    |              |    |            |     |                  |
    horizontal  h0 - h1 - h2 - strided - h3 - h4 --------- up4 - up3 - transposed - up2 ... - P

Level 0 is full resolution; `down[level]` and `up[level]` hold a level's pairs of blocks.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.network import layers
from model.network.conditioning import Projection
from model.network.config import PixelCNNConfig
from model.network.dropout import Dropout
from model.network.kernels.activations import (
    Border,
    activation_width,
    bordered_activation,
    gated_residual,
)
from model.network.layers import (
    BorderedConv,
    CroppedConv,
    CroppedTransposedConv,
    Dense,
    NormedLayer,
    Taps,
)


class Features(NamedTuple):
    """A stream's value and its activation, shared by several layers.

    active includes the zero padding of the stream's convolutions.
    """

    value: Tensor
    active: Tensor


class Streams(NamedTuple):
    """Both streams at one place of the network."""

    vertical: Features
    horizontal: Features


class GatedBlock(nn.Module):
    """value + a * sigmoid(b), with a and b of two convolutions, skips and the condition."""

    def __init__(
        self, config: PixelCNNConfig, taps: Taps, *skips: Border, code_dim: int, index: int
    ) -> None:
        """Create the layers; skips: the borders of its skip inputs."""
        super().__init__()
        filters, has_gain = config.num_filters, config.use_weight_norm
        wide = filters * activation_width(config.resnet_activation)
        self.activation = config.resnet_activation
        self.conv1 = BorderedConv(wide, filters, taps, has_gain=has_gain)
        self.skip = Dense(len(skips) * wide, filters, *skips, has_gain=has_gain) if skips else None
        self.dropout = Dropout(config.dropout_p, layer_index=index, num_channels=wide)
        self.conv2 = BorderedConv(wide, 2 * filters, taps, has_gain=has_gain)
        self.projection = Projection(code_dim, 2 * filters) if code_dim else None

    def forward(
        self, x: Features, skips: tuple[Tensor, ...], code: Tensor | None, keys: Tensor | None
    ) -> Features:
        """Return the block's output; skips are activations, code is the level's condition."""
        t = self.conv1(x.active)
        if self.skip is not None:
            t = t + self.skip(*skips)
        keep = self.dropout(t, keys)
        t = self.conv2(bordered_activation(t, self.activation, self.conv2.taps.border(), keep))
        if self.projection is not None:
            t = t + self.projection(code)
        return self.features(gated_residual(x.value, t))

    def features(self, value: Tensor) -> Features:
        """Return a value of this stream with its activation."""
        border = self.conv1.taps.border()
        return Features(value, bordered_activation(value, self.activation, border))

    def layers(self) -> Iterator[NormedLayer]:
        """Yield the layers in the order of evaluation."""
        yield self.conv1
        if self.skip is not None:
            yield self.skip
        yield self.conv2


class BlockPair(nn.Module):
    """A vertical block and the horizontal one that reads it."""

    def __init__(
        self, config: PixelCNNConfig, *, is_up: bool, code_dim: int, indices: Iterator[int]
    ) -> None:
        super().__init__()
        dims = config.receptive_field_dims
        taps = layers.vertical_taps(dims), layers.horizontal_taps(dims)
        above, beside = (kind.border() for kind in taps)
        # Every horizontal block reads the vertical stream; on the way up also the skips.
        skips = ((above,), (above, beside)) if is_up else ((), (above,))
        self.vertical, self.horizontal = (
            GatedBlock(config, kind, *borders, code_dim=code_dim, index=next(indices))
            for kind, borders in zip(taps, skips, strict=True)
        )

    def forward(
        self, x: Streams, skip: Streams | None, code: Tensor | None, keys: Tensor | None
    ) -> Streams:
        """Return both streams after the pair; on the way up, `skip` is the counterpart's output."""
        beside = () if skip is None else (skip.vertical.active,)
        vertical = self.vertical(x.vertical, beside, code, keys)
        beside = () if skip is None else (skip.horizontal.active,)
        horizontal = self.horizontal(x.horizontal, (vertical.active, *beside), code, keys)
        return Streams(vertical, horizontal)


class PixelCNNNetwork(nn.Module):
    """Maps pixels in [-1, 1] and codes to the parameters of each pixel's distribution."""

    def __init__(self, config: PixelCNNConfig, *, num_params: int, code_dim: int) -> None:
        super().__init__()
        self.config = config
        dims, filters = config.receptive_field_dims, config.num_filters
        channels, has_gain = config.num_channels, config.use_weight_norm

        def conv(kind: type[NormedLayer], num_inputs: int, taps: Taps) -> NormedLayer:
            return kind(num_inputs, filters, taps, has_gain=has_gain)

        self.init_vertical = conv(CroppedConv, channels, layers.init_vertical_taps(dims))
        self.init_up = conv(CroppedConv, channels, layers.init_up_taps(dims))
        self.init_left = conv(CroppedConv, channels, layers.init_left_taps(dims))
        indices = itertools.count()

        def pairs(count: int, *, is_up: bool) -> nn.ModuleList:
            return nn.ModuleList(
                BlockPair(config, is_up=is_up, code_dim=code_dim, indices=indices)
                for _ in range(count)
            )

        coarsest = config.num_hierarchies - 1
        levels, joints = range(coarsest + 1), range(coarsest)
        self.down = nn.ModuleList(pairs(config.num_resnet, is_up=False) for _ in levels)
        self.up = nn.ModuleList(
            pairs(config.num_resnet + (level < coarsest), is_up=True) for level in levels
        )
        # Entry l of these joins levels l and l + 1.
        taps = layers.vertical_taps(dims, stride=2), layers.horizontal_taps(dims, stride=2)
        self.down_vertical = nn.ModuleList(conv(CroppedConv, filters, taps[0]) for _ in joints)
        self.down_horizontal = nn.ModuleList(conv(CroppedConv, filters, taps[1]) for _ in joints)
        taps = layers.vertical_transposed_taps(dims), layers.horizontal_transposed_taps(dims)
        self.up_vertical = nn.ModuleList(
            conv(CroppedTransposedConv, filters, taps[0]) for _ in joints
        )
        self.up_horizontal = nn.ModuleList(
            conv(CroppedTransposedConv, filters, taps[1]) for _ in joints
        )
        self.output = Dense(filters, num_params, Border(0, 0, 0), has_gain=has_gain)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        codes: list[Tensor | None],
        keys: Tensor | None = None,
    ) -> Float[Tensor, "batch params height width"]:
        """Return the parameters; those of a pixel depend only on the previous pixels.

        codes: the condition at each level, from model.network.conditioning
        keys: the images' dropout keys, from model.network.dropout
        """
        vertical, horizontal = self.init_vertical(x), self.init_up(x) + self.init_left(x)
        # Convolutions keep their input's memory format; channels last is fastest everywhere.
        last = torch.channels_last
        streams = self._features(
            vertical.contiguous(memory_format=last), horizontal.contiguous(memory_format=last)
        )
        saved = [streams]
        for level in range(self.config.num_hierarchies):
            for pair in self.down_pairs(level):
                streams = pair(streams, None, codes[level], keys)
                saved.append(streams)
            if level < len(self.down_vertical):
                streams = self._join(self.down_joint(level), streams)
                saved.append(streams)
        streams = saved.pop()
        for level in reversed(range(self.config.num_hierarchies)):
            for pair in self.up_pairs(level):
                streams = pair(streams, saved.pop(), codes[level], keys)
            if level > 0:
                streams = self._join(self.up_joint(level - 1), streams)
        return self.output(F.elu(streams.horizontal.value))

    def down_pairs(self, level: int) -> list[BlockPair]:
        """Return the pairs of a level on the way down, in the order of evaluation."""
        return cast("list[BlockPair]", list(cast("nn.ModuleList", self.down[level])))

    def up_pairs(self, level: int) -> list[BlockPair]:
        """Return the pairs of a level on the way up, in the order of evaluation."""
        return cast("list[BlockPair]", list(cast("nn.ModuleList", self.up[level])))

    def down_joint(self, level: int) -> tuple[CroppedConv, CroppedConv]:
        """Return the strided vertical and horizontal layers from level to level + 1."""
        pair = self.down_vertical[level], self.down_horizontal[level]
        return cast("tuple[CroppedConv, CroppedConv]", pair)

    def up_joint(self, level: int) -> tuple[CroppedTransposedConv, CroppedTransposedConv]:
        """Return the transposed vertical and horizontal layers from level + 1 to level."""
        pair = self.up_vertical[level], self.up_horizontal[level]
        return cast("tuple[CroppedTransposedConv, CroppedTransposedConv]", pair)

    def causal_layers(self) -> Iterator[NormedLayer]:
        """Yield all layers in the order of evaluation, which is TFP's order of creation."""
        yield from (self.init_vertical, self.init_up, self.init_left)
        for level in range(self.config.num_hierarchies):
            for pair in self.down_pairs(level):
                yield from itertools.chain(pair.vertical.layers(), pair.horizontal.layers())
            if level < len(self.down_vertical):
                yield from self.down_joint(level)
        for level in reversed(range(self.config.num_hierarchies)):
            for pair in self.up_pairs(level):
                yield from itertools.chain(pair.vertical.layers(), pair.horizontal.layers())
            if level > 0:
                yield from self.up_joint(level - 1)
        yield self.output

    def inner_directions(self) -> Iterator[nn.Parameter]:
        """Yield v of all layers except the first ones, which read pixels, and the last."""
        first_and_last = {self.init_vertical, self.init_up, self.init_left, self.output}
        yield from (layer.v for layer in self.causal_layers() if layer not in first_and_last)

    def gated_blocks(self) -> Iterator[GatedBlock]:
        """Yield all blocks in the order of evaluation."""
        levels = range(self.config.num_hierarchies)
        down = itertools.chain(*(self.down_pairs(level) for level in levels))
        up = itertools.chain(*(self.up_pairs(level) for level in reversed(levels)))
        for pair in itertools.chain(down, up):
            yield from (pair.vertical, pair.horizontal)

    def _features(self, vertical: Tensor, horizontal: Tensor) -> Streams:
        pair = self.down_pairs(0)[0]
        return Streams(pair.vertical.features(vertical), pair.horizontal.features(horizontal))

    def _join(self, joint: tuple[NormedLayer, NormedLayer], streams: Streams) -> Streams:
        """Change the resolution of both streams; these layers have no preceding activation."""
        vertical, horizontal = joint
        return self._features(
            vertical(streams.vertical.value), horizontal(streams.horizontal.value)
        )
