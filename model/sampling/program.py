"""A network as the program that portable.c runs: features, taps, layers and their order.

    feature   rows of numbers in a ring, [slot][column][channel][drawing]
    tap       the channels of a feature that a layer reads at one place, with their weights
    layer     sums over its taps, and what becomes of them: an activation, a gated block's output,
              a stream's value, or the parameters of a pixel

Layers are evaluated in the order of model.sampling.evaluator, each at one position at a time. Weights
are float32, with weight norm folded in the same way on every CPU.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from model.network.kernels.activations import activation_width
from model.network.layers import NormedLayer
from model.network.network import BlockPair, GatedBlock, PixelCNNNetwork
from model.network.pixelcnn import PixelCNN
from model.sampling.spec import PORTABLE_BLOCK as BLOCK

Numbers = npt.NDArray[np.float32]

# As in portable.c.
_MOST_OUTPUTS = 6
_ACTIVE, _GATED, _VALUE, _PARAMETERS = range(4)
# Of the streams, the positions in a pair.
_VERTICAL, _HORIZONTAL = range(2)
# The epsilon of model.network.layers.
_NORM_EPSILON = 1e-12


def folded(layer: NormedLayer) -> Numbers:
    """Return a layer's weights W [outputs, inputs, rows, columns], the same bits on every CPU."""
    v = layer.v.detach().cpu().numpy().astype(np.float64)
    if layer.g is None:
        return v.astype(np.float32)
    squares = _total((v * v).reshape(len(v), -1))
    gain = layer.g.detach().cpu().numpy() / np.sqrt(np.maximum(squares, _NORM_EPSILON))
    return (v * gain[:, None, None, None]).astype(np.float32)


def _total(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums of rows; NumPy's own may be in another order on another CPU."""
    width = _power_of_two(numbers.shape[1])
    numbers = np.pad(numbers, ((0, 0), (0, width - numbers.shape[1])))
    while width > 1:
        width //= 2
        numbers = numbers[:, :width] + numbers[:, width:]
    return numbers[:, 0]


@dataclass(frozen=True, slots=True)
class _Read:
    """A tap of a layer with its weights [channels, outputs]."""

    feature: int
    row: int
    column: int
    stride: int
    weight: Numbers
    is_condition: bool = False


@dataclass(frozen=True, slots=True)
class _Feature:
    """A stream's value and activation at one place of the network."""

    value: int
    active: int


_Pair = tuple[_Feature, _Feature]


@dataclass(slots=True)
class _Tables:
    """The program as it grows: rows of the C structs, and weights."""

    features: list[tuple[int, ...]] = field(default_factory=list)
    taps: list[tuple[int, ...]] = field(default_factory=list)
    layers: list[tuple[int, ...]] = field(default_factory=list)
    weights: list[Numbers] = field(default_factory=list)
    orders: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    num_weights: int = 0


class Program:
    """What the C runs for one network.

    struct      the C struct `program`
    state_size  numbers that one pass over the network keeps
    widest      outputs of the widest layer
    """

    def __init__(self, model: PixelCNN) -> None:
        """Copy the weights."""
        self.state_size = self.widest = 0
        self._config, self._tables = model.config, _Tables()
        rows = model.config.receptive_field_dims[0]
        self._slots = max(2, _power_of_two(rows - 1)), 2
        self._wide = model.config.num_filters * activation_width(model.config.resnet_activation)
        self._is_map = model.config.condition.kind == "embedding_map"
        self._codes = self._add_codes(model.encoder.code_dim)
        self._pixels = self._feature(1, 0, _power_of_two(rows))
        self._add_network(model.network)
        self.struct = self._make_struct()

    def _add_network(self, network: PixelCNNNetwork) -> None:
        streams = self._begin(network)
        saved, levels = [streams], range(self._config.num_hierarchies)
        for level in levels:
            for pair in network.down_pairs(level):
                streams = self._pair(pair, level, streams, None)
                saved.append(streams)
            if level + 1 in levels:
                streams = self._join(network.down_joint(level), level + 1, streams, stride=2)
                saved.append(streams)
        streams = saved.pop()
        for level in reversed(levels):
            for pair in network.up_pairs(level):
                streams = self._pair(pair, level, streams, saved.pop())
            if level > 0:
                streams = self._join(network.up_joint(level - 1), level - 1, streams, stride=-2)
        # Of concat_elu the first half is elu, which the last layer reads.
        weight = folded(network.output)[:, :, 0, 0].T
        read = _Read(streams[_HORIZONTAL].active, 0, 0, 1, weight)
        self._layer(_HORIZONTAL, 0, _PARAMETERS, [read], network.output.bias)

    def _begin(self, network: PixelCNNNetwork) -> _Pair:
        vertical = self._conv(self._pixels, network.init_vertical)
        beside = (network.init_up, network.init_left)
        horizontal = [read for layer in beside for read in self._conv(self._pixels, layer)]
        bias = _sum(*(layer.bias for layer in beside))
        return (
            self._value(_VERTICAL, 0, vertical, network.init_vertical.bias),
            self._value(_HORIZONTAL, 0, horizontal, bias),
        )

    def _pair(self, pair: BlockPair, level: int, source: _Pair, skip: _Pair | None) -> _Pair:
        above, beside = ((), ()) if skip is None else ((skip[0],), (skip[1],))
        vertical = self._block(_VERTICAL, pair.vertical, level, source[0], above)
        horizontal = self._block(
            _HORIZONTAL, pair.horizontal, level, source[1], (vertical, *beside)
        )
        return vertical, horizontal

    def _block(
        self,
        stream: int,
        block: GatedBlock,
        level: int,
        source: _Feature,
        skips: Sequence[_Feature],
    ) -> _Feature:
        hidden = self._feature(self._wide, level, self._slots[stream])
        reads, bias = self._conv(source.active, block.conv1), block.conv1.bias
        if block.skip is not None:
            parts = np.split(folded(block.skip)[:, :, 0, 0].T, len(skips))
            reads += [_Read(each.active, 0, 0, 1, w) for each, w in zip(skips, parts, strict=True)]
            bias = _sum(bias, block.skip.bias)
        self._layer(stream, level, _ACTIVE, reads, bias, active=hidden)
        reads, bias = self._conv(hidden, block.conv2), block.conv2.bias
        if block.projection is not None:
            weight = block.projection.weight.detach().numpy().T
            stride = 1 if self._is_map else 0  # a code without places is at (0, 0)
            reads.append(_Read(self._codes[level], 0, 0, stride, weight, is_condition=True))
            bias = _sum(bias, block.projection.bias)
        out = self._stream(stream, level)
        self._layer(stream, level, _GATED, reads, bias, source=source.value, out=out)
        return out

    def _join(
        self, joint: tuple[NormedLayer, NormedLayer], level: int, source: _Pair, *, stride: int
    ) -> _Pair:
        vertical, horizontal = (
            self._value(stream, level, self._conv(source[stream].value, layer, stride), layer.bias)
            for stream, layer in enumerate(joint)
        )
        return vertical, horizontal

    def _value(
        self, stream: int, level: int, reads: Sequence[_Read], bias: torch.Tensor
    ) -> _Feature:
        out = self._stream(stream, level)
        self._layer(stream, level, _VALUE, reads, bias, out=out)
        return out

    def _conv(self, feature: int, layer: NormedLayer, stride: int = 1) -> list[_Read]:
        taps, weight = layer.taps, folded(layer)
        return [
            _Read(feature, taps.row + a, taps.col + b, stride, weight[:, :, a, b].T)
            for a in range(taps.height)
            for b in range(taps.width)
        ]

    def _stream(self, stream: int, level: int) -> _Feature:
        filters, slots = self._config.num_filters, self._slots[stream]
        value = self._feature(filters, level, slots)
        return _Feature(value, self._feature(self._wide, level, slots))

    def _feature(self, channels: int, level: int, slots: int) -> int:
        columns = self._config.image_shape[1] >> level
        self._tables.features.append((self.state_size, channels, columns, slots))
        self.state_size += slots * columns * channels * BLOCK
        return len(self._tables.features) - 1

    def _add_codes(self, dim: int) -> list[int]:
        """Add the condition at each level, which has memory of its own."""
        height, width, _ = self._config.image_shape
        for level in range(self._config.num_hierarchies if dim else 0):
            columns, rows = (width >> level, height >> level) if self._is_map else (1, 1)
            self._tables.features.append((0, dim, columns, rows))
        return list(range(len(self._tables.features)))

    def _layer(
        self,
        stream: int,
        level: int,
        kind: int,
        reads: Sequence[_Read],
        bias: torch.Tensor,
        *,
        source: int = 0,
        active: int = 0,
        out: _Feature | None = None,
    ) -> None:
        """Add a layer that is evaluated after those of its stream so far."""
        tables, first = self._tables, len(self._tables.taps)
        for read in reads:
            place = read.feature, len(read.weight), read.row, read.column, read.stride
            tables.taps.append((*place, int(read.is_condition)))
        weight = np.concatenate([read.weight for read in reads])
        inputs, outputs = weight.shape
        out = out or _Feature(0, active)
        kept = self._keep(*_groups(weight)), self._keep(bias.detach().numpy())
        outs = source, out.value, out.active
        tables.layers.append((level, first, len(reads), inputs, outputs, *kept, kind, *outs))
        tables.orders[stream].append(len(tables.layers) - 1)
        self.widest = max(self.widest, outputs)

    def _keep(self, *weights: npt.NDArray[np.floating]) -> int:
        """Add weights one after the other; return where the first is."""
        place = self._tables.num_weights
        for each in weights:
            self._tables.weights.append(np.ascontiguousarray(each, np.float32).ravel())
            self._tables.num_weights += each.size
        return place

    def _make_struct(self) -> "_Struct":
        tables, config = self._tables, self._config
        rows = (tables.features, tables.taps, tables.layers, *tables.orders)
        features, taps, layers, vertical, horizontal = (np.array(each, np.int64) for each in rows)
        weights = np.concatenate(tables.weights)
        self._memory = (features, taps, layers, weights, vertical, horizontal)  # pointed to
        height, width, _ = config.image_shape
        return _Struct(
            *(each.ctypes.data for each in self._memory),
            *(len(order) for order in tables.orders),
            config.num_hierarchies,
            int(config.resnet_activation == "concat_elu"),
            height,
            width,
            config.low,
            config.high,
            config.num_logistic_mix,
            self._pixels,
            self.state_size,
        )


def _groups(weight: Numbers) -> list[Numbers]:
    """Return weights [inputs, outputs] by groups of outputs, as even as possible."""
    outputs = weight.shape[1]
    groups, done, parts = -(-outputs // _MOST_OUTPUTS), 0, []
    for group in range(groups):
        size = -(-(outputs - done) // (groups - group))
        parts.append(weight[:, done : done + size])
        done += size
    return parts


def _sum(*biases: torch.Tensor) -> torch.Tensor:
    total = torch.zeros_like(biases[0], dtype=torch.float64)
    for bias in biases:
        total = total + bias.detach().double()
    return total


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


class _Struct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("features", "taps", "layers", "weights")),
        *((name, ctypes.c_void_p) for name in ("vertical", "horizontal")),
        *((name, ctypes.c_int64) for name in ("num_vertical", "num_horizontal", "num_levels")),
        *((name, ctypes.c_int64) for name in ("is_concat", "rows", "columns", "low", "high")),
        *((name, ctypes.c_int64) for name in ("mixtures", "pixels", "state_size")),
    )
