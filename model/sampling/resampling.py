"""Incremental evaluation of the first layers and of up- and downsampling, by rows and positions.

These layers read values, not activations, and run in the wide dtype. As in model.sampling.blocks,
`run` computes a vertical row, `begin` and `step` a horizontal one. Rows and positions are those
of a layer's output.
"""

from torch import Tensor

from model.network.layers import NormedLayer
from model.sampling.rows import Feature, Place, Rows, Tap, add_row_taps, conv_taps


class Begin:
    """The first layers of both streams, from pixels in [-1, 1]."""

    def __init__(
        self,
        place: Place,
        layers: tuple[NormedLayer, NormedLayer, NormedLayer],
        pixels: Rows,
        outs: tuple[Feature, Feature],
    ) -> None:
        """Take the layers vertical, up, left."""
        vertical, up, left = layers
        self.outs, self._pixels = outs, pixels
        self._vertical = conv_taps(vertical, place.wide)
        self._vertical_bias = vertical.bias.detach().to(place.wide)
        taps = conv_taps(up, place.wide) + conv_taps(left, place.wide)
        self._above = [tap for tap in taps if tap.row < 0]
        self._own = [tap for tap in taps if tap.row == 0]
        self._bias = (up.bias.detach() + left.bias.detach()).to(place.wide)
        self._row = 0

    def run(self, i: int) -> None:
        """Compute the vertical row."""
        value = self.outs[0].value.flat(i)
        value.copy_(self._vertical_bias)
        add_row_taps(value, self._pixels, i, self._vertical)
        self.outs[0].active.set_row(i, value)

    def begin(self, i: int) -> None:
        """Compute the horizontal row's terms from the rows above."""
        self._row = i
        self._pixels.start(i)
        self.outs[1].active.start(i)
        value = self.outs[1].value.flat(i)
        value.copy_(self._bias)
        add_row_taps(value, self._pixels, i, self._above)

    def step(self, j: int) -> None:
        """Compute position j of the horizontal row."""
        value = self.outs[1].value.cols(self._row)[j]
        for tap in self._own:
            if j + tap.col >= 0:
                value.addmm_(self._pixels.cols(self._row)[j + tap.col], tap.weight)
        self.outs[1].active.set_col(self._row, j, value)


class _Resampling:
    """A vertical and a horizontal layer that change the resolution."""

    def __init__(
        self,
        place: Place,
        layers: tuple[NormedLayer, NormedLayer],
        sources: tuple[Feature, Feature],
        outs: tuple[Feature, Feature],
    ) -> None:
        """Take the layers vertical, horizontal."""
        self.outs, self._sources = outs, sources
        (self._vertical, self._vertical_bias), (self._horizontal, self._bias) = (
            (conv_taps(layer, place.wide), layer.bias.detach().to(place.wide)) for layer in layers
        )
        self._row = 0

    @staticmethod
    def _add_taps(out: Tensor, source: Rows, i: int, taps: list[Tap]) -> None:
        """Add to row i, `out` [width, batch, outputs], what these taps of the source give."""
        raise NotImplementedError

    def run(self, i: int) -> None:
        """Compute the vertical row."""
        value = self.outs[0].value
        value.flat(i).copy_(self._vertical_bias)
        self._add_taps(value.grid(i), self._sources[0].value, i, self._vertical)
        self.outs[0].active.set_row(i, value.flat(i))


class Down(_Resampling):
    """Half the resolution: output (i, j) reads rows up to 2 i and, horizontally, columns to 2 j."""

    def begin(self, i: int) -> None:
        """Compute the horizontal row's terms from the rows above."""
        self._row = i
        self.outs[1].active.start(i)
        value = self.outs[1].value
        value.flat(i).copy_(self._bias)
        above = [tap for tap in self._horizontal if tap.row < 0]
        self._add_taps(value.grid(i), self._sources[1].value, i, above)

    def step(self, j: int) -> None:
        """Compute position j of the horizontal row."""
        value = self.outs[1].value.cols(self._row)[j]
        source = self._sources[1].value.cols(2 * self._row)
        for tap in self._horizontal:
            if tap.row == 0 and 2 * j + tap.col >= 0:
                value.addmm_(source[2 * j + tap.col], tap.weight)
        self.outs[1].active.set_col(self._row, j, value)

    @staticmethod
    def _add_taps(out: Tensor, source: Rows, i: int, taps: list[Tap]) -> None:
        """Add the strided taps of output row i to `out` [width, batch, outputs]."""
        width = len(out)
        for tap in taps:
            if 2 * i + tap.row < 0:
                continue
            first = max(0, (1 - tap.col) // 2)
            last = min(width, (source.width - 1 - tap.col) // 2 + 1)
            if first < last:
                read = source.grid(2 * i + tap.row)[
                    2 * first + tap.col : 2 * last - 1 + tap.col : 2
                ]
                out[first:last].flatten(0, 1).addmm_(read.flatten(0, 1), tap.weight)


class Up(_Resampling):
    """Twice the resolution: input (i, j) adds to rows from 2 i and columns around 2 j.

    An odd horizontal row depends only on a finished row of the coarse level; each position of an
    even row waits for the coarse position above it.
    """

    def begin(self, i: int) -> None:
        """Begin the horizontal row, and compute it if it is odd."""
        self._row = i
        value = self.outs[1].value
        value.flat(i).copy_(self._bias)
        if i % 2:
            self._add_taps(value.grid(i), self._sources[1].value, i, self._horizontal)
            self.outs[1].active.set_row(i, value.flat(i))
        else:
            self.outs[1].active.start(i)

    def step(self, j: int) -> None:
        """Compute position j of an even horizontal row."""
        i = self._row
        if i % 2:
            return
        value = self.outs[1].value.cols(i)[j]
        source = self._sources[1].value.cols(i // 2)
        for tap in self._horizontal:
            if tap.row == 0 and (j - tap.col) % 2 == 0 and j >= tap.col:
                value.addmm_(source[(j - tap.col) // 2], tap.weight)
        self.outs[1].active.set_col(i, j, value)

    @staticmethod
    def _add_taps(out: Tensor, source: Rows, i: int, taps: list[Tap]) -> None:
        """Add the contributions of the coarse rows to row i, `out` [width, batch, outputs]."""
        width = len(out)
        for tap in taps:
            if (i - tap.row) % 2 or i < tap.row:
                continue
            first = max(0, (1 - tap.col) // 2)
            last = min(source.width, (width - 1 - tap.col) // 2 + 1)
            if first < last:
                read = source.grid((i - tap.row) // 2)[first:last]
                added = read.flatten(0, 1) @ tap.weight
                places = out[2 * first + tap.col : 2 * last - 1 + tap.col : 2]
                places += added.view_as(places)
