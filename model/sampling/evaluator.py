"""The network evaluated in raster order, every position of every layer exactly once.

Vertical features of a pixel row depend on the rows above it. A horizontal feature at (r, c)
depends on the pixels before (r, c); on level l it exists where 2^l divides r and c, is computable
before pixel (r, c), and is read by the 2^l x 2^l pixels from there on. At pixel (r, c) exactly the
levels run whose grid contains that point, and each feature is computed once:

    begin(r)    vertical blocks down and up the levels that contain r; then, for each horizontal
                block of those, the terms from above and from the vertical stream, by whole rows
    step(r, c)  the remaining terms of the horizontal blocks on the levels that contain c

On a GPU a row is a CUDA graph: it has some 7,000 small kernels, whose launches would dominate the
time. The operations of a row depend on its number only through memory slots and levels, which
repeat after `period` rows; the first rows read less, because there are no rows above them. The
graphs are those of rows 0 .. 2 * period - 1, and later rows replay the second half.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.config import PixelCNNConfig
from model.network.network import BlockPair, PixelCNNNetwork
from model.sampling.blocks import PairSteps, Scratch
from model.sampling.resampling import Begin, Down, Up
from model.sampling.rows import Feature, Place, Rows, dense_parts, make_feature

# Rows kept of a horizontal feature: layers read the current row and the one above.
_HORIZONTAL_ROWS = 2


def graph_key(row: int, period: int) -> int:
    """Return the first row with the same operations as this one.

    >>> [graph_key(row, 2) for row in range(7)]
    [0, 1, 2, 3, 2, 3, 2]
    """
    return row if row < period else period + row % period


class RowGraphs:
    """Runs rows: captures the graph of a new kind of row and replays known ones.

    Holds no reference to the caller: a reference cycle would keep gigabytes of an unused sampler
    until Python's garbage collection.
    """

    def __init__(self, *, period: int) -> None:
        """Start without graphs."""
        self._period = period
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, row: int, run_row: Callable[[int], None]) -> None:
        """Run one row; `run_row` runs it on static memory, the same at every call."""
        key = graph_key(row, self._period)
        if key in self._graphs:
            self._graphs[key].replay()
            return
        # Running first also makes the libraries allocate what they may not while capturing.
        run_row(row)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Results are in static memory and rows run one after the other: graphs share a pool.
        with torch.cuda.graph(graph, pool=self._pool):
            run_row(row)
        self._graphs[key] = graph


class Evaluator:
    """All layers of one network with memory for one batch; weights are copied.

    pixels  rows of pixels in [-1, 1], written by the caller: (r, c) before the next step
    """

    def __init__(self, network: PixelCNNNetwork, place: Place) -> None:
        """Allocate features and take weights, in the order of evaluation."""
        config: PixelCNNConfig = network.config
        self._config, self._place, self._network = config, place, network
        self._levels = range(config.num_hierarchies)
        rows, width = config.receptive_field_dims[0], config.image_shape[1]
        self._history = max(2, _power_of_two(rows - 1))
        slots = _power_of_two(rows)
        self.pixels = Rows(place, width, config.num_channels, slots=slots, dtype=place.wide)
        layers = network.init_vertical, network.init_up, network.init_left
        filters = config.num_filters
        self._scratch = [Scratch(place, width >> level, filters) for level in self._levels]
        self._start = Begin(place, layers, self.pixels, self._streams(0))
        self._down_pairs: list[list[PairSteps]] = []
        self._up_pairs: list[list[PairSteps]] = [[] for _ in self._levels]
        self._downs: list[Down] = []
        self._ups: list[Up] = []
        self._last = self._build_up(self._build_down())
        (self._output,) = dense_parts(network.output, 1, place.wide)
        self._output_bias = network.output.bias.detach().to(place.wide)

    @property
    def period(self) -> int:
        """Return the number of rows after which memory slots and levels repeat.

        The first `period` rows differ from later ones: they lack rows above.
        """
        return max(self._history << self._levels[-1], self.pixels.slots)

    def project(self, codes: list[Tensor | None]) -> None:
        """Project a batch's codes for every block, once unless they are spatial."""
        for level, code in enumerate(codes):
            if code is None or code.ndim == 4:
                continue
            for pair in self._down_pairs[level] + self._up_pairs[level]:
                for block in (pair.vertical, pair.horizontal):
                    block.condition.project(code)

    def begin(self, row: int, code_rows: list[Tensor | None]) -> None:
        """Begin a row of pixels; code_rows [width * batch, dim] are rows of spatial codes."""
        rows = [row >> level for level in range(self.depth(row) + 1)]
        self._run_vertical(rows, code_rows)
        self._start.begin(row)
        for level, i in enumerate(rows):
            if level > 0:
                self._downs[level - 1].begin(i)
            if level + 1 in self._levels:
                self._ups[level].begin(i)
            for pair in self._down_pairs[level] + self._up_pairs[level]:
                pair.horizontal.begin(i, code_rows[level])

    def step(self, row: int, column: int, *, out: Tensor) -> None:
        """Write a pixel's parameters [batch, params] to `out`, after all pixels before it."""
        depth = min(self.depth(row), self.depth(column))
        self._start.step(column)
        for level in range(depth + 1):
            if level > 0:
                self._downs[level - 1].step(column >> level)
            for pair in self._down_pairs[level]:
                pair.horizontal.step(column >> level)
        for level in range(depth, -1, -1):
            if level + 1 in self._levels:
                self._ups[level].step(column >> level)
            for pair in self._up_pairs[level]:
                pair.horizontal.step(column >> level)
        active = F.elu(self._last.value.cols(row)[column])
        torch.addmm(self._output_bias, active, self._output, out=out)

    def depth(self, position: int) -> int:
        """Return the coarsest level whose grid contains this row or column."""
        coarsest = self._levels[-1]
        return min(coarsest, (position & -position).bit_length() - 1) if position else coarsest

    def _run_vertical(self, rows: list[int], code_rows: list[Tensor | None]) -> None:
        self._start.run(rows[0])
        for level, i in enumerate(rows):
            if level > 0:
                self._downs[level - 1].run(i)
            for pair in self._down_pairs[level]:
                pair.vertical.run(i, code_rows[level])
        for level, i in reversed(list(enumerate(rows))):
            if level + 1 in self._levels:
                self._ups[level].run(i)
            for pair in self._up_pairs[level]:
                pair.vertical.run(i, code_rows[level])

    def _build_down(self) -> list[tuple[Feature, Feature]]:
        """Return all features on the way down; the way up consumes them in reverse order."""
        network, saved = self._network, [self._start.outs]
        for level in self._levels:
            pairs = []
            for pair in network.down_pairs(level):
                pairs.append(self._pair(pair, level, saved[-1], (None, None)))
                saved.append(pairs[-1].outs)
            self._down_pairs.append(pairs)
            if level + 1 in self._levels:
                layers = network.down_joint(level)
                outs = self._streams(level + 1)
                self._downs.append(Down(self._place, layers, saved[-1], outs))
                saved.append(outs)
        return saved

    def _build_up(self, saved: list[tuple[Feature, Feature]]) -> Feature:
        """Return the feature that the output layer reads."""
        network, streams = self._network, saved.pop()
        for level in reversed(self._levels):
            for pair in network.up_pairs(level):
                steps = self._pair(pair, level, streams, saved.pop())
                self._up_pairs[level].append(steps)
                streams = steps.outs
            if level > 0:
                layers = network.up_joint(level - 1)
                outs = self._streams(level - 1)
                self._ups.insert(0, Up(self._place, layers, streams, outs))
                streams = outs
        return streams[1]

    def _pair(
        self,
        pair: BlockPair,
        level: int,
        sources: tuple[Feature, Feature],
        skips: tuple[Feature, Feature] | tuple[None, None],
    ) -> PairSteps:
        return PairSteps(
            self._place, pair, sources, skips, self._streams(level), self._scratch[level]
        )

    def _streams(self, level: int) -> tuple[Feature, Feature]:
        """Allocate both streams at one place of the network."""
        width, filters = self._config.image_shape[1] >> level, self._config.num_filters
        return (
            make_feature(self._place, width, filters, slots=self._history),
            make_feature(self._place, width, filters, slots=_HORIZONTAL_ROWS),
        )


def _power_of_two(least: int) -> int:
    """Return the smallest power of two from `least` on: such ring buffers repeat together."""
    return 1 << (least - 1).bit_length()
