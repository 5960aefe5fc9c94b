"""Incremental evaluation of gated blocks, by rows and by positions.

The vertical stream depends only on rows above, so it runs by rows: `run(i)`. The horizontal stream
runs in two steps: `begin(i)` computes for the whole row the terms that depend on rows above and on
the vertical stream (four fifths of the work, as large products); `step(j)` adds the terms that
depend on the row's positions up to j. Rows and positions are those of the block's level.
"""

import torch
from torch import Tensor

from model.network.layers import NormedLayer
from model.network.network import BlockPair, GatedBlock
from model.sampling.rows import (
    Active,
    Feature,
    Place,
    Rows,
    Tap,
    add_row_taps,
    conv_taps,
    dense_parts,
)


class BlockCondition:
    """The terms that a block adds before its gate: the bias and the projected condition."""

    def __init__(self, place: Place, block: GatedBlock) -> None:
        """Fold the biases; an unconditional block has no other term."""
        self._bias = block.conv2.bias.detach().to(place.wide)
        self._weight: Tensor | None = None
        self._projected: Tensor | None = None
        if block.projection is not None:
            self._bias = self._bias + block.projection.bias.detach().to(place.wide)
            self._weight = block.projection.weight.detach().to(place.wide).t().contiguous()
            self._projected = place.empty(place.batch, len(self._bias), dtype=place.wide)

    def project(self, code: Tensor) -> None:
        """Project a batch's code [batch, dim], once for all positions."""
        assert self._weight is not None
        torch.addmm(self._bias, code, self._weight, out=self._projected)

    def fill(self, out: Rows, code_row: Tensor | None) -> None:
        """Write a row's terms; code_row [width * batch, dim] is the row of a spatial code."""
        if code_row is not None:
            assert self._weight is not None
            out.flat(0).copy_(torch.addmm(self._bias, code_row, self._weight))
        else:
            out.grid(0).copy_(self._bias if self._projected is None else self._projected)


class Scratch:
    """Memory for one row of a block's sums, shared by all vertical blocks of a level."""

    def __init__(self, place: Place, width: int, filters: int) -> None:
        """Allocate memory."""
        self.hidden = Rows(place, width, filters, slots=1, dtype=place.narrow)
        self.gates = Rows(place, width, 2 * filters, slots=1, dtype=place.narrow)


class VerticalBlock:
    """A gated block of the vertical stream."""

    def __init__(
        self,
        place: Place,
        block: GatedBlock,
        source: Feature,
        out: Feature,
        *,
        skip: Feature | None,
        scratch: Scratch,
    ) -> None:
        """Take the block's weights and the features that it reads and writes."""
        self.out, self._source, self._skip = out, source, skip
        width, filters = source.value.width, block.conv1.num_outputs
        self._conv1 = conv_taps(block.conv1, place.narrow)
        self._conv2 = conv_taps(block.conv2, place.narrow)
        self._bias1 = hidden_bias(place, block)
        self._skip_weight: Tensor | None = None
        if block.skip is not None:
            (self._skip_weight,) = dense_parts(block.skip, 1, place.narrow)
        self.condition = BlockCondition(place, block)
        self._scratch = scratch
        self._middle = Active(place, width, filters, slots=out.active.slots)

    def run(self, i: int, code_row: Tensor | None) -> None:
        """Compute row i of the output."""
        hidden, gates = self._scratch.hidden.flat(0), self._scratch.gates.flat(0)
        hidden.copy_(self._bias1)
        add_row_taps(hidden, self._source.active, i, self._conv1)
        if self._skip is not None and self._skip_weight is not None:
            hidden.addmm_(self._skip.active.flat(i), self._skip_weight)
        self._middle.set_row(i, hidden)
        self.condition.fill(self._scratch.gates, code_row)
        add_row_taps(gates, self._middle, i, self._conv2)
        a, b = gates.chunk(2, dim=1)
        value = self.out.value.flat(i)
        torch.addcmul(self._source.value.flat(i), a, b.sigmoid_(), out=value)
        self.out.active.set_row(i, value)


class HorizontalBlock:
    """A gated block of the horizontal stream; `beside` is the vertical block's output."""

    def __init__(
        self,
        place: Place,
        block: GatedBlock,
        source: Feature,
        out: Feature,
        *,
        beside: Feature,
        skip: Feature | None,
    ) -> None:
        """Take the block's weights and the features that it reads and writes."""
        self.out, self._source, self._beside, self._skip = out, source, beside, skip
        width, filters = source.value.width, block.conv1.num_outputs
        self._above1, self._own1 = _split_taps(place, block.conv1)
        self._above2, self._own2 = _split_taps(place, block.conv2)
        self._bias1 = hidden_bias(place, block)
        assert block.skip is not None
        parts = dense_parts(block.skip, 1 if skip is None else 2, place.narrow)
        self._beside_weight, self._skip_weight = parts[0], parts[-1]
        self.condition = BlockCondition(place, block)
        self._hidden = Rows(place, width, filters, slots=1, dtype=place.narrow)
        self._gates = Rows(place, width, 2 * filters, slots=1, dtype=place.narrow)
        self._middle = Active(place, width, filters, slots=2)
        self._a, self._b = zip(*(col.chunk(2, dim=1) for col in self._gates.cols(0)), strict=True)
        self._row = 0

    def begin(self, i: int, code_row: Tensor | None) -> None:
        """Compute the terms of row i from the rows above and the vertical stream."""
        self._row = i
        for rows in (self._middle, self.out.value, self.out.active):
            rows.start(i)
        hidden, gates = self._hidden.flat(0), self._gates.flat(0)
        torch.addmm(self._bias1, self._beside.active.flat(i), self._beside_weight, out=hidden)
        add_row_taps(hidden, self._source.active, i, self._above1)
        self.condition.fill(self._gates, code_row)
        add_row_taps(gates, self._middle, i, self._above2)

    def step(self, j: int) -> None:
        """Compute position j of the row."""
        i = self._row
        hidden = self._hidden.columns[0][j]
        _add_own_taps(hidden, self._source.active.cols(i), j, self._own1)
        if self._skip is not None:
            hidden.addmm_(self._skip.active.cols(i)[j], self._skip_weight)
        self._middle.set_col(i, j, hidden)
        _add_own_taps(self._gates.columns[0][j], self._middle.cols(i), j, self._own2)
        value = self.out.value.cols(i)[j]
        torch.addcmul(self._source.value.cols(i)[j], self._a[j], self._b[j].sigmoid_(), out=value)
        self.out.active.set_col(i, j, value)


class PairSteps:
    """A vertical block and the horizontal one that reads it."""

    def __init__(
        self,
        place: Place,
        pair: BlockPair,
        sources: tuple[Feature, Feature],
        skips: tuple[Feature, Feature] | tuple[None, None],
        outs: tuple[Feature, Feature],
        scratch: Scratch,
    ) -> None:
        """Take weights, and features as (vertical, horizontal)."""
        self.outs = outs
        self.vertical = VerticalBlock(
            place, pair.vertical, sources[0], outs[0], skip=skips[0], scratch=scratch
        )
        self.horizontal = HorizontalBlock(
            place, pair.horizontal, sources[1], outs[1], beside=outs[0], skip=skips[1]
        )


def hidden_bias(place: Place, block: GatedBlock) -> Tensor:
    """Return the bias of a block's first convolution and its skips together."""
    bias = block.conv1.bias.detach()
    if block.skip is not None:
        bias = bias + block.skip.bias.detach()
    return bias.to(place.narrow)


def _split_taps(place: Place, layer: NormedLayer) -> tuple[list[Tap], list[tuple[int, Tensor]]]:
    """Return the taps in rows above, and column and weight of those in the current row."""
    taps = conv_taps(layer, place.narrow)
    own = [(tap.col, tap.weight) for tap in taps if tap.row == 0]
    return [tap for tap in taps if tap.row < 0], own


def _add_own_taps(
    out: Tensor, source: tuple[Tensor, ...], j: int, taps: list[tuple[int, Tensor]]
) -> None:
    """Add the terms that a position reads from its own row, up to itself."""
    for col, weight in taps:
        if j + col >= 0:
            out.addmm_(source[j + col], weight)
