"""Google's bucket as a source: download files into the cache and check them.

A download grows in `<name>.part`; an interrupted one is continued by a range request, in this
run or a later one, and two processes that want the same file take turns. Only a file of the
right size and SHA-256 (both from the catalogue) gets its name; files in the cache are checked
against the same SHA-256.
"""

import contextlib
import dataclasses
import fcntl
import http.client
import logging
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from pipelines.catalogue import ClassEntry, catalogue, class_entry
from pipelines.processes.progress import Progress, doing
from pipelines.sources.base import (
    BITMAP_SIZE,
    DEFAULT_OPTIONS,
    BadFileError,
    Place,
    Request,
    Source,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.classes import ClassFiles, class_folder, plan_bitmaps
from pipelines.sources.files import content_digest, secrets_of, without_secrets
from pipelines.store.local_files import sha256_of

BASE_URL = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
URL_VARIABLE = "SKETCHMILL_QUICKDRAW_URL"

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SEC = 60.0
# In a row without a byte gained; waits double from the first to the last, less up to a half.
_ATTEMPTS = 6
_FIRST_WAIT_SEC, _LAST_WAIT_SEC = 1.0, 30.0
_NOT_GOOGLES = "it is not Google's file, or was damaged on the way"

_HTTPError = urllib.error.HTTPError
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Download:
    """One file: what it must be, where it comes from, what to call with the bytes so far."""

    entry: ClassEntry
    address: str
    report: Callable[[int], None]
    wait: Callable[[float], None]


class QuickDraw(SourceKind):
    """Google's bitmaps of 345 classes."""

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the classes of the catalogue."""
        del place, options
        return tuple(entry.name for entry in catalogue())

    def plan(self, place: Place, request: Request) -> Source:
        """Return the files as the catalogue describes them."""
        del place
        entries = map(class_entry, _chosen(request))
        files = [(e.name, e.num_drawings, e.bytes, f"sha256:{e.sha256}") for e in entries]
        return plan_bitmaps(files, request.options)

    def open(self, place: Place, request: Request) -> Source:
        """Download what the cache lacks and return its files."""
        del place
        cache_dir = request.cache_dir
        directory = cache_dir / "quickdraw" / "numpy_bitmap"
        download_classes(
            _chosen(request), directory, cache_dir=cache_dir, progress=request.progress
        )
        # The cache may hold partial files of other classes: only the chosen ones are looked at.
        files = class_folder(str(directory), ".npy")
        return ClassFiles().open(files, dataclasses.replace(request, options=DEFAULT_OPTIONS))


def _chosen(request: Request) -> Sequence[str]:
    """Return the classes to download; raise ValueError for what the bucket cannot give."""
    if not request.classes:
        raise ValueError("name the classes to download: all 345 are 39.5 GB")
    if request.options.columns or request.options.image_size != BITMAP_SIZE:
        raise ValueError(
            "quickdraw downloads bitmaps only; for metadata or another size download the "
            "simplified drawings (.ndjson) and give their directory as source"
        )
    return request.classes


def download_classes(
    classes: Sequence[str],
    directory: Path,
    *,
    base_url: str | None = None,
    entry_of: Callable[[str], ClassEntry] = class_entry,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch the .npy files of these classes that `directory` lacks, or has damaged.

    base_url   an http(s) or file URL, or a local directory, that stands in for Google's bucket;
               default: $SKETCHMILL_QUICKDRAW_URL, else Google's
    cache_dir  where the digests of files are remembered; default: the directory
    wait       called with the seconds to let pass before trying again

    Raises BadFileError if what came is not what the catalogue says, ConnectionError if the
    server does not have it, or nothing more came after six attempts.
    """
    base = without_secrets(base_url or os.environ.get(URL_VARIABLE) or BASE_URL)
    entries = [entry_of(name) for name in classes]
    total = sum(entry.bytes for entry in entries)
    done = 0
    directory.mkdir(parents=True, exist_ok=True)
    for entry in entries:

        def report(size: int, name: str = entry.name, before: int = done) -> None:
            if progress is not None:
                progress("download", before + size, total, name)

        target = directory / f"{entry.name}.npy"
        if not _is_there(target, entry, cache_dir or directory):
            download = _Download(entry, _address(base, entry.name), report, wait)
            _fetch(download, target, cache_dir or directory)
        done += entry.bytes
        report(entry.bytes)


def _is_there(target: Path, entry: ClassEntry, cache_dir: Path) -> bool:
    if not target.is_file() or target.stat().st_size != entry.bytes:
        return False
    with doing("hash", target.name, total=entry.bytes):
        return content_digest(str(target), cache_dir) == f"sha256:{entry.sha256}"


def _fetch(download: _Download, target: Path, cache_dir: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    with held(part):
        if _is_there(target, download.entry, cache_dir):
            return  # who held it before has finished it
        if target.exists():  # and stays until there is a better one
            _log.warning("%s in the cache is damaged: fetching it again", target.name)
        attempt = 0
        while True:
            before = part.stat().st_size
            error = _try(download, part)
            if part.stat().st_size >= download.entry.bytes:
                break
            attempt = 1 if part.stat().st_size > before else attempt + 1
            if attempt == _ATTEMPTS:
                _give_up(download, part, error)
            with doing("download", f"trying {download.address} again: {error or 'it broke off'}"):
                download.wait(_pause(attempt, error))
        _check(part, download.entry, download.address)
        part.replace(target)


@contextlib.contextmanager
def held(part: Path) -> Iterator[None]:
    """Hold the partial file: two processes that write to one file would mix its bytes.

    It is made if need be, and deleted if it is empty in the end.
    """
    while True:
        with part.open("ab") as file:
            with doing("download", f"waiting for another process that makes {part.stem}"):
                _lock(file, part)
            # Whoever held it may have given it its name, or thrown it away, and somebody else
            # may hold a new one by now.
            if not _has_name(file, part):
                continue
            try:
                yield
            finally:
                if _has_name(file, part) and not os.fstat(file.fileno()).st_size:
                    part.unlink()
            return


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # no locks on this file system: say where
        raise OSError(error.errno, error.strerror, str(path)) from error


def _has_name(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _try(download: _Download, part: Path) -> Exception | None:
    """Fetch what the partial file lacks; return what went wrong if trying again may help."""
    try:
        _continue(download.address, part, download.entry.bytes, download.report)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, _HTTPError):
            error.close()  # its body is nothing to us
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()
                raise BadFileError(f"{download.address} is too short: {_NOT_GOOGLES}") from error
        if _is_final(error):
            _give_up(download, part, error)
        return error
    return None


def _give_up(download: _Download, part: Path, error: Exception | None) -> NoReturn:
    have, size = part.stat().st_size, download.entry.bytes
    why = "the connection breaks off" if error is None else str(error) or type(error).__name__
    raise ConnectionError(
        f"cannot fetch {download.address}: {why}; {have:,} of {size:,} bytes are there: run again "
        f"to continue, or set {URL_VARIABLE} to a copy"
    ) from error


def _pause(attempt: int, error: Exception | None) -> float:
    """Return the seconds to wait: what the server asks for, else twice as long as before."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, _HTTPError) else ""
    if asked.isdigit():
        return min(float(asked), _LAST_WAIT_SEC)
    longest = min(_FIRST_WAIT_SEC * 2 ** (attempt - 1), _LAST_WAIT_SEC)
    return longest * random.uniform(0.5, 1.0)


def _continue(address: str, part: Path, size: int, report: Callable[[int], None]) -> None:
    """Append to the partial file what it lacks; start anew if the server ignores the range."""
    have = part.stat().st_size
    report(have)
    if have >= size:
        return
    user, query = secrets_of(address)
    asked = f"{address}?{query}" if query else address
    request = urllib.request.Request(asked, headers={"Range": f"bytes={have}-"})
    if user:
        request.add_unredirected_header("Authorization", user)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SEC) as response:
        if address.startswith("file:"):
            response.seek(have)
        elif response.status != 206:
            have = 0
        length = response.headers.get("Content-Length", "")
        skipped = 0 if address.startswith("file:") else have
        if length.isdigit() and skipped + int(length) != size:
            part.unlink()
            raise BadFileError(
                f"{address} has {skipped + int(length)} bytes, expected {size}: {_NOT_GOOGLES}"
            )
        with part.open("r+b") as file:
            file.truncate(have)
            file.seek(have)
            _copy(response, file, have, size, report)


def _copy(
    response: BinaryIO, file: BinaryIO, have: int, size: int, report: Callable[[int], None]
) -> None:
    """Copy the rest; one byte more than expected is enough to know that it is too long."""
    while have <= size and (chunk := response.read(min(_CHUNK_BYTES, size + 1 - have))):
        file.write(chunk)
        have += len(chunk)
        report(min(have, size))


def _check(part: Path, entry: ClassEntry, address: str) -> None:
    found = part.stat().st_size
    with doing("hash", entry.name, total=found):
        digest = sha256_of(part)
    if found == entry.bytes and digest == entry.sha256:
        return
    part.unlink()
    raise BadFileError(
        f"{address} has {found} bytes and SHA-256 {digest[:12]}..., expected {entry.bytes} and "
        f"{entry.sha256[:12]}...: {_NOT_GOOGLES}"
    )


def _address(base: str, class_name: str) -> str:
    if "://" not in base:
        return (Path(base).expanduser().absolute() / f"{class_name}.npy").as_uri()
    return f"{base.rstrip('/')}/{urllib.parse.quote(class_name)}.npy"


def _is_final(error: Exception) -> bool:
    """Whether trying again is no use: the server answered, and the answer was no."""
    if not isinstance(error, _HTTPError):
        # A directory that stands in for the bucket and lacks the file.
        return isinstance(getattr(error, "reason", error), FileNotFoundError)
    return error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS
