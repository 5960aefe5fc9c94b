"""Shards as ranges for tasks; many tasks or calls of which every one is tried, so many at once."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")

# A server is unsettled by thousands of task runs; so many ranges keep any number of workers busy.
MAX_RANGES = 200
# A run's message must fit a page.
SHOWN_ERRORS = 10


class SomeFailedError(RuntimeError):
    """Some of many tasks failed; the message says which and why."""


def ranges_of(missing: Sequence[int], num_shards: int) -> list[tuple[int, int]]:
    """Return ranges of equal size, at most MAX_RANGES, that hold a missing shard.

    Where they begin depends on the number of shards alone, so that whoever plans again, when some
    are drawn, asks for the same ranges. What a range has already is not drawn again.

    >>> ranges_of([0, 1, 6], 7)
    [(0, 1), (1, 2), (6, 7)]
    >>> len(ranges_of(range(0, 4000, 2), 4000))
    200
    """
    size = max(1, -(-num_shards // MAX_RANGES))
    starts = sorted({shard // size * size for shard in missing})
    return [(start, min(start + size, num_shards)) for start in starts]


def run_window(task: Any, asked: Sequence[Any], places: Any, *, at_once: int) -> None:
    """Run a Prefect task for each of `asked`, so many at once, to the end of the last.

    Raises SomeFailedError with what every task that failed has said.
    """
    free = threading.Semaphore(at_once)
    futures = []
    for each in asked:
        free.acquire()
        future = task.submit(each, places)
        future.add_done_callback(lambda _: free.release())
        futures.append(future)
    results_of_all([future.result for future in futures])


def results_of_all(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Make every call and return what they return; raise SomeFailedError once all are tried."""
    results: list[_T] = []
    errors: list[Exception] = []
    for call in calls:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)
    if errors:
        told = "\n".join(_brief(error) for error in errors[:SHOWN_ERRORS])
        raise SomeFailedError(
            f"{len(errors)} of {len(calls)} failed; run it again to do these alone:\n{told}"
        )
    return results


def _brief(error: Exception) -> str:
    """Return an error's first line, and its last, where a child says what went wrong."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: " + " ... ".join(dict.fromkeys((lines[0], lines[-1])))
