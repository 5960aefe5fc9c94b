"""How long work says where it is; needs no torch, as what only asks the store has none."""

import json
import logging
from collections.abc import Callable
from typing import TextIO

# (stage, done, total, message): `done` of `total` units of a stage, with one line to show.
Progress = Callable[[str, int, int, str], None]


def no_progress(stage: str, done: int, total: int, message: str) -> None:
    """Show nothing."""


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
