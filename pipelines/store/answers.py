"""Answers of a remote store that are cut on their way: the same is asked for again.

obstore repeats a request that got no answer, or one of 5xx; of an answer that begins well and
ends too early it repeats some only (not a listing, a deletion, a refusal). Everything the store
asks for may be repeated: it is the same object, whole, under the same key.
"""

import random
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError

if TYPE_CHECKING:  # obstore has it for type checkers alone
    from obstore import WritableFile

Answer = TypeVar("Answer")

MAX_ATTEMPTS = 8
# Below the five minutes after which a signed request expires.
_TIMEOUT_SEC = 120.0
_MAX_PAUSE_SEC = 15.0
# What obstore says of an answer without its end.
_CUT = re.compile(
    r"response body|Got invalid \w+ response|connection closed|unexpected (EOF|end of file)"
)


def whole(ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` does; repeat it if the answer was cut, up to MAX_ATTEMPTS times."""
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
    """Return whether an error says that an answer ended too early, and nothing else."""
    return _CUT.search(str(error).partition("Debug source")[0]) is not None


class Upload:
    """An object that is written piece by piece, as obstore.open_writer does.

    What fits the buffer is one request. For more, an upload of parts is begun, which is the only
    answer of it that nobody else asks for again: until then all that was written is kept.
    """

    def __init__(
        self,
        backend: obstore.store.ObjectStore,
        path: str,
        *,
        buffer_size: int,
        max_concurrency: int = 12,
    ) -> None:
        """Begin an object; it is invisible until `close`."""
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

        is_there: whether the object is what was written; asked if the end of an upload of parts
        fails, for it may be complete and only the answer cut
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
