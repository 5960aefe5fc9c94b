"""What a command says: progress on stderr, results on stdout.

On a terminal progress is one moving line a stage; in a log it is a plain line now and then. What
is under way but tells no progress is said too, once it takes two seconds (pipelines.watching).
Results go to stdout as aligned text, or with --json as one object on the last line.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.printable import shown, shown_value

LOG_INTERVAL_SEC = 10.0
# A stage that begins again, as the second of many, has its line if nothing was said for so long.
_SILENCE_SEC = 1.0
# Columns of a terminal beside a bar's message, and of that at least.
_BESIDE_MESSAGE, _MIN_MESSAGE = 62, 18


class ProgressCallback(Protocol):
    """Called by long work: `done` of `total` units of `stage`, and a note such as a rate."""

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Tell how far the stage is; calls are cheap and may be frequent."""


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
        # What has no number is one thing as long as it is called the same.
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
        self._progress = Progress(
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
        """Give the terminal back."""
        with self._lock:
            self._is_closed = True
            if self in _live:
                _live.remove(self)
                self._drop_waits(but="")
                self._progress.stop()

    def _drop_waits(self, *, but: str) -> None:
        """Take the lines away of what had no number, and is over."""
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
    """Print a line on stderr that a person should read, unless it is empty."""
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
