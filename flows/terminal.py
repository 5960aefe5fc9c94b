"""Terminal output of commands: progress on stderr, results on stdout.

On a terminal progress is one moving line a stage; in a log it is a plain line now and then. What
is under way but tells no progress is said too, once it takes two seconds
(pipelines.processes.progress).
Results go to stdout as aligned text, or with --json as one object on the last line.

Stages report to the display of their process. A flow's parameters must be plain values, so the
display cannot be one of them: the command line sets it, and a worker that sets none logs plain
lines.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from flows.options import Output
from pipelines.processes.progress import Progress, telling
from pipelines.store.errors import FullError
from pipelines.store.local_files import NO_ROOM
from pipelines.store.printable import shown, shown_value

LOG_INTERVAL_SEC = 10.0
# A stage that starts again prints a line after this much silence.
_SILENCE_SEC = 1.0
# Columns of a terminal beside a bar's message, and of that at least.
_BESIDE_MESSAGE, _MIN_MESSAGE = 62, 18


# Prefect without a server of its own: no telemetry, and its log only with --debug. An error
# reaches the person once, from the command line.
QUIET_PREFECT = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "DO_NOT_TRACK": "1",
}
# A database of Prefect's server with its log, when it is new.
PREFECT_BYTES = 8 << 20


class Silent:
    """Shows no progress."""

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Show nothing."""

    def close(self) -> None:
        """Release nothing."""


class LogLines:
    """Plain lines on stderr: the first and last of a stage, else one every ten seconds."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._ended: set[str] = set()
        self._printed = 0.0

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        ended = 0 < total <= done
        # Progress without a total is identified by its message.
        what = stage if total else f"{stage} {message}"
        again = what in self._ended and now - self._printed >= _SILENCE_SEC
        due = again or now - self._last.get(what, -LOG_INTERVAL_SEC) >= LOG_INTERVAL_SEC
        if (due or ended) and not (ended and what in self._ended):
            self._last[what] = self._printed = now
            print(shown(progress_line(stage, done, total, message)), file=sys.stderr, flush=True)  # noqa: T201
        if ended:
            self._ended.add(what)
        elif again:
            self._ended.discard(what)

    def close(self) -> None:
        """Nothing is left open."""


def progress_line(stage: str, done: int, total: int, message: str) -> str:
    """Return progress as one line, without numbers if there is no total."""
    if not total:
        return f"{stage:<12} {message}".rstrip()
    return f"{stage:<12} {done / total:4.0%} {done:>12,} of {total:,}  {message}".rstrip()


class LiveBars:
    """One moving line a stage, for terminals; none before the first call or after `close`."""

    def __init__(self) -> None:
        self._progress = Bars(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[message]}", markup=False),
            console=Console(stderr=True),
            redirect_stdout=False,
        )
        self._room = max(_MIN_MESSAGE, self._progress.console.width - _BESIDE_MESSAGE)
        self._tasks: dict[str, TaskID] = {}
        self._lock, self._is_closed = threading.Lock(), False

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Move the stage's bar."""
        message = shown(message)
        if len(message) > self._room:  # which would take the place of the bar
            message = f"{message[: self._room - 3]}..."
        with self._lock:
            if self._is_closed:
                return
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(stage, total=total or None, message="")
            self._progress.update(
                self._tasks[stage], completed=done, total=total or None, message=message
            )
            self._drop_waits(but=stage)
            if self not in _live:
                _live.append(self)
                self._progress.start()

    def close(self) -> None:
        """Release the terminal."""
        with self._lock:
            self._is_closed = True
            if self in _live:
                _live.remove(self)
                self._drop_waits(but="")
                self._progress.stop()

    def _drop_waits(self, *, but: str) -> None:
        """Remove the lines of finished progress without a total."""
        for task in self._progress.tasks:
            if task.total is None and task.description != but:
                self._progress.remove_task(self._tasks.pop(task.description))


_live: list[LiveBars] = []


class ShownFormatter(logging.Formatter):
    """Formats log records without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text."""
        return shown(super().format(record))


def make_progress(*, quiet: bool) -> Silent | LogLines | LiveBars:
    """Return the progress display that fits where stderr goes."""
    if quiet:
        return Silent()
    return LiveBars() if sys.stderr.isatty() else LogLines()


def warn(message: str) -> None:
    """Print a warning on stderr unless it is empty."""
    if message:
        print(f"sketchmill: {shown(message)}", file=sys.stderr, flush=True)  # noqa: T201


def print_result(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a command's result on stdout: aligned lines, or one JSON object."""
    while _live:
        _live[-1].close()
    result = shown_value(result)
    if as_json:
        print(json.dumps(result, sort_keys=True), flush=True)  # noqa: T201
        return
    width = max((len(key) for key in result), default=0)
    for key, value in result.items():
        if isinstance(value, list | dict):
            value = json.dumps(value)
        print(f"{key:<{width}}  {value}", flush=True)  # noqa: T201


def check_folder(path: Path) -> None:
    """Raise ValueError if a file cannot be written there, before the work whose result it is."""
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.absolute().parent}: make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")


_current: list[Progress] = []


@contextmanager
def showing(progress: Progress, what: str = "sketchmill") -> Iterator[None]:
    """Make `progress` the display within the block; it also shows what tells no progress.

    what: is done, such as the command, where nothing says it better.
    """
    with telling(progress, what) as display:
        _current.append(display)
        try:
            yield
        finally:
            _current.remove(display)


@contextmanager
def displaying(what: str, *, quiet: bool) -> Iterator[None]:
    """Show progress on stderr, unless quiet, until the block ends."""
    display = make_progress(quiet=quiet)
    try:
        with showing(display, what):
            yield
    finally:
        display.close()


def current() -> Progress:
    """Return the display that was set last, or one of plain lines."""
    return _current[-1] if _current else LogLines()


def check_prefect_home() -> None:
    """Raise FullError or ValueError if Prefect cannot start; it would retry for minutes."""
    from pipelines.store.local_files import check_room

    folder = Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111
    try:
        check_room(folder, PREFECT_BYTES)
    except OSError as error:
        kind = FullError if error.errno in NO_ROOM else ValueError
        raise kind(
            f"Prefect's home {folder} cannot be written ({error.strerror}): let the environment "
            f"variable PREFECT_HOME name a folder with {PREFECT_BYTES >> 20} MiB of room"
        ) from error


def quiet_prefect(*, debug: bool = False) -> None:
    """Set the environment for a Prefect that is loaded later; debug: leave its log as it is."""
    for name, value in QUIET_PREFECT.items():
        if not (debug and "LOGGING" in name):
            os.environ.setdefault(name, value)


@contextmanager
def session(output: Output) -> Iterator[None]:
    """Keep the libraries quiet within the block."""
    quiet_prefect(debug=output.debug)
    # Beam logs through the root logger while it is imported; a handler keeps it from adding one.
    logging.basicConfig(level=logging.INFO if output.debug else logging.ERROR)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(ShownFormatter(logging.BASIC_FORMAT))
    # Show warnings of our own packages (no torch.compile, damaged scratch, no lease).
    for floor in ("model", "pipelines"):
        logging.getLogger(floor).setLevel(logging.WARNING)
    yield
