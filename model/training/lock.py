"""One trainer a run: a lock on the run's folder that the kernel frees when its holder dies.

The first rank holds it; the others learn from it by a sum over ranks, a second apart, so that
no collective waits longer than its timeout. Machines that share the folder share the lock where
their file system has flock (NFS since version 4 does).
"""

import contextlib
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from model.ranks import Interrupted, Ranks, StopSignal
from pipelines.processes.progress import Progress

_LOG = logging.getLogger(__name__)

LOCK_NAME = "lock"
_POLL_SEC = 1.0


class FolderLock:
    """An exclusive lock on a folder; its file names the process that has it."""

    def __init__(self, folder: Path) -> None:
        """Open the lock without taking it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOCK_NAME
        # Neither truncates what another process wrote, nor outlives this one.
        self._file = self._path.open("a+")

    def take(self) -> bool:
        """Take the lock unless another process has it; return whether we do."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # object stores mounted as folders have no locks
            _LOG.warning("%s cannot be locked (%s): start one trainer at a time", self._path, error)
            return True
        self._file.truncate(0)
        self._file.write(f"{os.getpid()} on {platform.node()}")
        self._file.flush()
        return True

    def owner(self) -> str:
        """Return "process id on machine" of who took it last."""
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Give the lock up."""
        self._file.close()


@contextlib.contextmanager
def only_trainer(
    folder: Path, *, ranks: Ranks, signal: StopSignal, progress: Progress
) -> Iterator[None]:
    """Wait until no other process trains in `folder`, and let none do so within the block.

    All ranks call it. Raises Interrupted if one of them is told to stop while it waits.
    """
    lock = FolderLock(folder) if ranks.is_first else None
    try:
        while True:
            has_lock = lock is not None and lock.take()
            num_locks, num_stop = ranks.sum([float(has_lock), float(bool(signal.number))])
            if num_stop:
                raise Interrupted(128 + (signal.number or 15))
            if num_locks:
                break
            if lock is not None:
                progress("train", 0, 0, f"waiting for process {lock.owner()}: it trains this model")
            time.sleep(_POLL_SEC)
        yield
    finally:
        if lock is not None:
            lock.close()
