"""Objects under one root, in a directory, S3, GCS or memory.

Writes are atomic: an object is visible entirely or not at all. `create` is put-if-absent with one
winner, the only means of coordination. In a local directory a created object is durable before it
is visible, and `sync` flushes the others; obstore does neither. Names are checked against an
allow-list, and symbolic links out of the root are refused, because obstore follows them.
"""

import contextlib
import functools
import hashlib
import mmap
import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from pipelines.processes.progress import advance, doing
from pipelines.store.backends import Upload, whole
from pipelines.store.errors import StoreError
from pipelines.store.local_files import CHUNK_BYTES, create_file, fsync, sha256_of, writing

_UPLOADS = 4
# S3 allows keys of 1024 bytes, file systems names of 255.
MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255
_MAX_IN_MEMORY_BYTES = 64 << 20
# Above this number of files one sync of all file systems is faster than an fsync of each.
_MAX_FSYNCS = 1000

# In the root of a store without hard links; names like this one are hidden from listings.
_LOCK_NAME = "lock#0"

_NAME = re.compile(r"[\w.+=@,~()'%-][\w .+=@,~()'%-]*")

Content = bytes | mmap.mmap
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object: its path under the root, its size, when it was last written."""

    path: str
    bytes: int
    modified: datetime


class Objects:
    """Objects under one root. All paths are relative to it, with forward slashes."""

    def __init__(self, backend: obstore.store.ObjectStore, url: str) -> None:
        """Wrap an obstore backend; `pipelines.store.backends` makes one from a URL."""
        self.backend = backend
        self.url = url

    def local_path(self, path: str = "") -> Path | None:
        """Return the file behind `path` if the store is a local directory, else None.

        Raises StoreError if the path is not allowed, or leads out of the root by a link.
        """
        if path:
            return self._file(path)
        return Path(self.url) if isinstance(self.backend, LocalStore) else None

    def _asked(self, ask: Callable[[], Read]) -> Read:
        with self._waiting():
            return whole(ask)

    def _waiting(self) -> AbstractContextManager[None]:
        return doing("store", f"waiting for {self.url}", is_detail=True)

    def put(self, path: str, content: bytes) -> None:
        """Write an object, replacing what is there; visible whole or not at all.

        As all writes, raises FullError if there is no room and ReadOnlyError if the store is
        read-only.
        """
        self._file(path)
        with writing(self.url):
            self._asked(lambda: obstore.put(self.backend, path, content))

    def put_chunks(self, path: str, chunks: Iterable[bytes]) -> tuple[int, str]:
        """Write an object in pieces, never whole in memory; return its size and SHA-256."""
        self._file(path)
        tally = _Tally(chunks)
        # Not obstore.put(iterator): it panics if the iterator itself reads from obstore.
        upload = Upload(self.backend, path, buffer_size=2 * CHUNK_BYTES, max_concurrency=_UPLOADS)
        with self._waiting():
            for chunk in tally:
                with writing(self.url):
                    upload.write(chunk)
        with self._waiting(), writing(self.url):
            upload.close(lambda: self.holds(path, tally.bytes, tally.sha256.hexdigest()))
        return tally.bytes, tally.sha256.hexdigest()

    def create(self, path: str, content: bytes) -> bool:
        """Write an object unless it exists; return whether this call wrote it.

        Exactly one of any number of concurrent callers gets True. If the response of a remote
        store is lost and the request retried, the writer may get False.
        """
        if (local := self._file(path)) is not None:
            with writing(self.url):
                created = create_file(local, content, Path(self.url) / _LOCK_NAME)
            # A concurrent process may have deleted it, as one collection does another's mark.
            with contextlib.suppress(FileNotFoundError):
                self.sync([path])
            return created
        put = functools.partial(obstore.put, mode="create", use_multipart=False)
        try:
            with writing(self.url):
                self._asked(lambda: put(self.backend, path, content))
        except AlreadyExistsError:
            return False
        return True

    def get(self, path: str) -> bytes:
        """Return an object's content; raise FileNotFoundError if there is none."""
        self._file(path)
        return self._asked(lambda: bytes(obstore.get(self.backend, path).bytes()))

    def surely(self, read: Callable[[], Read]) -> Read:
        """Return the result of `read`; for a remote store, retry it if it raises ValueError.

        Content that was damaged in transfer is not damaged in the store.
        """
        if self.local_path() is None:
            with contextlib.suppress(ValueError):
                return read()
        return read()

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes of an object from `start`; FileNotFoundError if there is none."""
        self._file(path)
        if length == 0:
            return b""
        return self._asked(
            lambda: bytes(obstore.get_range(self.backend, path, start=start, length=length))
        )

    def view(self, path: str) -> Content:
        """Return an object's content as `get` does, memory-mapped where possible.

        A local file is mapped; a large remote object is mapped from a temporary file.
        """
        if (local := self._file(path)) is not None:
            with self._waiting(), local.open("rb") as file:
                return mapped(file)
        return self._asked(lambda: self._fetched(path))

    def _fetched(self, path: str) -> Content:
        found = obstore.get(self.backend, path)
        if found.meta["size"] <= _MAX_IN_MEMORY_BYTES:
            return bytes(found.bytes())
        with tempfile.TemporaryFile() as file:
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                file.write(chunk)
            return mapped(file)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield an object's content in pieces of some MiB; FileNotFoundError if there is none."""
        self._file(path)
        for chunk in obstore.get(self.backend, path).stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of an object's content; FileNotFoundError if there is none."""
        with self._waiting():
            if (local := self._file(path)) is not None:
                return sha256_of(local)
            digest = hashlib.sha256()
            for chunk in self.chunks(path):
                digest.update(chunk)
                advance(len(chunk))
            return digest.hexdigest()

    def holds(self, path: str, size: int, sha256: str) -> bool:
        """Return whether an object has this size and SHA-256; it is read only if the size matches."""
        return self.size(path) == size and self.sha256(path) == sha256

    def size(self, path: str) -> int | None:
        """Return an object's size in bytes, None if there is none."""
        self._file(path)
        try:
            return self._asked(lambda: obstore.head(self.backend, path)["size"])
        except FileNotFoundError:
            return None

    def objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects under a directory-like prefix, in the order of their paths."""
        if prefix:
            check_path(prefix)
        with _listing(self.url):
            found = self._asked(
                lambda: [
                    item for batch in obstore.list(self.backend, prefix or None) for item in batch
                ]
            )
        found.sort(key=lambda item: item["path"])
        self._refuse_links(item["path"] for item in found)
        for item in found:
            yield ObjectInfo(item["path"], item["size"], item["last_modified"])

    def list_dirs(self, prefix: str) -> list[str]:
        """Return the names of the directories right under `prefix` that hold objects, sorted."""
        if prefix:
            check_path(prefix)
        with _listing(self.url):
            listing = self._asked(lambda: obstore.list_with_delimiter(self.backend, prefix or None))
        found = listing["common_prefixes"]
        if isinstance(self.backend, LocalStore):  # lists empty directories as well
            found = [
                path for path in found if any(names for *_, names in os.walk(f"{self.url}/{path}"))
            ]
        return sorted(path.rsplit("/", 1)[-1] for path in found)

    def delete(self, path: str) -> None:
        """Delete an object; a missing object is ignored."""
        self._file(path)
        with contextlib.suppress(FileNotFoundError), writing(self.url):
            self._asked(lambda: obstore.delete(self.backend, path))

    def sync(self, paths: Iterable[str]) -> None:
        """Flush written objects to disk; remote stores are durable already."""
        files = [local for path in paths if (local := self._file(path)) is not None]
        root = Path(self.url)
        folders = {above for file in files for above in file.parents if above.is_relative_to(root)}
        with self._waiting(), writing(self.url):
            if len(files) > _MAX_FSYNCS:
                os.sync()
                return
            for target in (*files, *sorted(folders, reverse=True)):
                fsync(target)

    def _file(self, path: str) -> Path | None:
        """Return the local file behind an allowed path, None in another store."""
        check_path(path)
        if not isinstance(self.backend, LocalStore):
            return None
        root = Path(self.url)
        local = root / path
        if _leads_out(local, root):
            raise StoreError(f"{path!r} leads out of the store {root} through a symbolic link")
        if _is_odd(local):
            raise StoreError(f"{path!r} in {root} is neither a file nor a folder: delete it")
        return local

    def _refuse_links(self, paths: Iterable[str]) -> None:
        """Raise StoreError for objects behind a symbolic link out of the root."""
        if (root := self.local_path()) is None:
            return
        seen: set[Path] = set()
        for path in paths:
            local = root / path
            if local.parent not in seen or local.is_symlink():
                seen.add(local.parent)
                if _leads_out(local, root):
                    raise StoreError(f"{path!r} is in {root} only through a symbolic link")


class _Tally:
    """Counts and hashes chunks as they pass."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.sha256.update(chunk)
            self.bytes += len(chunk)
            yield chunk


def mapped(file: IO[bytes]) -> Content:
    """Return an open file's content, memory-mapped."""
    file.flush()
    if not os.fstat(file.fileno()).st_size:  # which mmap refuses
        return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _leads_out(local: Path, root: Path) -> bool:
    try:
        return not local.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return True


@contextlib.contextmanager
def _listing(url: str) -> Iterator[None]:
    """Convert errors about invalid names and link loops into errors that say what to do."""
    try:
        yield
    except BaseError as error:
        if not any(reason in str(error) for reason in ("invalid path", "Unable to walk dir")):
            raise
        said = str(error).partition("\n")[0]
        raise StoreError(f"{url} has a file that no store has, delete it: {said}") from error


def _is_odd(local: Path) -> bool:
    """Return whether the path is a pipe, a device or a socket: opening one may block forever."""
    try:
        mode = local.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_path(path: str) -> None:
    """Raise StoreError unless `path` is relative, stays inside and is portable.

    Every part is of letters, digits, space and ._+=@,~()'%- in Unicode's form NFC, up to 255 bytes,
    does not end in a dot or space, and is neither "." nor "..", not even percent-decoded.
    """
    parts = path.split("/")
    if not all(is_name(part) for part in parts) or len(path.encode()) > MAX_PATH_BYTES:
        shown = path if len(path) < 100 else f"{path[:97]}..."
        raise StoreError(f"{shown!r} is not a path inside a store")


def is_name(part: str) -> bool:
    """Return whether a text can be one part of a path: see `check_path`."""
    if not _NAME.fullmatch(part) or len(part.encode()) > MAX_NAME_BYTES or part[-1] in ". ":
        return False
    # A program that percent-decodes names, such as a web server, must stay inside as well.
    decoded = unquote(part)
    inside = not {"", ".", ".."}.intersection(re.split(r"[/\\]", decoded))
    return inside and decoded.isprintable() and unicodedata.is_normalized("NFC", part)
