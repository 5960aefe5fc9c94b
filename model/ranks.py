"""The processes that share one run: joining them, sums over them, how they end.

torchrun starts the ranks and says in the environment who each one is; without it a run is
one rank and nothing here communicates. A rank stops on SIGTERM or SIGINT at the end of a step,
together with all others; that it gets SIGTERM when its parent dies is model.parent's work.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

# Its functions have the group of all ranks as default argument: imported by torch.compile once
# there is a group, it would keep it, with its threads, beyond its end (see join_ranks).
import torch.distributed.nn.functional

from model.memory import keep_freed_memory
from model.precision import sum_in_float32

# A rank that was told to stop and still runs after this is stuck in a collective whose other
# side is gone; its last checkpoint stands.
GRACE_SEC = 120.0


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among `size` ranks, of which `local_size` share its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Return whether this rank writes what all ranks share."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def gather(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return all ranks' values one after the other, on every rank; lengths may differ."""
        if self.size == 1:
            return values
        lengths = self.sum([len(values) * (rank == self.rank) for rank in range(self.size)])
        padded = torch.zeros(int(max(lengths)), dtype=torch.float64, device=self.device)
        padded[: len(values)] = torch.from_numpy(values)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        pairs = zip(parts, lengths, strict=True)
        return np.concatenate([part[: int(length)].cpu().numpy() for part, length in pairs])


@contextlib.contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Yield this process's place among the ranks that torchrun started, or that of a lone one.

    device is "cpu", "cuda" or "auto" (cuda where there is one); gloo connects CPUs, nccl GPUs.

    Nothing may keep the group: with its last reference go gloo's threads, and one of them that
    still has a tensor when Python ends aborts the process (pytorch pull request 179291).
    """
    kind = device_kind(device)
    if kind == "cpu":
        keep_freed_memory()
    sum_in_float32(torch.device(kind))
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device=torch.device(kind))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    place = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        local_size = int(os.environ["LOCAL_WORLD_SIZE"])
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_rank, local_size, place)
    finally:
        dist.destroy_process_group()


def device_kind(device: str) -> str:
    """Return "cpu" or "cuda" for "cpu", "cuda" or "auto"; raise ValueError if there is no GPU."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("device cuda: torch finds no GPU here; use cpu or auto")
    return ("cuda" if has_gpu else "cpu") if device == "auto" else device


class Interrupted(SystemExit):
    """The run was told to stop and has saved its state; the exit code is 128 + signal."""


class StopSignal:
    """Remembers SIGTERM or SIGINT for the end of the step; use as a context manager.

    Outside the main thread, where Python handles no signals, it never fires.
    """

    def __init__(self) -> None:
        """Begin with no signal received."""
        self.number = 0
        self._previous: dict[int, object] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "StopSignal":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the former handlers back."""
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyrefly: ignore[bad-argument-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if not self.number:
            self._timer = threading.Timer(GRACE_SEC, os._exit, (128 + number,))
            self._timer.daemon = True
            self._timer.start()
        self.number = number
