"""What a run says while it goes: the curve (JSONL), TensorBoard events, one live line.

    curve.jsonl   {"step": 40, "nimg": 1280, "loss_bpd": ..., "grad_norm": ..., "learning_rate": ...}
                  {"step": 400, "nimg": 12800, "validation_bpd": ..., "validation_bpd/cat": ...}

The curve holds nothing of the clock, so that a run that was interrupted writes the same bytes
as one that was not; rates and times are in the live line and in TensorBoard.

Neither this module nor model.report loads torch: an export draws the report too, in the image of the
pipelines.

Event files are written with tensorboard's own protocol buffers and framing.
torch.utils.tensorboard opens files through TensorFlow wherever that is installed, which takes ten
seconds and its whole memory. Without tensorboard none is written.
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
# Before a class name: its own bits/dim on the validation split. TensorBoard groups by the slash.
CLASS_PREFIX = "validation_bpd/"
_LOG = logging.getLogger(__name__)
# Five a second are as many as a person can read.
MIN_INTERVAL_SEC = 0.2


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


class Telemetry:
    """The curve of one run in a folder; a second one continues where `step` says."""

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = True) -> None:
        """Keep the rows up to `step` of what an earlier session wrote and drop later ones."""
        self._path, self._grids = folder / CURVE_NAME, folder / "grids"
        rows = [row for row in read_curve(self._path) if row["step"] <= step]
        folder.mkdir(parents=True, exist_ok=True)
        durable_write(self._path, "".join(map(_line, rows)).encode())
        nimg = rows[-1]["nimg"] + 1 if rows else 0
        wanted = tensorboard and HAS_TENSORBOARD
        self._events = EventFile(folder / "tensorboard", step=int(nimg)) if wanted else None

    def write(self, row: Mapping[str, float], *, images_per_sec: float = 0.0) -> None:
        """Append a row, which holds `step` and `nimg`, to the curve and to TensorBoard."""
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
        """Keep a picture of drawings of this (height, width): grids/<nimg>.png, TensorBoard."""
        self._grids.mkdir(exist_ok=True)
        durable_write(self._grids / f"{nimg:010d}.png", png)
        if self._events is not None:
            self._events.add_png("drawings", png, size, nimg)
            self._events.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()


class LiveLine:
    """One line on how a run goes: loss, rate, time left."""

    def __init__(self, progress: Progress, *, total_nimg: int, start_nimg: int) -> None:
        """Begin to count at `start_nimg` drawings."""
        self._progress, self._total, self._start = progress, total_nimg, start_nimg
        self._started = time.monotonic()
        self._shown = 0.0

    def rate(self, nimg: int) -> float:
        """Return the drawings a second of this session."""
        return (nimg - self._start) / max(time.monotonic() - self._started, 1e-9)

    def show(self, nimg: int, loss_bpd: float) -> None:
        """Report, unless the last report was a moment ago."""
        now = time.monotonic()
        if now - self._shown < MIN_INTERVAL_SEC and nimg < self._total:
            return
        self._shown = now
        rate = self.rate(nimg)
        left = _clock((self._total - nimg) / rate) if rate else "?"
        message = f"{loss_bpd:.3f} bits/dim, {rate:.0f} images/s, {left} left"
        self._progress("train", nimg, self._total, message)


def read_curve(path: Path) -> list[dict[str, float]]:
    """Return a curve's rows; none if there is no file, and no torn last line."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            _LOG.warning("%s ends in a torn line, which is dropped", path)
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
