"""Training telemetry: the loss curve (JSONL), TensorBoard events and a live status line.

    curve.jsonl   {"step": 40, "nimg": 1280, "loss_bpd": ..., "grad_norm": ..., "learning_rate": ...}
                  {"step": 400, "nimg": 12800, "validation_bpd": ..., "validation_bpd/cat": ...}

The curve contains no timestamps, so an interrupted and an uninterrupted run write the same bytes;
rates and times are in the status line and in TensorBoard.

This module and model.report do not import torch: an export renders the report too, in the
pipelines image.

Event files use tensorboard's protocol buffers and framing directly. torch.utils.tensorboard opens
files through TensorFlow if it is installed, which takes ten seconds and its memory. Without
tensorboard no event files are written.
"""

import importlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.processes.progress import Progress
from pipelines.store.local_files import durable_write

HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


CURVE_NAME = "curve.jsonl"
# Prefix of a class's bits/dim on the validation split; TensorBoard groups by the slash.
CLASS_PREFIX = "validation_bpd/"
_LOG = logging.getLogger(__name__)
# Minimum seconds between status lines; a reader cannot follow more than five a second.
MIN_INTERVAL_SEC = 0.2


class EventFile:
    """The event file of one session; steps are in drawings."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Start a file; TensorBoard discards events of earlier sessions at or after `step`."""
        # Takes half a second to import; generated code, invisible to type checkers.
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
        """Add a scalar value."""
        self._add(self._summaries.Summary.Value(tag=name, simple_value=value), step)

    def add_png(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Add an encoded grayscale image; size is (height, width)."""
        image = self._summaries.Summary.Image(
            height=size[0], width=size[1], colorspace=1, encoded_image_string=png
        )
        self._add(self._summaries.Summary.Value(tag=name, image=image), step)

    def flush(self) -> None:
        """Flush buffered events to the operating system."""
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


class Telemetry:
    """Writes the curve of a run in a directory; a later session continues it at `step`."""

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = True) -> None:
        """Keep an earlier session's rows up to `step` and drop later ones."""
        self._path, self._grids = folder / CURVE_NAME, folder / "grids"
        rows = [row for row in read_curve(self._path) if row["step"] <= step]
        folder.mkdir(parents=True, exist_ok=True)
        durable_write(self._path, "".join(map(_line, rows)).encode())
        nimg = rows[-1]["nimg"] + 1 if rows else 0
        wanted = tensorboard and HAS_TENSORBOARD
        self._events = EventFile(folder / "tensorboard", step=int(nimg)) if wanted else None

    def write(self, row: Mapping[str, float], *, images_per_sec: float = 0.0) -> None:
        """Append a row with `step` and `nimg` to the curve and to TensorBoard."""
        with self._path.open("a") as file:
            file.write(_line(row))
        if self._events is None:
            return
        values = {k: v for k, v in row.items() if k not in ("step", "nimg")}
        if images_per_sec:
            values["images_per_sec"] = images_per_sec
        for name, value in values.items():
            self._events.add_scalar(name, value, int(row["nimg"]))
        self._events.flush()

    def show_grid(self, png: bytes, size: tuple[int, int], *, nimg: int) -> None:
        """Save a grid of (height, width) as grids/<nimg>.png and to TensorBoard."""
        self._grids.mkdir(exist_ok=True)
        durable_write(self._grids / f"{nimg:010d}.png", png)
        if self._events is not None:
            self._events.add_png("drawings", png, size, nimg)
            self._events.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()


class LiveLine:
    """The status line of a run: loss, rate, remaining time."""

    def __init__(self, progress: Progress, *, total_nimg: int, start_nimg: int) -> None:
        """Start counting at `start_nimg` drawings."""
        self._progress, self._total, self._start = progress, total_nimg, start_nimg
        self._started = time.monotonic()
        self._shown = 0.0

    def rate(self, nimg: int) -> float:
        """Return this session's rate in drawings per second."""
        return (nimg - self._start) / max(time.monotonic() - self._started, 1e-9)

    def show(self, nimg: int, loss_bpd: float) -> None:
        """Report the status, rate-limited."""
        now = time.monotonic()
        if now - self._shown < MIN_INTERVAL_SEC and nimg < self._total:
            return
        self._shown = now
        rate = self.rate(nimg)
        left = _clock((self._total - nimg) / rate) if rate else "?"
        message = f"{loss_bpd:.3f} bits/dim, {rate:.0f} images/s, {left} left"
        self._progress("train", nimg, self._total, message)


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return the rows of a curve; empty without a file. An incomplete last line is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            _LOG.warning("%s ends in an incomplete line, which is dropped", path)
    return rows


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(dict(row)) + "\n"


def _clock(seconds: float) -> str:
    """Return h:mm:ss or m:ss.

    >>> _clock(3725.4), _clock(59)
    ('1:02:05', '0:59')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
