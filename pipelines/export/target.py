"""The destination of an export's files: streamed, hashed on the way, made visible atomically.

A local file is written under a temporary name and renamed; a remote one is a multipart upload
that is invisible until complete. Neither is ever held in memory as a whole.
"""

import contextlib
import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pipelines.store.artifacts import Store, StoreError
from pipelines.store.backends import Upload
from pipelines.store.leases import LEASE_TTL
from pipelines.store.local_files import writing
from pipelines.store.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    file_entry,
    manifest_from_json,
    manifest_to_json,
)

# Large enough for a part of a multipart upload (S3 wants 5 MiB), small beside 1 GiB.
_PART_BYTES = 8 << 20
_UPLOADS = 16
_PART = re.compile(r"\..+\.(?P<place>[0-9a-f]{8})\.(?P<pid>[0-9]+)(\.[0-9a-f]{16})?\.part")


def _place_of_pids() -> str:
    """Return what says where a PID means what it means here: machine, its start, PID namespace.

    Containers of one name on one machine count their PIDs each from 1. Where that cannot be told,
    no other process uses it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return secrets.token_hex(4)
    return hashlib.sha256(f"{platform.node()} {boot} {space}".encode()).hexdigest()[:8]


_PLACE = _place_of_pids()


class FileSink:
    """One file being written; a context manager. `entry` describes it after the end.

    Leaving the block by an exception leaves no file.
    """

    def __init__(self, store: Store, path: str, relative: str) -> None:
        """Begin `path` of the store; raises StoreError if it leads out of it."""
        store.size(path)  # checks the path, and that no symlink leads it out of the store
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._relative = relative
        self._url = store.url
        self._local = store.local_path(path)
        if self._local is None:
            self._upload = Upload(store.backend, path, buffer_size=_PART_BYTES)
            self._is_there = lambda: store.holds(path, self._bytes, self._hash.hexdigest())
        else:
            # Two writers of one file may be in two containers of one name, with the same PID.
            writer = f"{_PLACE}.{os.getpid()}.{secrets.token_hex(8)}"
            self._part = self._local.with_name(f".{self._local.name}.{writer}.part")
            with writing(self._url):
                self._local.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("xb", buffering=0)

    # What PyArrow asks of a Python file that it writes to and does not own.
    closed = False

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Do nothing: the block closes the file, not its writers."""

    def write(self, content: bytes | memoryview) -> None:
        """Append these bytes."""
        self._hash.update(content)
        self._bytes += len(content) if isinstance(content, bytes) else content.nbytes
        with writing(self._url):
            if self._local is None:
                self._upload.write(content)
            else:
                _write_all(self._file, content)

    def entry(self, *, rows: int | None = None, split: str | None = None) -> FileEntry:
        """Return the file's entry for a manifest."""
        return FileEntry(
            path=self._relative,
            bytes=self._bytes,
            sha256=self._hash.hexdigest(),
            rows=rows,
            split=split,
        )

    def __enter__(self) -> "FileSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._local is None:
            if kind is None:
                with writing(self._url):
                    self._upload.close(self._is_there)
            return
        self._file.close()
        if kind is None:
            self._part.replace(self._local)
        else:
            self._part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Target:
    """A directory of a store that an export fills; `prefix` is "" for a user's own place."""

    store: Store
    prefix: str

    def path(self, relative: str) -> str:
        """Return the path in the store of a file of the export."""
        return f"{self.prefix}/{relative}" if self.prefix else relative

    def open(self, relative: str) -> FileSink:
        """Begin a file of the export."""
        return FileSink(self.store, self.path(relative), relative)

    def put(self, relative: str, content: bytes) -> FileEntry:
        """Write a small file and return its entry."""
        with self.open(relative) as sink:
            sink.write(content)
        return sink.entry()

    def create(self, relative: str, content: bytes) -> FileEntry:
        """Write a small file unless there is one, and return the entry of what is there.

        For files that another machine would write differently: the publisher's copy replaces them.
        """
        self.store.create(self.path(relative), content)
        return file_entry(relative, self.store.get(self.path(relative)))

    def put_many(self, files: Mapping[str, bytes]) -> None:
        """Write many small files: straight into a local directory, side by side elsewhere.

        A local file is not renamed into place: what a kill leaves half-written has no manifest
        and no record, and is written again.
        """
        root = self.store.local_path()
        if root is None:
            with ThreadPoolExecutor(_UPLOADS) as pool:
                list(pool.map(self._put_remote, files.items()))
            return
        for directory in {relative.rpartition("/")[0] for relative in files}:
            self.store.size(self.path(f"{directory}/x"))  # refuses a symlink out of the store
            with writing(self.store.url):
                (root / self.path(directory)).mkdir(parents=True, exist_ok=True)
        base = str(root)  # joining strings: a Path costs as much as half the write
        with writing(self.store.url):
            for relative, content in files.items():
                _write_file(f"{base}/{self.path(relative)}", content)

    def file_sizes(self, relative: str) -> dict[str, int]:
        """Return path in the store and bytes of each file of a directory; a link's are its own.

        Of a million files here a third of the time that the store's listing takes.
        """
        directory = self.path(relative)
        local = self.store.local_path(directory)
        if local is None:
            return {item.path: item.bytes for item in self.store.objects(directory)}
        if not local.is_dir():
            return {}
        with os.scandir(local) as found:
            return {
                f"{directory}/{item.name}": item.stat(follow_symlinks=False).st_size
                for item in found
            }

    def below(self, relative: str) -> Iterator[str]:
        """Yield every file below a directory, without what killed writers left."""
        for item in self.store.objects(self.path(relative)):
            if not _PART.fullmatch(item.path.rpartition("/")[2]):
                yield item.path.removeprefix(f"{self.prefix}/") if self.prefix else item.path

    def manifest(self) -> Manifest | None:
        """Return the manifest that is there, None if the export is not complete."""
        try:
            path = self.path(MANIFEST_NAME)
            return self.store.surely(lambda: manifest_from_json(self.store.get(path)))
        except FileNotFoundError:
            return None
        except ValueError as error:
            place = f"{self.store.url.rstrip('/')}/{self.path(MANIFEST_NAME)}"
            raise StoreError(f"{place}: {error}; delete the export and make it again") from error

    def publish(self, manifest: Manifest) -> Manifest:
        """Check the files, then create the manifest; in the artifact store also the ref.

        Returns the manifest that is there, another publisher's if that one came first.
        """
        self._sweep()
        if self.prefix:
            return self.store.publish(manifest)
        for entry in manifest.files:
            if (size := self.store.size(self.path(entry.path))) != entry.bytes:
                raise StoreError(
                    f"cannot publish to {self.store.url}: {entry.path} should have {entry.bytes} "
                    f"bytes, found {size}"
                )
        if self.store.local_path() is not None:
            os.sync()
        self.store.create(self.path(MANIFEST_NAME), manifest_to_json(manifest))
        published = self.manifest()
        assert published is not None
        return published

    def sweep_scratch(self, folder: str) -> None:
        """Delete what was kept between the steps; in a place of the user's no folder is left."""
        for item in list(self.store.objects(folder)):
            self.store.delete(item.path)
        if self.prefix or self.store.local_path() is None:
            return
        top = Path(self.store.url, folder.split("/")[0])
        for directory, *_ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # there is something else in it
                Path(directory).rmdir()

    def _sweep(self) -> None:
        """Delete the half-written files that killed writers left in a local directory."""
        root = self.store.local_path(self.prefix)
        if root is None:
            return
        for directory, _, names in os.walk(root):
            for name in names:
                part = _PART.fullmatch(name)
                if part and _is_abandoned(Path(directory, name), part["place"], int(part["pid"])):
                    Path(directory, name).unlink(missing_ok=True)

    def _put_remote(self, item: tuple[str, bytes]) -> None:
        self.store.put(self.path(item[0]), item[1])


def _is_abandoned(path: Path, place: str, pid: int) -> bool:
    """Return whether a file's writer is gone; of one elsewhere one can tell by its age only."""
    if place == _PLACE and pid != os.getpid():
        return not _is_running(pid)
    try:
        return time.time() - path.lstat().st_mtime > LEASE_TTL.total_seconds()
    except FileNotFoundError:
        return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, and belongs to another user
        return True
    return True


def _write_file(path: str, content: bytes) -> None:
    """Write a small file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    view = memoryview(content)
    try:
        while view:  # a full disk or a signal may take a part only
            view = view[os.write(handle, view) :]
    finally:
        os.close(handle)


def _write_all(file: FileIO, content: bytes | memoryview) -> None:
    """Write everything: an unbuffered file may take less than it was given."""
    view = memoryview(content).cast("B")
    while view.nbytes:
        written = file.write(view)
        view = view[view.nbytes if written is None else written :]
