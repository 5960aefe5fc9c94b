"""Probe whether a backend honors the guarantees that publishing relies on.

Some S3 servers ignore `If-None-Match: *` and let every writer win (SeaweedFS issue 8800), so each
guarantee is tested on the server itself. A probe deletes its objects when it ends.
"""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.store.errors import FullError, ReadOnlyError
from pipelines.store.objects import Objects

NUM_RACERS = 20
# The seed's twenty classes are 7 GB of .npy files; no run fits into less than this.
MIN_FREE_BYTES = 2 * 2**30
# Garbage collection compares the server's clock with the local one; its grace period is days.
MAX_CLOCK_SKEW_SEC = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One guarantee of a backend: whether it holds, and what was observed."""

    question: str
    is_ok: bool
    message: str


def probe(store: Objects, *, min_free_bytes: int = MIN_FREE_BYTES) -> Iterator[Answer]:
    """Test every guarantee; an exception in one test does not stop the others.

    A store that refuses writes is reported once.
    """
    folder = f"attempts/doctor/{uuid.uuid4().hex}"
    questions: dict[str, Callable[[Objects, str], tuple[bool, str]]] = {
        "create if absent": _one_winner,
        "read after write": _read_after_write,
        "list after write": _list_after_write,
        "clock": _clock,
    }
    try:
        for question, ask in questions.items():
            try:
                yield Answer(question, *ask(store, folder))
            except (FullError, ReadOnlyError) as error:
                yield Answer("write", False, str(error))
                break
            except Exception as error:
                yield Answer(question, False, f"{type(error).__name__}: {error}")
        yield Answer("free space", *_free_space(store, min_free_bytes))
    finally:
        with contextlib.suppress(Exception):  # what can delete nothing has said so above
            for item in list(store.objects(folder)):
                store.delete(item.path)


def _one_winner(store: Objects, folder: str) -> tuple[bool, str]:
    path = f"{folder}/race"
    with ThreadPoolExecutor(NUM_RACERS) as pool:
        won = list(pool.map(lambda i: store.create(path, b"%d" % i), range(NUM_RACERS)))
    is_ok = sum(won) == 1 and store.get(path) == b"%d" % won.index(True)
    return is_ok, f"{sum(won)} of {NUM_RACERS} at once won; publishing needs exactly one"


def _read_after_write(store: Objects, folder: str) -> tuple[bool, str]:
    path = f"{folder}/read"
    for content in (b"first", b"second"):
        store.put(path, content)
        if store.get(path) != content or store.size(path) != len(content):
            return False, "reads give what was there before the last write"
    store.delete(path)
    if store.size(path) is not None:
        return False, "a deleted object is still there"
    return True, "reads what was just written"


def _list_after_write(store: Objects, folder: str) -> tuple[bool, str]:
    paths = [f"{folder}/list/{index}" for index in range(5)]
    for path in paths:
        store.put(path, b"x")
    listed = [item.path for item in store.objects(f"{folder}/list")]
    return listed == paths, "lists what was just written" if listed == paths else "stale listing"


def _clock(store: Objects, folder: str) -> tuple[bool, str]:
    store.put(f"{folder}/clock", b"x")
    now = datetime.now(UTC)
    written = next(item for item in store.objects(folder) if item.path.endswith("/clock"))
    skew = abs((now - written.modified).total_seconds())
    return skew < MAX_CLOCK_SKEW_SEC, f"differs from the store's by {skew:.0f} s"


def _free_space(store: Objects, min_free_bytes: int) -> tuple[bool, str]:
    if (root := store.local_path()) is None:
        return True, "the store is remote"
    free = shutil.disk_usage(root).free
    return free >= min_free_bytes, f"{free / 2**30:.0f} GiB free at {root}"
