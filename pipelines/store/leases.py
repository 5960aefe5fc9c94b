"""Leases: what running work reads or writes, which garbage collection must not delete.

    running/<id>.json     what one piece of work needs, renewed while it runs
    sweeping/<id>.json    what one collection is about to delete, renewed likewise

Both name artifacts, there or to be made, and folders of scratch. A lease counts for LEASE_TTL after
it was last written, a sweep for SWEEP_TTL, so those of killed processes end soon.

Something is needed if a lease, a pin or one of the last refs of its name names it, or what was made
of it. Who works with something, or makes it needed:

    1. writes a lease that names it
    2. waits until no sweep that is announced names it
    3. looks whether it is there: only what is found now is sure to stay
    4. works, and writes manifests, refs and pins
    5. deletes the lease

A collection (pipelines.store.collect), of what it found to be unneeded:

    1. announces the sweep of all that
    2. reads the leases, then the pins, then the refs
    3. deletes what none of them needs: the refs to it, its manifest, its files
    4. takes the announcement back

On a full disk there is no room for what is announced. Then an empty object stands in for it, which
takes no room and means everything; the folder `sweeping` is made with the first lease, for the
same reason.

A lease that is written before the collection reads leases is seen there. One that is written later
was written after the announcement, so its writer sees that, waits for the end, and looks. One that
was deleted before has left what it was for in pins and refs, which are read later. So whatever is
reported as made, kept or pinned stays, without a lock: all it needs of a store is that who reads
sees what was written before. Each object has one writer, so collections at once do not end each
other's sweeps. Nobody waits for a lease, and readers need none to see what is there.
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
# Many renewals may fail before either ends.
RENEW_SEC = 60.0
# Timeout for a concurrent sweep, which takes seconds.
_WAIT_SEC = 60.0
_JOIN_SEC = 10.0

# What an empty announcement names.
_EVERYTHING = "everything"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def holding(store: Objects, paths: Iterable[str], what: str) -> Iterator[None]:
    """Keep things from being swept while the block runs, whether they are there or to be made.

    paths: artifacts as kind/name/digest, folders of scratch; `what` is for people. Raises BusyError
    if one of them is being swept and that does not end soon. Look for them inside of the block.
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
    """Raise ReadOnlyError or FullError where nothing can be written, before work that must."""
    with holding(store, (), "check"):
        pass


@contextlib.contextmanager
def sweeping(store: Objects, paths: Iterable[str]) -> Iterator[None]:
    """Announce that these are going to be swept; look for leases inside of the block."""
    announced = _new_path("sweeping")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(renewed(store, announced, _to_bytes({"sweeps": list(paths)})))
        except FullError:
            stack.enter_context(renewed(store, announced, b""))
        yield


def leased(store: Objects, now: datetime) -> Iterator[str]:
    """Yield what running work needs or makes: artifacts as kind/name/digest, folders of scratch."""
    yield from _named(store, "running", "needs", now - LEASE_TTL)


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


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is this folder or in it."""
    return path == folder or path.startswith(f"{folder}/")


def _named(store: Objects, folder: str, key: str, since: datetime) -> Iterator[str]:
    """Yield what the objects of a folder name that were written since then."""
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
    """Return what collections are about to delete of these."""
    sweeps = set(_named(store, "sweeping", "sweeps", datetime.now(UTC) - SWEEP_TTL))
    return [
        path
        for path in sweeps
        if path == _EVERYTHING or any(is_within(path, each) for each in paths)
    ]
