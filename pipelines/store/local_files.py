"""Files that outlast a power failure, and what to say where there is no room for them."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.store.errors import FullError
from pipelines.store.objects import NO_ROOM, fsync, os_error


@contextlib.contextmanager
def naming_full(folder: Path) -> Iterator[None]:
    """Raise FullError that names the folder in place of what a write without room raises.

    safetensors words it as it likes, and torch.save hides it behind an error of its own.
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
    """Replace a file's content in one step that outlasts a power failure."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(content)
    fsync(scratch)
    scratch.replace(path)
    fsync(path.parent)


def check_room(folder: Path, size: int) -> None:
    """Make a folder if it is not there; raise OSError unless so many bytes can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(size))
