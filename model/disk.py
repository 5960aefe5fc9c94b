"""Room on the disk for memory maps of drawings, asked for before any drawing is read."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LABEL_BYTES = 8
# A folder in which maps are written has a lock, which the kernel releases when its process dies.
_SCRATCH, _LOCK = "scratch-", "lock"


def map_size(num_drawings: int, height: int, width: int) -> int:
    """Return the size in bytes of the memory map of drawings and their labels."""
    return num_drawings * (height * width + _LABEL_BYTES)


def lacking_room(cache_dir: Path, num_bytes: int, *, is_bound: bool = False) -> str:
    """Return what to do if memory maps of this size do not fit on a folder's disk, else "".

    is_bound: they have at most this size.
    """
    free = free_bytes(cache_dir)
    if num_bytes <= free:
        return ""
    needed = "at most " * is_bound + _text(num_bytes)
    return (
        f"{cache_dir} needs {needed} for the memory map of the drawings, and its disk has "
        f"{_text(free)} free: free some of it, or name a folder with more room, with --work-dir of "
        "`sketchmill train` or, for other commands, the environment variable SKETCHMILL_CACHE"
    )


def free_bytes(folder: Path) -> int:
    """Return how much may be written to the disk of a folder, which need not exist."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder for the block, which `drop_scratch` spares as long as it lasts."""
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix=_SCRATCH) as scratch,
        Path(scratch, f"{_LOCK}.new").open("w") as lock,
    ):
        with contextlib.suppress(OSError):  # object stores mounted as folders have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(Path(scratch, _LOCK))  # which is never seen unlocked
        yield Path(scratch)


def drop_scratch(parent: Path) -> None:
    """Delete what killed processes left of maps, up to 40 GB each."""
    for scratch in parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError), (scratch / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(scratch, ignore_errors=True)


def _text(num_bytes: int) -> str:
    """Return a size in gigabytes, or in megabytes if it is less than one.

    >>> _text(39_937_602_672), _text(79_200)
    ('39.9 GB', '0.1 MB')
    """
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
