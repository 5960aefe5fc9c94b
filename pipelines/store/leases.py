"""Leases, which protect the inputs and outputs of running work from garbage collection.

    running/<id>.json     what one process needs, renewed while it runs
    sweeping/<id>.json    what one collection is about to delete, renewed likewise

Both name artifacts, existing or planned, and folders of scratch. A lease is valid for LEASE_TTL
after its last write and a sweep for SWEEP_TTL, so those of killed processes expire soon.

An artifact is reachable if a lease, a pin or one of the last refs of its name names it or an
artifact made of it. A process that uses an artifact or makes it reachable:

    1. writes a lease that names it
    2. waits until no announced sweep names it
    3. checks that it exists: only an artifact that is found now is sure to stay
    4. works, and writes manifests, refs and pins
    5. deletes the lease

A collection (pipelines.store.collect) handles unreachable artifacts as follows. It:

    1. announces the sweep of all of them
    2. reads the leases, then the pins, then the refs
    3. deletes those that are still unreachable: refs, manifest, files
    4. deletes the announcement

On a full disk there is no room for the announcement. An empty object then replaces it, which takes
no room and means everything; the folder `sweeping` is made with the first lease, for the same
reason.

The collection sees a lease that is written before it reads leases. A lease that is written later
follows the announcement, so its writer sees the announcement, waits for its end, and checks. A
lease that was deleted earlier has left its results in pins and refs, which are read later. An
artifact that is reported as made, kept or pinned therefore stays, without a lock: the store only
has to provide read-after-write consistency. Each object has one writer, so concurrent collections
do not end each other's sweeps. No process waits for a lease, and reads need none.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.processes.progress import doing
from pipelines.store.errors import BusyError, FullError, StoreError
from pipelines.store.local_files import writing
from pipelines.store.objects import Objects

LEASE_TTL = timedelta(hours=1)
SWEEP_TTL = timedelta(minutes=5)
# Many renewals may fail before either expires.
RENEW_SEC = 60.0
# Timeout for a concurrent sweep, which takes seconds.
_WAIT_SEC = 60.0
_JOIN_SEC = 10.0

# The meaning of an empty announcement.
_EVERYTHING = "everything"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def holding(store: Objects, paths: Iterable[str], what: str) -> Iterator[None]:
    """Protect paths, existing or planned, from garbage collection while the block runs.

    paths: artifacts as kind/name/digest, folders of scratch; `what` describes the work. Raises
    BusyError if one of them is being swept for too long. Check inside the block that they exist.
    """
    needs = list(dict.fromkeys(paths))
    began = datetime.now(UTC).isoformat(timespec="seconds")
    lease = {"needs": needs, "what": what, "began": began}
    if (root := store.local_path()) is not None:
        with writing(store.url):
            (root / "sweeping").mkdir(exist_ok=True)
    with renewed(store, _new_path("running"), _to_bytes(lease)):
        _wait_for_sweeps(store, needs)
        yield


def check_writable(store: Objects) -> None:
    """Raise ReadOnlyError or FullError if the store cannot be written."""
    with holding(store, (), "check"):
        pass


@contextlib.contextmanager
def sweeping(store: Objects, paths: Iterable[str]) -> Iterator[None]:
    """Announce a sweep of these paths; read the leases inside the block."""
    announced = _new_path("sweeping")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(renewed(store, announced, _to_bytes({"sweeps": list(paths)})))
        except FullError:
            stack.enter_context(renewed(store, announced, b""))
        yield


def leased(store: Objects, now: datetime) -> Iterator[str]:
    """Yield the paths under a valid lease: artifacts as kind/name/digest, folders of scratch."""
    yield from _named(store, "running", "needs", now - LEASE_TTL)


@contextlib.contextmanager
def renewed(
    store: Objects, path: str, content: bytes, *, every_sec: float | None = None
) -> Iterator[None]:
    """Keep a small object in the store while the block runs; rewrite it every `every_sec`."""
    every_sec = RENEW_SEC if every_sec is None else every_sec
    _put(store, path, content)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(every_sec):
            try:
                _put(store, path, content)
            except Exception as error:
                _log.warning("%s could not be renewed, trying again: %s", path, error)

    thread = threading.Thread(target=renew, name=f"renew {path}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A pending renewal must not recreate the object, and a store that hangs must not block.
        thread.join(timeout=_JOIN_SEC)
        store.delete(path)


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is this folder or inside it."""
    return path == folder or path.startswith(f"{folder}/")


def _named(store: Objects, folder: str, key: str, since: datetime) -> Iterator[str]:
    """Yield the paths named by the objects of a folder that were written after `since`."""
    for item in store.objects(folder):
        is_ours = item.path.count("/") == 1  # earlier versions had announcements further down
        if is_ours and item.modified > since:
            with contextlib.suppress(FileNotFoundError):  # the work has ended
                yield from _content(item.path, store.get(item.path), key)


def _content(path: str, content: bytes, key: str) -> list[str]:
    if not content and key == "sweeps":
        return [_EVERYTHING]
    try:
        return json.loads(content)[key]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{path} is damaged, delete it if no work runs: {error}") from error


def _to_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii") + b"\n"


def _new_path(folder: str) -> str:
    return f"{folder}/{uuid.uuid4().hex}.json"


def _put(store: Objects, path: str, content: bytes) -> None:
    store.put(path, content)
    store.sync([path])


def _wait_for_sweeps(store: Objects, paths: Sequence[str]) -> None:
    began = time.monotonic()
    while swept := _swept(store, paths):
        if time.monotonic() - began > _WAIT_SEC:
            raise BusyError(f"{min(swept)} is being swept by a garbage collection: run it again")
        with doing("store", f"waiting for a garbage collection that sweeps {min(swept)}"):
            time.sleep(0.2)


def _swept(store: Objects, paths: Sequence[str]) -> list[str]:
    """Return the announced sweeps that cover one of these paths."""
    sweeps = set(_named(store, "sweeping", "sweeps", datetime.now(UTC) - SWEEP_TTL))
    return [
        path
        for path in sweeps
        if path == _EVERYTHING or any(is_within(path, each) for each in paths)
    ]
