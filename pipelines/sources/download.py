"""Google's bucket into the cache: each file whole and checked, or not there.

A download grows in `<name>.part`; an interrupted one is continued by a range request. Only a
file of the right size and SHA-256 (both from the catalogue) gets its name.
"""

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from pipelines.catalogue import ClassEntry, class_entry
from pipelines.sources.base import BadFileError
from pipelines.sources.files import sha256_of

BASE_URL = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
URL_VARIABLE = "SKETCHMILL_QUICKDRAW_URL"

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SEC = 60.0
_ATTEMPTS = 5

ProgressCallback = Callable[..., None]


def download_classes(
    classes: Sequence[str],
    directory: Path,
    *,
    base_url: str | None = None,
    entry_of: Callable[[str], ClassEntry] = class_entry,
    progress: ProgressCallback | None = None,
) -> None:
    """Fetch the .npy files of these classes that `directory` lacks.

    base_url  an http(s) or file URL, or a local directory, that stands in for Google's bucket;
              default: $SKETCHMILL_QUICKDRAW_URL, else Google's

    Raises BadFileError if what came is not what the catalogue says, ConnectionError if nothing
    came after five attempts.
    """
    base = base_url or os.environ.get(URL_VARIABLE) or BASE_URL
    entries = [entry_of(name) for name in classes]
    total = sum(entry.bytes for entry in entries)
    done = 0
    directory.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        before = done

        def report(size: int, name: str = entry.name, before: int = before) -> None:
            if progress is not None:
                progress("download", before + size, total, name)

        _fetch(entry, base, directory, report)
        done += entry.bytes
        report(entry.bytes)


def _fetch(entry: ClassEntry, base: str, directory: Path, report: Callable[[int], None]) -> None:
    target = directory / f"{entry.name}.npy"
    if target.is_file() and target.stat().st_size == entry.bytes:
        return
    part = directory / f"{entry.name}.npy.part"
    address = _address(base, entry.name)
    for attempt in range(_ATTEMPTS):
        try:
            _continue(address, part, entry.bytes, report)
        except (OSError, http.client.HTTPException) as error:
            if _is_final(error) or attempt + 1 == _ATTEMPTS:
                raise ConnectionError(
                    f"cannot fetch {address}: {error}; run again to continue, or set "
                    f"{URL_VARIABLE} to a copy"
                ) from error
            continue
        if part.stat().st_size >= entry.bytes:
            break
    _check(part, entry, address)
    part.replace(target)


def _continue(address: str, part: Path, size: int, report: Callable[[int], None]) -> None:
    """Append to the partial file what it lacks; start anew if the server ignores the range."""
    have = part.stat().st_size if part.is_file() else 0
    if have >= size:
        return
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SEC) as response:
        if address.startswith("file:"):
            response.seek(have)
        elif response.status != 206:
            have = 0
        with part.open("r+b" if part.is_file() else "wb") as file:
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
    digest = sha256_of(part)
    if found == entry.bytes and digest == entry.sha256:
        return
    part.unlink()
    raise BadFileError(
        f"{address} has {found} bytes and SHA-256 {digest[:12]}..., expected {entry.bytes} and "
        f"{entry.sha256[:12]}...: it is not Google's file, or was damaged on the way"
    )


def _address(base: str, class_name: str) -> str:
    if "://" not in base:
        return (Path(base).expanduser().absolute() / f"{class_name}.npy").as_uri()
    return f"{base.rstrip('/')}/{urllib.parse.quote(class_name)}.npy"


def _is_final(error: Exception) -> bool:
    """Whether trying again is no use: the server answered, and the answer was no."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500
