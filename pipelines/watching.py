"""How far the work is, by looking at what lies in the store, whatever runner does it wherever.

Telling is never a reason to fail: what goes wrong with it is logged and the work goes on.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from pipelines.store import Store

ProgressCallback = Callable[..., None]

_LOGGER = logging.getLogger(__name__)
_LOCAL_INTERVAL_SEC = 0.5
# A remote store bills each listing and answers in a tenth of a second.
_REMOTE_INTERVAL_SEC = 2.0
_LISTINGS_AT_ONCE = 16


@contextlib.contextmanager
def watch(
    store: Store, pending: Mapping[str, int], report: Callable[[int], None]
) -> Iterator[None]:
    """Report how many drawings of `pending` (path to drawings) are done while the body runs."""
    stop = threading.Event()
    look = Look(store, pending)
    interval = _REMOTE_INTERVAL_SEC if store.local_path() is None else _LOCAL_INTERVAL_SEC

    def poll() -> None:
        while not stop.wait(interval):
            _say(report, look)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    _say(report, lambda: sum(pending.values()))


class Look:
    """Counts the drawings whose objects are there; each call lists some directories anew.

    Only directories that lack an object are listed, and of those no more than a few at a time.
    """

    def __init__(self, store: Store, pending: Mapping[str, int]) -> None:
        self._store, self._done = store, 0
        self._missing: dict[str, dict[str, int]] = defaultdict(dict)
        for path, rows in pending.items():
            self._missing[path.rpartition("/")[0]][path] = rows

    def __call__(self) -> int:
        """Return the drawings that are done, as far as has been seen."""
        for directory in list(itertools.islice(self._missing, _LISTINGS_AT_ONCE)):
            lacking = self._missing.pop(directory)
            for item in self._store.objects(directory):
                self._done += lacking.pop(item.path, 0)
            if lacking:  # behind the others: all have their turn
                self._missing[directory] = lacking
        return self._done


class Rate:
    """Turns counts of drawings into the note of a progress line: rate and time left."""

    def __init__(self, stage: str, total: int, progress: ProgressCallback | None) -> None:
        self.stage, self.total, self.progress = stage, total, progress
        self.begin = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int) -> None:
        """Report `done` drawings of the total."""
        if self.progress is None:
            return
        if self.first is None:
            self.first = done
        elapsed = time.monotonic() - self.begin
        rate = (done - self.first) / elapsed if elapsed > 0 else 0.0
        left = f", {(self.total - done) / rate:,.0f} s left" if rate and done < self.total else ""
        note = f"{rate:,.0f} drawings/s{left}" if rate else ""
        self.progress(self.stage, done, self.total, note)


def _say(report: Callable[[int], None], count: Callable[[], int]) -> None:
    try:
        report(count())
    except Exception:
        _LOGGER.info("progress could not be told", exc_info=True)
