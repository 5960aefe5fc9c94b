"""Execution options of a training run; they change the weights by rounding at most."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipelines.store.artifacts import Store

# mps: the GPU of a Mac, which has one; nobody has tried it.
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Execution options.

    work_dir                 checkpoints, curve, events; None: attempts/ of a local store, else
                             the user's cache directory
    num_threads              torch threads per rank; 0: the cores available to the process / ranks
    micro_batch_size         drawings per forward pass of a rank; 0: at most 16 on a CPU, the
                             rank's whole part of the batch on a GPU
    checkpoint_interval_sec  wall-clock interval, since steps differ in length
    num_grids                sample grids in the whole run, evenly spaced; 0: none
    compile                  use torch.compile where it works
    """

    work_dir: Path | None = None
    device: Device = "auto"
    num_threads: int = 0
    micro_batch_size: int = 0
    checkpoint_interval_sec: float = 120.0
    num_grids: int = 4
    compile: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError if an option is out of range."""
        if self.device not in get_args(Device):
            raise ValueError(f"device {self.device!r}: expected {', '.join(get_args(Device))}")
        for name in ("num_threads", "micro_batch_size", "checkpoint_interval_sec", "num_grids"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        if self.work_dir is not None and self.work_dir.exists() and not self.work_dir.is_dir():
            raise ValueError(f"work_dir {self.work_dir} is not a directory")


def options_to_json(options: RunOptions) -> str:
    """Return the options as a JSON object."""
    folder = str(options.work_dir) if options.work_dir else None
    return json.dumps(dataclasses.asdict(options) | {"work_dir": folder})


def options_from_json(text: str) -> RunOptions:
    """Read options; raise ValueError for an unknown field."""
    raw = json.loads(text)
    if raw.get("work_dir") is not None:
        raw["work_dir"] = Path(raw["work_dir"])
    try:
        return RunOptions(**raw)
    except TypeError as error:
        raise ValueError(f"the run's options have an unknown field: {error}") from error


def run_folder(options: RunOptions, store: Store, digest: str) -> Path:
    """Return the directory of a run's checkpoints and curve."""
    return (options.work_dir or _scratch(store)) / f"train-{digest[:16]}"


def drawings_folder(options: RunOptions, store: Store) -> Path:
    """Return the directory of memory-mapped splits, shared by runs."""
    return (options.work_dir or _scratch(store)) / "drawings"


def threads_per_rank(options: RunOptions, local_size: int) -> int:
    """Return the number of torch threads for each of `local_size` ranks on this machine."""
    if options.num_threads:
        return options.num_threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // max(local_size, 1))


def _scratch(store: Store) -> Path:
    local = store.local_path("attempts")
    if local is not None:
        return local
    root = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return root / "sketchmill"
