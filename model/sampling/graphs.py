"""Rows as CUDA graphs: some 7,000 small kernels each, whose launches would take most of the time.

A row's operations depend on its number only through what memory it uses and which levels it
has, which repeats after `period` rows; the first rows read less, because nothing is above them.
So the graphs are those of rows 0 .. 2 * period - 1, and later rows replay the second half.
"""

from collections.abc import Callable

import torch


def graph_key(row: int, period: int) -> int:
    """Return the first row with the same operations as this one.

    >>> [graph_key(row, 2) for row in range(7)]
    [0, 1, 2, 3, 2, 3, 2]
    """
    return row if row < period else period + row % period


class RowGraphs:
    """Runs rows: a kind of row that is new eagerly, while it is captured; others by replay."""

    def __init__(self, run: Callable[[int], None], *, period: int) -> None:
        """Take the function that runs a row on static memory."""
        self._run, self._period = run, period
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, row: int) -> None:
        """Run one row."""
        key = graph_key(row, self._period)
        if key in self._graphs:
            self._graphs[key].replay()
            return
        # Running first also makes the libraries allocate what they may not while capturing.
        self._run(row)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Results are in static memory and rows run one after the other: graphs share a pool.
        with torch.cuda.graph(graph, pool=self._pool):
            self._run(row)
        self._graphs[key] = graph
