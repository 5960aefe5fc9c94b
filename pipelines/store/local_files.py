"""Durable, atomic writes of local files, and errors that name the full or read-only place."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from obstore.exceptions import BaseError, PermissionDeniedError

from pipelines.processes.progress import advance
from pipelines.store.errors import FullError, ReadOnlyError, StoreError

CHUNK_BYTES = 4 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WRITING = (errno.EPERM, errno.EACCES, errno.EROFS)
# Errors of file systems without hard links: FAT, exFAT, some of FUSE and SMB.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# The form in which obstore reports errors of the operating system.
_OS_ERROR = re.compile(r"\(os error ([0-9]+)\)")


@contextlib.contextmanager
def naming_full(folder: Path) -> Iterator[None]:
    """Convert the error of a write without room into a FullError that names the folder.

    safetensors reports it in its own words, and torch.save hides it behind another error.
    """
    try:
        yield
    except FullError:  # which names its own
        raise
    except Exception as error:
        behind = error.__context__
        if not {os_error(error), os_error(behind) if behind else 0} & set(NO_ROOM):
            raise
        raise FullError(f"{folder} is full: free some of its disk, then run it again") from error


def durable_write(path: Path, content: bytes) -> None:
    """Replace a file's content atomically and durably."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(content)
    fsync(scratch)
    scratch.replace(path)
    fsync(path.parent)


def check_room(folder: Path, size: int) -> None:
    """Make a folder if it is absent; raise OSError unless `size` bytes can be written to it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(size))


@contextlib.contextmanager
def writing(url: str) -> Iterator[None]:
    """Convert a refused write to a store into FullError or ReadOnlyError that says what to do."""
    try:
        yield
    except (BaseError, OSError) as error:
        number = os_error(error)
        if number in NO_ROOM:
            raise FullError(
                f"{url} is full ({os.strerror(number)}): free some of its disk, then run it again; "
                "of a store `sketchmill gc --delete` frees what nothing needs"
            ) from error
        if number in _NO_WRITING or isinstance(error, PermissionDeniedError):
            why = os.strerror(number) if number else _code(error)
            raise ReadOnlyError(
                f"{url} may only be read ({why}): name a place that may be written; `sketchmill "
                "pull` copies into a store of your own what is needed of this one"
            ) from error
        raise


def os_error(error: BaseException) -> int:
    """Return the errno behind an exception, 0 if there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else 0


def _code(error: Exception) -> str:
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else "permission denied"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a local file's content; count its bytes as progress."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)  # one buffer: five times as fast
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(view[:size])
            advance(size)
    return digest.hexdigest()


def create_file(target: Path, content: bytes, lock: Path) -> bool:
    """Create a file, durable before it is visible; return False if it exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # obstore takes names that end in "#" and digits for its partial files and does not list them.
    partial = target.with_name(f"{target.name}#{secrets.randbits(63)}")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _publish_file(partial, target, lock)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _publish_file(partial: Path, target: Path, lock: Path) -> None:
    """Give a file its final name; raise FileExistsError if the name is taken."""
    try:
        target.hardlink_to(partial)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with _locked(lock):
            if target.exists():
                raise FileExistsError(target) from error
            partial.rename(target)


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold an exclusive file lock; the kernel releases the lock of a process that dies.

    Raises StoreError if the file system has no locks.
    """
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(
                f"{lock.parent} cannot be a store: its file system has neither hard links nor "
                f"locks ({error.strerror}), and publishing needs one of them; choose another disk"
            ) from error
        yield


def fsync(target: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(target, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, json.dumps(value).encode())
