"""Access local and remote files: ranges, listings, sizes and content digests.

A local path is read with pread: memory maps of 40 GB would count as resident. A URL (s3://,
gs://, az://, https://) is read with obstore; credentials come from the environment alone, and
`quickdraw_dataset` on gs:// needs none (GOOGLE_SKIP_SIGNATURE=true). Of obstore's error
messages, which fill a screen, the first line is kept. User, password and query of a URL are sent to
the server, and appear in no address, message or manifest (`without_secrets`).
"""

import base64
import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from pipelines.processes.progress import advance, doing
from pipelines.sources.base import BadFileError
from pipelines.store import backends
from pipelines.store.backends import CLIENT_OPTIONS, RETRY_CONFIG, open_backend, whole
from pipelines.store.local_files import sha256_of, write_atomically
from pipelines.store.printable import printable, shown, without_user

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig

# Reading through a gap of this size is cheaper than a second request.
_COALESCE_BYTES = 1 << 16
# The size of a dangling link: such files are listed, so that reading them reports the error.
DANGLING = -1
_WEB = ("http://", "https://")
# What to ask with, by the address without it: user and password as Authorization, and the query.
Secrets = tuple[str, str]
NO_SECRETS: Secrets = ("", "")
_secrets: dict[str, Secrets] = {}


class RemoteError(OSError):
    """A remote store did not give what was asked of it; trying again may help."""


def is_remote(url: str) -> bool:
    """Return whether this is a URL rather than a local path; file:// is local."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> Path:
    """Return the path of a local file or directory given as path or file://.

    Raises ValueError for a file URL of another host or with a query or fragment.
    """
    path = backends.local_path(url)
    assert path is not None, url
    return path


def is_hidden(path: str) -> bool:
    """Return whether a file is one that tools leave behind: ._bee.npy, .ipynb_checkpoints/x."""
    return any(part.startswith(".") for part in path.split("/"))


def without_secrets(address: str) -> str:
    """Return an address as it may be printed; what is taken off one of the web is remembered.

    >>> without_secrets("https://me:pw@host/a.parquet?download=true"), without_secrets("/data/what?")
    ('https://host/a.parquet', '/data/what?')
    """
    if not address.startswith(_WEB):
        return without_user(address) if is_remote(address) else address
    bare, rest = printable(address), without_user(address)
    user = address.removesuffix(rest.partition("://")[2])
    if user == address:
        raise ValueError(
            f"{bare}: the text after the host is not a port: write %2F for / in a password"
        )
    query = rest.partition("#")[0].partition("?")[2]
    remember_secrets(bare, (_authorization(user.partition("://")[2]), query))
    return bare


def remember_secrets(address: str, secrets: Secrets) -> None:
    """Ask for this file, or the files below this directory, with these; not if there are none."""
    if any(secrets):
        _secrets[address] = secrets


def secrets_of(url: str) -> Secrets:
    """Return what a file is asked for with."""
    owners = (base for base in _secrets if url == base or url.startswith(base.rstrip("/") + "/"))
    return next((_secrets[base] for base in owners), NO_SECRETS)


def _authorization(user: str) -> str:
    """Return the header that says what an address has before its host, "me:password@"."""
    basic = base64.b64encode(unquote(user.removesuffix("@")).encode()).decode("ascii")
    return f"Basic {basic}" if user else ""


def why_absent(url: str) -> str:
    """Say why a local file that is named is not there, and what to do."""
    path = local_path(url)
    if not path.is_symlink():
        return "it is not there, copy it again"
    target = str(path.readlink())
    hint = "run `git annex get`" if "annex/objects" in target else "copy what it leads to"
    return f"it is a link to {target}, which is not there: {hint} where it came from"


class FileRanges:
    """Random access to one file, local or remote."""

    def __init__(self, url: str) -> None:
        """Open `url`; raises FileNotFoundError if it is not there."""
        self.url = url
        self._handle: int | None = None
        if not is_remote(url):
            self._handle = os.open(local_path(url), os.O_RDONLY)

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            os.close(handle)

    def read(self, offset: int, length: int) -> bytes:
        """Return these bytes; raises BadFileError if the file ends before."""
        if length == 0:
            return b""
        content = self._read(offset, length)
        if len(content) != length:
            raise BadFileError(f"{self.url} ends {length - len(content)} bytes too early")
        return content

    def read_into(self, offset: int, target: npt.NDArray[np.uint8]) -> None:
        """Fill a contiguous array with the bytes from `offset` on."""
        if self._handle is None:
            target.reshape(-1)[:] = np.frombuffer(self.read(offset, target.nbytes), np.uint8)
            return
        if os.preadv(self._handle, [target.data], offset) != target.nbytes:
            raise BadFileError(f"{self.url} ends too early")

    def read_many_into(self, offsets: Sequence[int], target: npt.NDArray[np.uint8]) -> None:
        """Fill each row of `target` (n, length) with the bytes from its offset on."""
        if self._handle is not None:
            for offset, row in zip(offsets, target, strict=True):
                self.read_into(offset, row)
            return
        lengths = [target.shape[1]] * len(offsets)
        with _asking(self.url):
            store, path = _remote(self.url)
            pieces = obstore.get_ranges(
                store, path, starts=list(offsets), lengths=lengths, coalesce=_COALESCE_BYTES
            )
        target[:] = np.frombuffer(b"".join(map(bytes, pieces)), np.uint8).reshape(target.shape)

    def _read(self, offset: int, length: int) -> bytes:
        if self._handle is not None:
            return os.pread(self._handle, length, offset)
        with _asking(self.url):
            store, path = _remote(self.url)
            return bytes(obstore.get_range(store, path, start=offset, length=length))


def is_listable(directory: str) -> bool:
    """Return whether one can ask what a directory holds; not over http(s)."""
    return not directory.startswith(_WEB)


def list_files(directory: str) -> dict[str, int]:
    """Return the names and sizes of the files right in a directory, sorted; no hidden ones.

    Empty if it is not there; a link that leads nowhere has the size DANGLING. Raises ValueError for
    https://, which cannot be listed.
    """
    found = _list(directory, "", deep=False)
    return {name: size for name, size in found.items() if "/" not in name}


def list_tree(directory: str, suffix: str) -> dict[str, int]:
    """Return the relative paths and sizes of the files below a directory that end so, sorted."""
    return _list(directory, suffix, deep=True)


def find_below(directory: str, patterns: Sequence[str]) -> list[Path]:
    """Return the paths below a local directory that match, no hidden ones; none of a remote one."""
    if is_remote(directory):
        return []
    root = local_path(directory)
    found = [path for pattern in patterns for path in root.glob(pattern)]
    return [path for path in found if not is_hidden(str(path.relative_to(root)))]


def _list(directory: str, suffix: str, *, deep: bool) -> dict[str, int]:
    with doing("source", f"listing {directory}"):
        return _listed(directory, suffix, deep=deep)


def _listed(directory: str, suffix: str, *, deep: bool) -> dict[str, int]:
    if not is_remote(directory):
        root = local_path(directory)
        paths = root.rglob(f"*{suffix}") if deep else root.glob(f"*{suffix}")
        sizes = {str(path.relative_to(root)): _size(path) for path in paths if not path.is_dir()}
        return {name: size for name, size in sorted(sizes.items()) if not is_hidden(name)}
    if not is_listable(directory):
        raise ValueError(f"{directory} cannot be listed: name the classes to read from it")
    with _asking(directory):
        store = _remote_store(directory.rstrip("/"))
        if deep:
            items = whole(lambda: [item for batch in obstore.list(store) for item in batch])
        else:
            items = whole(lambda: obstore.list_with_delimiter(store)["objects"])
    found = {item["path"]: item["size"] for item in items if item["path"].endswith(suffix)}
    return {name: size for name, size in sorted(found.items()) if not is_hidden(name)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else DANGLING


def join_url(directory: str, name: str) -> str:
    """Return the address of a file in a directory, quoted as its kind needs."""
    if not is_remote(directory):
        return str(local_path(directory) / name)
    if directory.startswith(_WEB):
        return f"{directory.rstrip('/')}/{quote(name)}"
    return f"{directory.rstrip('/')}/{name}"


def file_size(url: str) -> int | None:
    """Return a file's size in bytes, None if it is not there."""
    if not is_remote(url):
        path = local_path(url)
        return path.stat().st_size if path.is_file() else None
    with contextlib.suppress(FileNotFoundError), _asking(url):
        return int(_head(url)["size"])
    return None


def content_digest(url: str, cache_dir: Path) -> str:
    """Return "sha256:..." of a local file, "etag:..." of a remote one.

    The SHA-256 is remembered under `cache_dir` for as long as path, size, modification time and
    inode stay what they are.
    """
    if is_remote(url):
        with _asking(url):
            found = _head(url)
        tag = found["e_tag"] or found["last_modified"].isoformat()
        return f"etag:{found['size']}-{tag}"
    path = local_path(url)
    status = path.stat()
    key = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    memo = cache_dir / "digests" / hashlib.sha256(os.fsencode(key)).hexdigest()
    if memo.is_file():
        advance(status.st_size)
        return memo.read_text("ascii")
    digest = "sha256:" + sha256_of(path)
    write_atomically(memo, digest.encode())
    return digest


def hashing(sizes: Mapping[str, int], place: str) -> AbstractContextManager[None]:
    """Return the context in which files (address to bytes) get their digests; it says how far."""
    total = sum(max(size, 0) for url, size in sizes.items() if not is_remote(url))
    return doing("hash" if total else "source", f"files of {place}", total=total)


def file_version(url: str) -> str:
    """Return a value that changes when the file is written to, and that is cheap to query."""
    if is_remote(url):
        return content_digest(url, Path())
    status = local_path(url).stat()
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _remote(url: str) -> tuple[obstore.store.ObjectStore, str]:
    directory, _, name = url.rpartition("/")
    # As join_url has quoted it.
    is_web = directory.startswith(_WEB)
    return _remote_store(directory, secrets_of(url)), unquote(name) if is_web else name


@functools.cache
def _remote_store(directory: str, secrets: Secrets = NO_SECRETS) -> obstore.store.ObjectStore:
    if is_listable(directory):
        return open_backend(directory)[0]
    user, query = secrets
    options: ClientConfig = {**CLIENT_OPTIONS, "allow_http": directory.startswith("http://")}
    if user:
        options["default_headers"] = {"Authorization": user}
    address = f"{directory}?{query}" if query else directory
    return from_url(address, client_options=options, retry_config=RETRY_CONFIG)


def _head(url: str) -> "ObjectMeta":
    store, path = _remote(url)
    if secrets_of(url)[1]:  # a signature for GET is none for HEAD
        return obstore.get(store, path, options={"range": (0, 1)}).meta
    return obstore.head(store, path)


@contextlib.contextmanager
def _asking(url: str) -> Iterator[None]:
    """Say in one line what a remote store answered, and whom we wait for."""
    try:
        with doing("source", f"waiting for {url}", is_detail=True):
            yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} is not there") from (None if secrets_of(url)[1] else error)
    except BaseError as error:
        said = shown(first_line(error))
        raise RemoteError(f"{url} cannot be read: {said}") from (
            None if secrets_of(url)[1] else error
        )


def first_line(error: BaseException) -> str:
    """Return what an error says, without what follows on further lines."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
