"""What a command says: progress on stderr, results on stdout.

On a terminal progress is one moving line a stage; in a log it is a plain line now and then.
Results go to stdout as aligned text, or with --json as one object on the last line.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.printable import shown, shown_value

LOG_INTERVAL_SEC = 10.0


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

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        ended = total > 0 and done >= total
        due = now - self._last.get(stage, -LOG_INTERVAL_SEC) >= LOG_INTERVAL_SEC
        if (due or ended) and not (ended and stage in self._ended):
            self._last[stage] = now
            share = f"{done / total:4.0%}" if total else "    "
            line = f"{stage:<12} {share} {done:>12,} of {total:,}  {message}"
            print(shown(line.rstrip()), file=sys.stderr, flush=True)  # noqa: T201
        if ended:
            self._ended.add(stage)

    def close(self) -> None:
        """Nothing is left open."""


class LiveBars:
    """One moving line a stage, for terminals."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[message]}", markup=False),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Move the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total or None, message="")
        self._progress.update(
            self._tasks[stage], completed=done, total=total or None, message=shown(message)
        )

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.stop()


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
