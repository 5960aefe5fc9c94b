"""Report progress by polling the store, and name long operations that report none.

Work that knows its progress calls progress(stage, done, total, message). Other work (a slow store,
a lock of another process, hashing, starting processes) runs in a `doing` block, and
`telling` names it once it takes longer than TELL_SEC, so that every long wait is explained.

Reporting never fails the work: its errors are logged.
"""

import contextlib
import itertools
import json
import logging
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # which names what it does by `doing`
    from pipelines.store.artifacts import Store

# (stage, done, total, message): `done` of `total` units of a stage, with one line to show.
Progress = Callable[[str, int, int, str], None]

_LOGGER = logging.getLogger(__name__)
_LOCAL_INTERVAL_SEC = 0.5
# A remote store bills each listing and answers in a tenth of a second.
_REMOTE_INTERVAL_SEC = 2.0
_LISTINGS_AT_ONCE = 16
# Silence ends after this, so that the line is there within two seconds.
TELL_SEC = 1.7
_TICK_SEC = 0.2
_AGAIN_SEC = 1.0
# The reader of progress may have gone; the work continues.
_JOIN_SEC = 1.0
_OURS = ("flows", "model", "pipelines", "__main__", "encodings")
Event = tuple[str, int, int, str]
_lock = threading.Lock()


def no_progress(stage: str, done: int, total: int, message: str) -> None:
    """Show nothing."""


class JsonReader:
    """Reads the lines of a child: shows progress, repeats warnings, keeps what else it says."""

    def __init__(self, progress: Progress) -> None:
        """Show progress by this; `said` has all other members of the child's JSON objects."""
        self._progress = progress
        self.said: dict[str, Any] = {}

    def __call__(self, line: str) -> None:
        """Read one line; what is not a JSON object is passed over."""
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        if "stage" in event:
            self._progress(event["stage"], event["done"], event["total"], event["message"])
        elif "warning" in event:
            _LOGGER.warning("%s", event["warning"])
        else:
            self.said |= event


class JsonProgress:
    """Writes progress as one JSON object a line, for a parent process to show."""

    def __init__(self, stream: TextIO) -> None:
        """Write to this stream."""
        self._stream = stream

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        """Write one line and flush it."""
        line = {"stage": stage, "done": done, "total": total, "message": message}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class JsonWarnings(logging.Handler):
    """Writes each warning as one JSON object a line, for a parent process to repeat."""

    def __init__(self, stream: TextIO) -> None:
        """Write to this stream."""
        super().__init__(logging.WARNING)
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line and flush it."""
        self._stream.write(json.dumps({"warning": record.getMessage()}) + "\n")
        self._stream.flush()


@dataclass(slots=True, eq=False)
class Wait:
    """What is under way: `done` of `total` units if they are known, else total is 0.

    on_end     says that it has ended, if it was spoken of
    is_once    said once, not again and again: it may take all night
    is_detail  said only if nothing that says more is under way
    """

    stage: str
    message: str
    total: int = 0
    is_once: bool = False
    is_detail: bool = False
    done: int = 0
    on_end: Callable[[], None] | None = None
    began: float = field(default_factory=time.monotonic)

    def event(self) -> Event:
        """Return how far it is; it has not ended before the block has."""
        return self.stage, max(0, min(self.done, self.total - 1)), self.total, self.message


_waits: list[Wait] = []


@contextlib.contextmanager
def doing(
    stage: str,
    message: str,
    *,
    total: int = 0,
    is_once: bool = False,
    is_detail: bool = False,
) -> Iterator[None]:
    """Name what the block does, for `telling`; `advance` counts its units if there is a total."""
    wait = Wait(stage, message, total, is_once, is_detail)
    _waits.append(wait)
    try:
        yield
    finally:
        _waits.remove(wait)
    if wait.on_end is not None:
        _attempt(wait.on_end)


def advance(count: int) -> None:
    """Count units of the innermost work under way that has a total; any thread may call it."""
    with _lock:
        for wait in reversed(_waits):
            if wait.total:
                wait.done += count
                return


class Teller:
    """Passes progress on; `tick` says what is under way when none has come for a while.

    Threads may call it side by side, the display is called by one at a time.
    """

    def __init__(self, progress: Progress, idle: Event) -> None:
        """Say `idle` where nothing has named what is under way."""
        self._display, self._idle = progress, idle
        self._lock = threading.RLock()
        self._last: tuple[float, Event] | None = None
        self._told: tuple[str, str] | None = None
        self._heard = time.monotonic()
        self._said = -TELL_SEC

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Pass progress on."""
        self._heard = time.monotonic()
        is_ended = 0 < total <= done
        self._last = None if is_ended else (self._heard, (stage, done, total, message))
        self._progress(stage, done, total, message)

    def tick(self) -> None:
        """Say what is under way if it is quiet, and then every second until it changes."""
        now = time.monotonic()
        if now - self._heard < TELL_SEC:
            return
        event, wait = self._current()
        stage, message = event[0], event[3]
        is_same = (stage, message) == self._told
        if now - self._said < (_AGAIN_SEC if is_same else TELL_SEC):
            return
        if is_same and wait is not None and wait.is_once:
            return
        self._told, self._said = (stage, message), now
        if wait is not None and wait.total:
            wait.on_end = lambda: self._progress(stage, wait.total, wait.total, message)
        self._progress(*event)

    def _progress(self, *event: Any) -> None:
        with self._lock:
            self._display(*event)

    def _current(self) -> tuple[Event, Wait | None]:
        """Return what is to be said, and the `doing` that it is from."""
        if name := _imported():
            return ("load", 0, 0, f"importing {name}"), None
        waits = list(_waits)
        named = [wait for wait in waits if not wait.is_detail]
        if self._last and not (named and named[-1].began > self._last[0]):
            return self._last[1], None
        if found := named or waits:
            return found[-1].event(), found[-1]
        return self._idle, None


@contextlib.contextmanager
def telling(progress: Progress, idle: str, message: str = "at work") -> Iterator[Teller]:
    """Yield a callback that passes on to `progress`, which also hears of every silent stretch.

    idle, message: the stage and text for what nothing has named.
    """
    teller, stop = Teller(progress, (idle, 0, 0, message)), threading.Event()

    def tick() -> None:
        while not stop.wait(_TICK_SEC):
            _attempt(teller.tick)

    thread = threading.Thread(target=tick, name="telling", daemon=True)
    thread.start()
    try:
        yield teller
    finally:
        stop.set()
        thread.join(_JOIN_SEC)


def _imported() -> str:
    """Return the library that the main thread is importing: torch and TensorFlow take seconds."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    name = ""
    while frame is not None:  # from the innermost outwards
        if frame.f_code.co_name == "_find_and_load":
            found = str(frame.f_locals.get("name", "")).partition(".")[0]
            name = name if found in _OURS else found or name
        frame = frame.f_back
    return name


@contextlib.contextmanager
def watch(
    store: "Store", pending: Mapping[str, int], report: Callable[[int], None]
) -> Iterator[None]:
    """Report how many drawings of `pending` (path to drawings) are done while the body runs."""
    stop = threading.Event()
    look = Look(store, pending)
    interval = _REMOTE_INTERVAL_SEC if store.local_path() is None else _LOCAL_INTERVAL_SEC

    def poll() -> None:
        while not stop.wait(interval):
            _attempt(lambda: report(look()))

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    _attempt(lambda: report(sum(pending.values())))


class Look:
    """Counts the drawings whose objects are there; each call lists some directories anew.

    Only directories that lack an object are listed, and of those no more than a few at a time.
    """

    def __init__(self, store: "Store", pending: Mapping[str, int]) -> None:
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

    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
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
        note = f"{rate:,.0f} drawings/s{left}" if rate else "starting" * (done < self.total)
        self.progress(self.stage, done, self.total, note)


def _attempt(tell: Callable[[], None]) -> None:
    try:
        tell()
    except Exception:
        _LOGGER.info("progress could not be told", exc_info=True)
