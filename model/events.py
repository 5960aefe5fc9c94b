"""TensorBoard event files, written with tensorboard's own protocol buffers and framing.

torch.utils.tensorboard opens files through TensorFlow wherever that is installed, which takes
ten seconds and its whole memory. Only tensorboard is needed here, and without it nothing is
written.
"""

import importlib
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


class EventFile:
    """One session's event file; steps are counted in drawings."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Start a file; TensorBoard forgets what earlier sessions wrote at or after `step`."""
        # Half a second to load, and generated code that no type checker sees.
        self._events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        records: Any = importlib.import_module("tensorboard.summary.writer.record_writer")
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now)}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (folder / name).open("wb")
        self._writer = records.RecordWriter(self._file)
        self._write(self._events.Event(wall_time=now, file_version="brain.Event:2"))
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(self._events.Event(wall_time=now, step=step, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add one point to a plot."""
        self._add(self._summaries.Summary.Value(tag=name, simple_value=value), step)

    def add_png(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Add an encoded gray picture of this (height, width)."""
        image = self._summaries.Summary.Image(
            height=size[0], width=size[1], colorspace=1, encoded_image_string=png
        )
        self._add(self._summaries.Summary.Value(tag=name, image=image), step)

    def flush(self) -> None:
        """Hand what was added to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, value: Any, step: int) -> None:
        summary = self._summaries.Summary(value=[value])
        event = self._events.Event(wall_time=time.time(), step=step, summary=summary)
        self._write(event)

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
