"""Ranks that share one run: joining, sums over ranks, and how they end.

torchrun starts the ranks and says in the environment who each one is; without it a run is
one rank and nothing here communicates. A rank stops on SIGTERM or SIGINT at the end of a step,
together with all others; pipelines.processes.parent sends it SIGTERM when its parent dies.

The first rank to fail writes why into a file, which the process that started it reads. The other
ranks end because they cannot reach it, and may end first, so a rank that lost another writes
nothing.

Memory that a step has freed is kept for the next one. glibc gives large blocks back to the kernel
at once, and every step on a CPU gets them again page by page, zeroed: a tenth of the article's step
(AMD EPYC: 19.4 s without this, 17.5 s with it, the peak the same). mallopt(3) tells it to keep
them.
"""

import contextlib
import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.distributed.nn.functional

from model.network.precision import sum_in_float32
from pipelines.store.failures import failure_from_json, failure_to_json

# Of <malloc.h>. Blocks above the greatest threshold that glibc takes are still mapped one by one.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20
_MAX_MMAP_THRESHOLD = 32 << 20


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
    """Yield this process's place among the ranks that torchrun started, or rank 0 of 1.

    device is "cpu", "cuda", "mps" or "auto" (cuda where there is one); gloo connects CPUs, nccl
    GPUs; a rank on "mps" is alone.

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
    """Return "cpu", "cuda" or "mps" for one of these or "auto", which is cuda or cpu.

    Raises ValueError if there is no such GPU.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    is_here = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device in is_here and not is_here[device]():
        raise ValueError(f"device {device}: torch finds no such GPU here; use cpu or auto")
    return device


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


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees; return whether its C library can be told to."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _M_TRIM_THRESHOLD: _KEPT_BYTES,
        _M_TOP_PAD: _TOP_PAD_BYTES,
        _M_MMAP_THRESHOLD: _MAX_MMAP_THRESHOLD,
    }
    return all(mallopt(name, value) for name, value in settings.items())


@contextlib.contextmanager
def telling_failure(path: Path | None, *, rank: int) -> Iterator[None]:
    """Write a rank's failure to `path` unless another rank has written one; None disables it."""
    try:
        yield
    except Exception as error:
        if path is not None and not _is_lost_peer(error):
            _write_first(path, failure_to_json(error, where=f"rank {rank}:\n"))
        raise


def read_failure(path: Path, other: type[Exception]) -> Exception | None:
    """Return the error of the first rank that failed, None if none was recorded.

    What is neither bad input nor a FinalError is of the class `other`.
    """
    return failure_from_json(path.read_text(), other) if path.exists() else None


def _is_lost_peer(error: Exception) -> bool:
    """Return whether another rank did not answer; gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _write_first(path: Path, text: str) -> None:
    """Make a file with this text appear at once, or leave the one that is there."""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    mine.write_text(text)
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here: then the last is heard
        mine.replace(path)
    mine.unlink(missing_ok=True)
