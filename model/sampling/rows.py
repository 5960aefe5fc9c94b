"""Row buffers and tap weights of the cached sampler.

    Rows     the last few rows of one feature, [slot][column][batch, channels], contiguous: a row
             shifted by a tap is a matrix without a copy, and so is a position
    Active   rows that hold an activation, computed as they are written
    Tap      the weights of one tap of a convolution: the input's place relative to the output's

Buffers are not reset between batches: a row is written before it is read, and rows above the image
are never read. With `poison`, unwritten memory holds NaN.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.kernels.activations import activation_width
from model.network.layers import NormedLayer


@dataclass(frozen=True, slots=True)
class Place:
    """Device, batch size and dtypes of a sampler.

    narrow  dtype of activations and of the large products
    wide    dtype of sums: the streams' values, the head's parameters
    """

    batch: int
    narrow: torch.dtype
    wide: torch.dtype
    device: torch.device
    activation: str
    poison: bool = False

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return memory, NaN if poisoned."""
        fill = float("nan") if self.poison else 0.0
        return torch.full(shape, fill, dtype=dtype, device=self.device)


@dataclass(frozen=True, slots=True)
class Tap:
    """One tap: output (i, j) reads input (stride * i + row, stride * j + col).

    In a transposed layer input (i, j) adds to output (stride * i + row, stride * j + col).
    weight: [inputs, outputs]
    """

    row: int
    col: int
    weight: Tensor


class Rows:
    """The last `slots` rows of one feature."""

    def __init__(
        self, place: Place, width: int, channels: int, *, slots: int, dtype: torch.dtype
    ) -> None:
        """Allocate memory."""
        self.width, self.slots, self.poison = width, slots, place.poison
        self.tensor = place.empty(slots, width, place.batch, channels, dtype=dtype)
        self.grids = self.tensor.unbind(0)
        self.flats = [grid.flatten(0, 1) for grid in self.grids]
        self.columns = [grid.unbind(0) for grid in self.grids]

    def grid(self, i: int) -> Tensor:
        """Return row i, [width, batch, channels]."""
        return self.grids[i % self.slots]

    def flat(self, i: int) -> Tensor:
        """Return row i, [width * batch, channels]."""
        return self.flats[i % self.slots]

    def cols(self, i: int) -> tuple[Tensor, ...]:
        """Return the positions of row i, each [batch, channels]."""
        return self.columns[i % self.slots]

    def start(self, i: int) -> None:
        """Invalidate the slot of row i; a no-op unless poisoned."""
        if self.poison:
            self.grid(i).fill_(float("nan"))


class Active(Rows):
    """Rows of activations; concat_elu makes two channels of one."""

    def __init__(self, place: Place, width: int, channels: int, *, slots: int) -> None:
        """Allocate memory for the activation of `channels` numbers."""
        wide = channels * activation_width(place.activation)
        super().__init__(place, width, wide, slots=slots, dtype=place.narrow)
        self._apply = F.relu_ if place.activation == "relu" else F.elu_
        # Both halves of concat_elu; other activations have one part.
        self._row_parts = [flat.split(channels, dim=1) for flat in self.flats]
        self._col_parts = [[col.split(channels, dim=1) for col in cols] for cols in self.columns]

    def set_row(self, i: int, value: Tensor) -> None:
        """Write row i from its value, [width * batch, channels]."""
        slot = i % self.slots
        self._write(value, self.flats[slot], self._row_parts[slot])

    def set_col(self, i: int, j: int, value: Tensor) -> None:
        """Write position (i, j) from its value, [batch, channels]."""
        slot = i % self.slots
        self._write(value, self.columns[slot][j], self._col_parts[slot][j])

    def _write(self, value: Tensor, active: Tensor, parts: tuple[Tensor, ...]) -> None:
        parts[0].copy_(value)
        if len(parts) > 1:
            torch.neg(parts[0], out=parts[1])
        self._apply(active)


@dataclass(frozen=True, slots=True)
class Feature:
    """One stream at one place of the network: its value and its activation."""

    value: Rows
    active: Active


def make_feature(place: Place, width: int, channels: int, *, slots: int) -> Feature:
    """Allocate a feature with `slots` rows."""
    value = Rows(place, width, channels, slots=slots, dtype=place.wide)
    return Feature(value, Active(place, width, channels, slots=slots))


def conv_taps(layer: NormedLayer, dtype: torch.dtype) -> list[Tap]:
    """Return a layer's taps with weight norm folded in."""
    taps, weight = layer.taps, layer.weight().detach().to(dtype)
    return [
        Tap(taps.row + a, taps.col + b, weight[:, :, a, b].t().contiguous())
        for a in range(taps.height)
        for b in range(taps.width)
    ]


def dense_parts(layer: NormedLayer, num_parts: int, dtype: torch.dtype) -> list[Tensor]:
    """Return a 1x1 layer's weights for each of its inputs, [inputs, outputs]."""
    weight = layer.weight().detach()[:, :, 0, 0].to(dtype)
    return [part.t().contiguous() for part in weight.chunk(num_parts, dim=1)]


def add_row_taps(out: Tensor, source: Rows, i: int, taps: list[Tap]) -> None:
    """Add the taps of output row i to `out`, [width * batch, outputs].

    Taps beyond the image's edges are skipped instead of multiplying zeros.
    """
    width, batch = source.width, len(out) // source.width
    for tap in taps:
        if i + tap.row < 0:
            continue
        first, last = max(0, -tap.col), width - max(0, tap.col)
        if first < last:
            rows = source.flat(i + tap.row)[(first + tap.col) * batch : (last + tap.col) * batch]
            out[first * batch : last * batch].addmm_(rows, tap.weight)
