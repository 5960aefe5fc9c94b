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
    """Runs rows: a kind of row that is new eagerly, while it is captured; others by replay.

    It keeps no reference to who runs rows: that would be a cycle, and gigabytes of a sampler
    that nobody uses would wait for Python's collector.
    """

    def __init__(self, *, period: int) -> None:
        """Begin with no graph."""
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
