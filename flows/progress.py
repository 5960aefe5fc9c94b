"""The progress display of this process: stages report to it wherever they run.

A flow's parameters must be plain values, so the display cannot be one of them. The command line
sets it; a worker that sets none logs plain lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flows.console import LogLines, ProgressCallback

_current: list[ProgressCallback] = []


@contextmanager
def showing(progress: ProgressCallback) -> Iterator[None]:
    """Make `progress` the display within the block."""
    _current.append(progress)
    try:
        yield
    finally:
        _current.remove(progress)


def current() -> ProgressCallback:
    """Return the display that was set last, or one of plain lines."""
    return _current[-1] if _current else LogLines()
