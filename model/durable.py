"""Files that outlast a power failure."""

import os
from pathlib import Path


def durable_write(path: Path, content: bytes) -> None:
    """Replace a file's content in one step that outlasts a power failure."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(content)
    sync(scratch)
    scratch.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file or folder outlast a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
