"""What a store keeps and what it may lose: pins, needs of running work, garbage collection.

    pins/<kind>/<name>/<digest>.json        kept until unpinned
    running/<id>.json                       inputs of work in progress, removed at its end
    condemned/<kind>/<name>/<digest>.json   when an artifact was first seen to be unneeded

Needed are the last refs of every name, all pins, what running work declares, and whatever those
were made of. The rest is condemned, and swept once it has stayed condemned for the grace period,
so work that uses an old artifact again has that long to say so. Scratch, unfinished artifacts and
files that no manifest names are swept by their age. A lease outlives its process when that is
killed; it ends with the grace period, which must therefore exceed the longest run.
"""

import contextlib
import json
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from pipelines.objects import ObjectInfo, check_path
from pipelines.schema import KINDS, MANIFEST_NAME, Kind, Manifest, artifact_prefix
from pipelines.store import Store, StoreError

GRACE = timedelta(days=14)
KEEP_REFS = 3

_log = logging.getLogger(__name__)
_PARTIAL = re.compile(r".+#[0-9]+")

Address = tuple[str, str]  # kind and digest: names are for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What a collection would do or has done.

    kept        artifacts that something needs, as kind/name/digest
    condemned   unneeded, but not for long enough
    artifacts   to be swept, with the refs that lead to them
    objects     to be swept besides: scratch, unfinished artifacts, files without a manifest
    bytes       that sweeping frees
    """

    kept: tuple[str, ...]
    condemned: tuple[str, ...]
    artifacts: tuple[str, ...]
    objects: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Collector:
    """Finds and sweeps garbage; `now` is an argument so that tests own the clock."""

    store: Store
    grace: timedelta = GRACE
    keep_refs: int = KEEP_REFS

    def plan(self, now: datetime | None = None) -> Garbage:
        """Return what `collect` would sweep; changes nothing."""
        now = now or datetime.now(UTC)
        artifacts = {m.prefix: m for kind in KINDS for m in self.store.manifests(kind)}
        needed = self._needed(artifacts.values(), now)
        kept = [p for p, m in artifacts.items() if (m.kind, m.digest) in needed]
        unneeded = [prefix for prefix in artifacts if prefix not in set(kept)]
        due = [prefix for prefix in unneeded if self._condemned_for(prefix, now) >= self.grace]
        loose = list(self._loose_objects(artifacts, now))
        swept = sum(item.bytes for prefix in due for item in self.store.objects(prefix))
        return Garbage(
            kept=tuple(kept),
            condemned=tuple(prefix for prefix in unneeded if prefix not in due),
            artifacts=tuple(due),
            objects=tuple(item.path for item in loose),
            bytes=swept + sum(item.bytes for item in loose),
        )

    def collect(self, now: datetime | None = None) -> Garbage:
        """Sweep what is due, condemn what is not yet, and return both.

        A crash at any point leaves nothing that a ref leads to in part: refs go first, then
        the manifest, then the files.
        """
        now = now or datetime.now(UTC)
        garbage = self.plan(now)
        for prefix in garbage.kept:
            self.store.delete(_condemned_path(prefix))
        for prefix in garbage.condemned:
            self.store.create(_condemned_path(prefix), b"{}\n")
        for prefix in garbage.artifacts:
            self._sweep(prefix, now)
        for path in garbage.objects:
            self.store.delete(path)
        self._sweep_partial_files(now)
        return garbage

    def _needed(self, artifacts: Iterable[Manifest], now: datetime) -> set[Address]:
        """Return what roots lead to, by kind and digest."""
        inputs: dict[Address, list[Address]] = {
            (m.kind, m.digest): [(ref.kind, ref.digest) for ref in m.inputs] for m in artifacts
        }
        waiting = [*self._referred(), *self._pinned(), *self._used(now)]
        needed: set[Address] = set()
        while waiting:
            address = waiting.pop()
            if address not in needed:
                needed.add(address)
                waiting += inputs.get(address, [])
        return needed

    def _referred(self) -> Iterator[Address]:
        for kind in KINDS:
            for name in self.store.list_dirs(f"refs/{kind}"):
                latest = dict.fromkeys(reversed(self.store.refs(kind, name)))
                yield from ((kind, digest) for digest in list(latest)[: self.keep_refs])

    def _pinned(self) -> Iterator[Address]:
        return (_address(prefix) for prefix in pins(self.store))

    def _used(self, now: datetime) -> Iterator[Address]:
        for item in self.store.objects("running"):
            if now - item.modified < self.grace:
                with contextlib.suppress(FileNotFoundError):  # the work has ended since
                    yield from map(_address, json.loads(self.store.get(item.path))["needs"])

    def _condemned_for(self, prefix: str, now: datetime) -> timedelta:
        for item in self.store.objects(_condemned_path(prefix).rpartition("/")[0]):
            if item.path == _condemned_path(prefix):
                return now - item.modified
        return timedelta(0)

    def _loose_objects(self, artifacts: dict[str, Manifest], now: datetime) -> Iterator[ObjectInfo]:
        for root in ("attempts", "running"):
            yield from self._old_groups(root, now)
        for kind in KINDS:
            yield from self._unnamed(kind, artifacts, now)

    def _old_groups(self, root: str, now: datetime) -> Iterator[ObjectInfo]:
        """Yield the objects of every job's scratch whose newest object is old."""
        groups: dict[str, list[ObjectInfo]] = {}
        for item in self.store.objects(root):
            groups.setdefault("/".join(item.path.split("/")[:3]), []).append(item)
        for items in groups.values():
            if now - max(item.modified for item in items) >= self.grace:
                yield from (item for item in items if _is_ours(item.path))

    def _unnamed(
        self, kind: Kind, artifacts: dict[str, Manifest], now: datetime
    ) -> Iterator[ObjectInfo]:
        """Yield old files that no manifest names, unfinished artifacts among them."""
        named = {
            f"{prefix}/{path}"
            for prefix, manifest in artifacts.items()
            if manifest.kind == kind
            for path in (MANIFEST_NAME, *(entry.path for entry in manifest.files))
        }
        for item in self.store.objects(kind):
            if item.path not in named and now - item.modified >= self.grace and _is_ours(item.path):
                yield item

    def _sweep(self, prefix: str, now: datetime) -> None:
        """Delete an artifact unless something has begun to need it since the plan."""
        kind, name, digest = cast(tuple[Kind, str, str], tuple(prefix.split("/")))
        manifests = (m for each in KINDS for m in self.store.manifests(each))
        if (kind, digest) in self._needed(manifests, now):
            _log.info("%s is needed again: kept", prefix)
            return
        for path in self.store.ref_entries(kind, name):
            if json.loads(self.store.get(path))["digest"] == digest:
                self.store.delete(path)
        self.store.delete(f"{prefix}/{MANIFEST_NAME}")
        for item in list(self.store.objects(prefix)):
            self.store.delete(item.path)
        self.store.delete(_condemned_path(prefix))

    def _sweep_partial_files(self, now: datetime) -> None:
        """Delete what killed writers left in a local store; obstore hides it from listings."""
        if (root := self.store.local_path()) is None:
            return
        for file in root.rglob("*#*"):
            if _PARTIAL.fullmatch(file.name) and file.is_file():
                age = now - datetime.fromtimestamp(file.lstat().st_mtime, UTC)
                if age >= self.grace:
                    file.unlink(missing_ok=True)


def pin(store: Store, manifest: Manifest, reason: str) -> None:
    """Keep an artifact and what it was made of, whatever refs say."""
    content = json.dumps({"reason": reason}).encode("ascii")
    store.put(f"pins/{manifest.prefix}.json", content + b"\n")


def unpin(store: Store, manifest: Manifest) -> None:
    """Leave an artifact to its refs again."""
    store.delete(f"pins/{manifest.prefix}.json")


def pins(store: Store) -> dict[str, str]:
    """Return the reasons by pinned artifact, as kind/name/digest."""
    listed = [item.path for item in store.objects("pins")]
    return {
        path.removeprefix("pins/").removesuffix(".json"): json.loads(store.get(path))["reason"]
        for path in listed
    }


@contextlib.contextmanager
def needing(store: Store, manifests: Sequence[Manifest], what: str) -> Iterator[None]:
    """Keep these artifacts from being swept while the block runs; `what` is for people."""
    path = f"running/{uuid.uuid4().hex}.json"
    lease = {"needs": [manifest.prefix for manifest in manifests], "what": what}
    store.put(path, json.dumps(lease).encode("ascii") + b"\n")
    try:
        yield
    finally:
        store.delete(path)


def _address(prefix: str) -> Address:
    kind, name, digest = prefix.split("/")
    artifact_prefix(kind, name, digest)
    return kind, digest


def _condemned_path(prefix: str) -> str:
    return f"condemned/{prefix}.json"


def _is_ours(path: str) -> bool:
    """Return whether the store would write such a path; what others put there stays."""
    try:
        check_path(path)
    except StoreError:
        _log.warning("%s is not a name of this store: left alone", path)
        return False
    return True
