"""Leases: what running work needs or makes, so that no garbage collection takes it away.

    running/<id>.json                       what one piece of work needs, renewed while it runs
    sweeping/<kind>/<name>/<digest>.json    what a collection is about to delete, renewed likewise

A lease counts for LEASE_TTL after it was last written, a sweep for SWEEP_TTL, so those of killed
processes end soon.
Whoever takes a lease writes it first and looks for sweeps then; a collection announces its sweep
first and looks for leases then. So one of the two sees the other, and work and sweep of the same
artifact never overlap; it needs no more than reads that see what was written before.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pipelines.errors import BusyError
from pipelines.objects import Objects, StoreError

LEASE_TTL = timedelta(hours=1)
SWEEP_TTL = timedelta(minutes=5)
# Many renewals may fail before either ends.
RENEW_SEC = 60.0
# A sweep of one artifact takes seconds; who comes across one waits so long for its end.
_WAIT_SEC = 60.0
_JOIN_SEC = 10.0

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def holding(store: Objects, prefixes: Sequence[str], what: str) -> Iterator[None]:
    """Keep artifacts, there or to be made, from being swept while the block runs.

    prefixes: kind/name/digest; `what` is for people. Raises StoreError if one of the artifacts
    is being swept and that does not end soon.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    lease = {"needs": list(prefixes), "what": what, "began": began}
    path = f"running/{uuid.uuid4().hex}.json"
    with renewed(store, path, json.dumps(lease).encode("ascii") + b"\n"):
        for prefix in prefixes:
            _wait_for_sweep(store, prefix)
        yield


@contextlib.contextmanager
def sweeping(store: Objects, prefix: str) -> Iterator[None]:
    """Announce that an artifact is going to be swept; look for leases inside of the block."""
    with renewed(store, _sweeping_path(prefix), b"{}\n"):
        yield


def leased(store: Objects, now: datetime) -> Iterator[str]:
    """Yield the artifacts, as kind/name/digest, that running work needs or makes."""
    for item in store.objects("running"):
        if now - item.modified < LEASE_TTL:
            with contextlib.suppress(FileNotFoundError):  # the work has ended since
                yield from _needs(item.path, store.get(item.path))


@contextlib.contextmanager
def renewed(
    store: Objects, path: str, content: bytes, *, every_sec: float | None = None
) -> Iterator[None]:
    """Keep a small object in the store, written anew now and then, while the block runs."""
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
        # A renewal under way must not bring the object back, nor a store that hangs keep us.
        thread.join(timeout=_JOIN_SEC)
        store.delete(path)


def _needs(path: str, content: bytes) -> list[str]:
    try:
        return json.loads(content)["needs"]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"lease {path} is damaged, delete it if no work runs: {error}") from error


def _put(store: Objects, path: str, content: bytes) -> None:
    store.put(path, content)
    store.sync([path])


def _wait_for_sweep(store: Objects, prefix: str) -> None:
    deadline = time.monotonic() + _WAIT_SEC
    while _is_swept(store, prefix):
        if time.monotonic() > deadline:
            raise BusyError(f"{prefix} is being swept by a garbage collection: run it again")
        time.sleep(0.2)


def _is_swept(store: Objects, prefix: str) -> bool:
    path = _sweeping_path(prefix)
    if store.size(path) is None:
        return False
    now = datetime.now(UTC)
    found = (item for item in store.objects(path.rpartition("/")[0]) if item.path == path)
    return any(now - item.modified < SWEEP_TTL for item in found)


def _sweeping_path(prefix: str) -> str:
    return f"sweeping/{prefix}.json"
