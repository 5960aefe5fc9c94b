"""Open the backend of a store by its URL: a directory, S3, GCS, Azure or memory.

Credentials and endpoints of remote stores come from the environment alone.

obstore retries a request without a response, or with 5xx. It retries only some requests whose
response is truncated (not a listing, a deletion, a refusal). `whole` retries those: all requests
of the store are idempotent.
"""

import itertools
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, from_url

from pipelines.store.errors import FullError, StoreError
from pipelines.store.local_files import NO_ROOM
from pipelines.store.printable import printable, shown

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore import WritableFile
    from obstore.store import ClientConfig, RetryConfig

Answer = TypeVar("Answer")

# obstore's retries: 5xx, lost connections and time-outs; full jitter. `whole` retries truncated
# responses. Two minutes are below the five after which a signed request expires.
RETRY_CONFIG: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=15),
        "base": 2,
    },
}
# The default of 30 s for a request is too short for 8 MiB on a slow line.
CLIENT_OPTIONS: "ClientConfig" = {
    "timeout": timedelta(seconds=300),
    "connect_timeout": timedelta(seconds=10),
}
# Where a server of one's own is named; GCS takes that from its credentials.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "gs": (),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
REMOTE = tuple(_ENDPOINTS)
_AZURE_ACCOUNT = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR")
_NEXT_TO_NONE_BYTES = 1 << 20
# Characters shown of an invalid name.
_SHOWN_NAME = 300
# Characters shown of an error: a name in it may be as long as a file.
_MAX_LINE = 4_000
# Where clients without credentials request those of their machine.
_METADATA_SERVERS = ("169.254.169.254", "metadata.google.internal")

MAX_ATTEMPTS = 8
# Below the five minutes after which a signed request expires.
_TIMEOUT_SEC = 120.0
_MAX_PAUSE_SEC = 15.0
# obstore's messages for a truncated response.
_CUT = re.compile(
    r"response body|Got invalid \w+ response|connection closed|unexpected (EOF|end of file)"
)


def open_backend(url: str) -> tuple[obstore.store.ObjectStore, str]:
    """Return the backend of a directory path, or of a URL of `file`, `s3`, `gs`, `az` or `memory`.

    A local directory is made if needed. Credentials and endpoints of remote stores come from
    the environment alone (AWS_*, GOOGLE_*, AZURE_*): user and password are removed from a URL. Also
    returns the URL, absolute for directories. Raises StoreError for any other URL, and if the
    directory cannot be made.
    """
    if (root := local_root(url)) is not None:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            kind = FullError if error.errno in NO_ROOM else StoreError
            raise kind(f"{root} cannot be a store: {error.strerror}") from error
        return LocalStore(root), str(root)
    if "?" in url or "#" in url:
        raise StoreError(
            f"{printable(url)!r} is not the address of a store: its URL has no query and no "
            "fragment (? and #)"
        )
    url = printable(url)
    _clean_endpoints()
    if url.startswith("memory://"):
        return MemoryStore(), url
    scheme, _, place = url.partition("://")
    if scheme not in REMOTE or not place.partition("/")[0]:
        raise StoreError(
            f"{url!r} is not a store: expected a directory, s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or memory://"
        )
    if scheme == "az" and not any(map(os.environ.get, _AZURE_ACCOUNT)):
        raise StoreError(f"{url!r} is in an account of Azure: set {_AZURE_ACCOUNT[0]} to its name")
    # An endpoint that begins with http:// is an explicit choice.
    endpoints = (os.environ.get(name, "") for name in _ENDPOINTS[scheme])
    is_plain = any(endpoint.startswith("http://") for endpoint in endpoints)
    options: ClientConfig = {**CLIENT_OPTIONS, **({"allow_http": True} if is_plain else {})}
    return from_url(url, client_options=options, retry_config=RETRY_CONFIG), url


def local_root(url: str) -> Path | None:
    """Return the directory of a path or `file://` URL, None for a URL of another scheme.

    Raises StoreError for an empty address, and as `local_path` does.
    """
    if not url.strip():
        raise StoreError("the store's address is empty: expected a directory or a URL")
    path = local_path(url)
    return path and path.resolve()


def local_path(url: str) -> Path | None:
    """Return the path of a path or `file://` URL, None for a URL of another scheme.

    >>> str(local_path("file:///data/my%20store")), str(local_path("file://localhost/data"))
    ('/data/my store', '/data')

    Raises StoreError for a file URL of another host or with a query or fragment.
    """
    if "://" not in url:
        return Path(url).expanduser().absolute()
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise StoreError(
            f"{printable(url)!r} is not a path of this machine: expected file:///ABSOLUTE/PATH, with "
            "%20 for a space, %3F for ? and %23 for #"
        )
    return Path(unquote(parts.path))


def whole(ask: Callable[[], Answer]) -> Answer:
    """Return the result of `ask`; retry truncated responses, up to MAX_ATTEMPTS times in all."""
    began = time.monotonic()
    for attempt in range(1, MAX_ATTEMPTS):
        try:
            return ask()
        except (BaseError, OSError) as error:  # OSError is what uploads raise
            if not is_cut(error) or time.monotonic() - began > _TIMEOUT_SEC:
                raise
        time.sleep(random.uniform(0, min(0.1 * 2**attempt, _MAX_PAUSE_SEC)))
    return ask()


def is_cut(error: Exception) -> bool:
    """Return whether an error reports a truncated response."""
    return _CUT.search(str(error).partition("Debug source")[0]) is not None


class Upload:
    """An object that is written in pieces, as by obstore.open_writer.

    Content that fits the buffer is one request. More content starts a multipart upload. obstore
    does not retry that start if its response is truncated, so the content is kept until then.
    """

    def __init__(
        self,
        backend: obstore.store.ObjectStore,
        path: str,
        *,
        buffer_size: int,
        max_concurrency: int = 12,
    ) -> None:
        """Start an object; it is invisible until `close`."""
        self._open = lambda: obstore.open_writer(
            backend, path, buffer_size=buffer_size, max_concurrency=max_concurrency
        )
        self._put = lambda content: obstore.put(backend, path, content, use_multipart=False)
        self._buffer_size = buffer_size
        self._held = bytearray()
        self._writer: WritableFile | None = None

    def write(self, content: bytes | memoryview) -> None:
        """Append these bytes."""
        if self._writer is not None:
            self._writer.write(content)
            return
        self._held += content
        if len(self._held) > self._buffer_size:
            self._writer = whole(self._begin)
            self._held.clear()

    def close(self, is_there: Callable[[], bool]) -> None:
        """Make the object visible.

        is_there: whether the object has the written content; called if completing a multipart
        upload fails, since only the response may be truncated
        """
        if self._writer is None:
            whole(lambda: self._put(bytes(self._held)))
            return
        try:
            self._writer.close()
        except (BaseError, OSError):
            if not is_there():
                raise

    def _begin(self) -> "WritableFile":
        writer = self._open()
        writer.write(bytes(self._held))
        return writer


def _full_folders() -> list[str]:
    """Return the paths of those folders that work writes to which are almost full."""
    known = [Path.cwd(), Path(os.environ.get("TMPDIR", "/tmp")), Path(os.path.expanduser("~"))]  # noqa: PTH111
    there = [folder for folder in dict.fromkeys(known) if folder.is_dir()]
    return [str(folder) for folder in there if shutil.disk_usage(folder).free < _NEXT_TO_NONE_BYTES]


def _clean_endpoints() -> None:
    """Remove user and password from the endpoint: no request uses them, but errors show them."""
    for name in itertools.chain(*_ENDPOINTS.values()):
        endpoint = os.environ.get(name, "")
        if endpoint != printable(endpoint):
            os.environ[name] = printable(endpoint)


def one_line(error: BaseException) -> str:
    """Return an error's message without debugging output, safe to print, at most a page.

    obstore's messages have pages of debugging output.

    >>> one_line(ValueError("Generic S3 error: no\\n\\nDebug source:\\nGeneric {}"))
    'Generic S3 error: no'
    >>> one_line(IsADirectoryError(21, "Is a directory", "/data"))
    '/data: Is a directory'
    """
    text = _whole_line(error)
    return text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}..."


def _whole_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        place = error.filename or ", ".join(_full_folders()) or "a disk"
        return shown(
            f"{place} is full ({error.strerror}): free some of its disk, then run it again"
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return shown(f"{error.filename}: {error.strerror}")
    if isinstance(error, UnicodeEncodeError):
        return shown(f"{error.object[:_SHOWN_NAME]}: this name is not UTF-8: give it another one")
    text = shown(str(error).partition("\n\nDebug source:")[0].strip())
    if not any(server in text for server in _METADATA_SERVERS):
        return text
    return (
        "no credentials for the store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3:// "
        "(and AWS_ENDPOINT_URL for a server of your own), GOOGLE_APPLICATION_CREDENTIALS for "
        "gs://, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for az://; this machine "
        f"offers none either: {text}"
    )
