"""Files that outlast a power failure."""

from pathlib import Path

from pipelines.objects import fsync


def durable_write(path: Path, content: bytes) -> None:
    """Replace a file's content in one step that outlasts a power failure."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_bytes(content)
    fsync(scratch)
    scratch.replace(path)
    fsync(path.parent)
