"""The progress display of this process: stages report to it wherever they run.

A flow's parameters must be plain values, so the display cannot be one of them. The command line
sets it, for all commands; a worker that sets none logs plain lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flows.console import LogLines, ProgressCallback
from pipelines.watching import telling

_current: list[ProgressCallback] = []


@contextmanager
def showing(progress: ProgressCallback, what: str = "sketchmill") -> Iterator[None]:
    """Make `progress` the display within the block; it also shows what tells no progress.

    what: is done, such as the command, where nothing says it better.
    """
    with telling(progress, what) as display:
        _current.append(display)
        try:
            yield
        finally:
            _current.remove(display)


def current() -> ProgressCallback:
    """Return the display that was set last, or one of plain lines."""
    return _current[-1] if _current else LogLines()
