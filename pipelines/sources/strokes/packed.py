"""Keep the lines of packed files of strokes in the cache, where they are read like .ndjson.

    bee.ndjson.gz, bee.jsonl.zst   lines that gzip or zstd packed
    bee.npz                        drawings of sketch-rnn (sketch_rnn.py), written as lines

Row n of a packed file can be found only by unpacking all before it, so a file is unpacked once,
under a name of its content, and then identified by the SHA-256 of its lines: bee.ndjson and
bee.ndjson.gz are the same source. A file that was changed since is unpacked again. What is kept
may be deleted at any time. Workers on other machines need the cache, as for Google's bucket.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipelines.processes.progress import doing
from pipelines.sources.base import BadFileError
from pipelines.sources.files import FileRanges, content_digest
from pipelines.store.errors import reading
from pipelines.store.local_files import naming_full, write_json
from pipelines.store.manifest import digest_of

CODECS = {".gz": "gzip", ".zst": "zstd"}
# Part of the name of what is kept: bumped when its content changes.
_VERSION = 1
_CHUNK_BYTES = 1 << 22
# Lines of strokes shrink to a fifth. What grows by more than this, beyond some size, is no drawing.
_MOST_GROWTH, _GROWTH_BYTES = 100, 1 << 26


class FileStream(io.RawIOBase):
    """One file, local or remote, as a seekable stream of bytes."""

    def __init__(self, url: str, size: int) -> None:
        self.ranges, self.size, self.place = FileRanges(url), size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = max(0, start + offset)
        return self.place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as the file goes; return the number of bytes."""
        content = self.ranges.read(self.place, max(0, min(len(buffer), self.size - self.place)))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)


def open_stream(url: str, size: int) -> BinaryIO:
    """Return a file of these many bytes as a buffered stream."""
    return io.BufferedReader(FileStream(url, size), _CHUNK_BYTES)


def plain_chunks(url: str, size: int) -> Iterator[bytes]:
    """Yield the content of a file, unpacked if its name says that it is packed.

    Raises BadFileError if it is not, is truncated, or grows beyond what drawings do.
    """
    stream = open_stream(url, size)
    codec = next((codec for end, codec in CODECS.items() if url.endswith(end)), None)
    with reading(url, f"data of {codec}" if codec else "drawings"):
        source = pa.PythonFile(stream, "r")
        plain = source if codec is None else pa.CompressedInputStream(source, codec)
        while chunk := plain.read(_CHUNK_BYTES):
            yield chunk


def unpack_lines(url: str, size: int, cache_dir: Path) -> Path:
    """Return where the lines of a file that gzip or zstd packed are kept."""
    path = kept_folder(url, cache_dir) / url.rpartition("/")[2].rpartition(".")[0]
    keep(path, plain_chunks(url, size), url, size, cache_dir)
    return path


def kept_folder(url: str, cache_dir: Path) -> Path:
    """Return where what is made of a file is kept."""
    digest = content_digest(url, cache_dir)
    # What a server says of a file may be said of another of its files too.
    key = [_VERSION, digest] + ([] if digest.startswith("sha256:") else [url])
    return cache_dir / "unpacked" / digest_of(key)[:32]


def keep(path: Path, content: Iterable[bytes], url: str, size: int, cache_dir: Path) -> None:
    """Have the content at `path`, which is consumed only if it is not there as it was written.

    Raises BadFileError if it is too large to come from the drawings of a file of `size` bytes.
    """
    note = path.with_name(f"{path.name}.json")
    if note.is_file() and path.is_file():
        kept = json.loads(note.read_text("ascii"))
        # The size first: a digest costs reading.
        is_whole = path.stat().st_size == kept["bytes"]
        if is_whole and content_digest(str(path), cache_dir) == kept["digest"]:
            return
    with naming_full(path.parent), doing("unpack", url.rpartition("/")[2]):
        write_json(note, _write(path, content, url, size))


def _write(path: Path, content: Iterable[bytes], url: str, size: int) -> dict[str, str | int]:
    """Write a file atomically, piece by piece; return its digest and bytes."""
    digest, written = hashlib.sha256(), 0
    most = _GROWTH_BYTES + _MOST_GROWTH * size
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in content:
                written += len(chunk)
                if written > most:
                    raise BadFileError(
                        f"{url} unpacks to more than {most} bytes, over {_MOST_GROWTH} times its "
                        "size: drawings do not, it is damaged or made to fill disks"
                    )
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return {"digest": f"sha256:{digest.hexdigest()}", "bytes": written}
