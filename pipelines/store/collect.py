"""Garbage collection of unreferenced artifacts, and pins that exempt artifacts from it.

    condemned/<kind>/<name>/<digest>.json   when an artifact was first seen to be unreferenced

An unreferenced artifact (pipelines.store.reachable) is condemned, and swept after it has stayed
condemned for the grace period. Scratch, unfinished artifacts and files that no manifest names are
swept by age. Every object is checked again after its sweep was announced, right before deletion,
in the order that pipelines.store.leases defines, so that work that starts meanwhile is safe.
Paths under a valid lease are never touched, regardless of the grace period. While the manifest of
a referenced artifact cannot be read, no artifact is swept: each may be one of its inputs.
"""

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, StoreError, Unreadable
from pipelines.store.leases import LEASE_TTL, holding, is_within, leased, sweeping
from pipelines.store.manifest import KINDS, MANIFEST_NAME, Kind, Manifest, artifact_prefix
from pipelines.store.objects import ObjectInfo, check_path
from pipelines.store.reachable import Reachability

GRACE = timedelta(days=14)
KEEP_REFS = 3

_log = logging.getLogger(__name__)
_PARTIAL = re.compile(r".+#[0-9]+")
# Beside a manifest: the config that repeats the command.
_CONFIG = re.compile(r"/[a-z]+\.toml")
# Leases and announced sweeps: single objects that expire by age.
_FLAGS = ("running", "sweeping")
_STAGING = "attempts/publish/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """The plan or the result of a collection.

    kept        referenced artifacts, as kind/name/digest
    condemned   unreferenced, but within the grace period
    artifacts   to be swept, with the refs that name them
    objects     also to be swept: scratch, unfinished artifacts, files without a manifest
    bytes       that sweeping frees
    unreadable  damaged manifests, which are kept
    is_blocked  whether one of them is referenced: then all artifacts are kept
    """

    kept: tuple[str, ...]
    condemned: tuple[str, ...]
    artifacts: tuple[str, ...]
    objects: tuple[str, ...]
    bytes: int
    unreadable: tuple[str, ...] = ()
    is_blocked: bool = False


class Collector:
    """Finds and sweeps garbage; `now` is an argument so that tests control the clock."""

    def __init__(
        self, store: Store, *, grace: timedelta = GRACE, keep_refs: int = KEEP_REFS
    ) -> None:
        """Prepare a collection; see `Garbage` for the effect of the grace period and refs."""
        self.store = store
        self.grace = grace
        self._reachability = Reachability(store, keep_refs)

    @doing("gc", "finding what nothing needs")
    def plan(self, now: datetime | None = None) -> Garbage:
        """Return what `collect` would sweep, without changing the store."""
        now = now or datetime.now(UTC)
        found = [each for kind in KINDS for each in self.store.survey(kind)]
        unreadable = [each for each in found if isinstance(each, Unreadable)]
        artifacts = {each.prefix: each for each in found if isinstance(each, Manifest)}
        for manifest in artifacts.values():
            self._reachability.learn(manifest)
        damaged = [each.path.rpartition("/")[0] for each in unreadable]
        for prefix in damaged:
            self._reachability.learn_unreadable(prefix)
        needed = self._reachability.now(now)
        is_blocked = any((p.split("/")[0], p.rpartition("/")[2]) in needed for p in damaged)
        kept = {p for p, m in artifacts.items() if is_blocked or (m.kind, m.digest) in needed}
        since = {item.path: item.modified for item in self.store.objects("condemned")}
        unneeded = [prefix for prefix in artifacts if prefix not in kept]
        young = [p for p in unneeded if now - since.get(_mark(p), now) < self.grace]
        staying = self._reachability.lineage(young)  # which may be needed again
        due = [p for p in unneeded if (artifacts[p].kind, artifacts[p].digest) not in staying]
        loose = list(self._loose_objects(artifacts, unreadable, now))
        swept = sum(item.bytes for prefix in due for item in self.store.objects(prefix))
        return Garbage(
            kept=tuple(prefix for prefix in artifacts if prefix in kept),
            condemned=tuple(prefix for prefix in unneeded if prefix not in set(due)),
            artifacts=tuple(due),
            objects=tuple(item.path for item in loose),
            bytes=swept + sum(item.bytes for item in loose),
            unreadable=tuple(each.path for each in unreadable),
            is_blocked=is_blocked,
        )

    @doing("gc", "deleting what nothing needs")
    def collect(self, now: datetime | None = None) -> Garbage:
        """Sweep what is due, condemn what is newly unreferenced, and return both.

        A crash at any point leaves no ref to a partial artifact: refs are deleted first, then the
        manifest, then the files. Writes come last, since the disk may be full.
        """
        now = now or datetime.now(UTC)
        garbage = self.plan(now)
        if not garbage.is_blocked:
            marked = {item.path for item in self.store.objects("condemned")}
            for prefix in garbage.kept:
                if _mark(prefix) in marked:
                    self.store.delete(_mark(prefix))
        self._sweep_partial_files(now)
        self._sweep(garbage.artifacts, now)
        self._sweep_loose(_by_folder(garbage.objects), now)
        if not garbage.is_blocked:
            for prefix in garbage.condemned:
                self.store.create(_mark(prefix), b"{}\n")
        return garbage

    def _sweep(self, prefixes: Sequence[str], now: datetime) -> None:
        """Delete artifacts that are still unreferenced."""
        if not prefixes:
            return
        with sweeping(self.store, prefixes):
            needed = self._reachability.now(now)
            for prefix in reversed(prefixes):  # most of them before what they were made of
                kind, name, digest = cast(tuple[Kind, str, str], tuple(prefix.split("/")))
                if (kind, digest) in needed:
                    _log.info("%s is needed again: kept", prefix)
                else:
                    self._delete(kind, name, digest)

    def _delete(self, kind: Kind, name: str, digest: str) -> None:
        prefix = artifact_prefix(kind, name, digest)
        for path in self.store.ref_entries(kind, name):
            if self.store.ref_digest(path) == digest:
                self.store.delete(path)
        self.store.delete(f"{prefix}/{MANIFEST_NAME}")
        for item in list(self.store.objects(prefix)):
            self.store.delete(item.path)
        self.store.delete(_mark(prefix))

    def _sweep_loose(self, folders: Mapping[str, Sequence[str]], now: datetime) -> None:
        """Delete planned objects by folder, unless one was written since the plan."""
        if not folders:
            return
        with sweeping(self.store, map(_owner, folders)):
            in_use = set(leased(self.store, now))
            for folder, paths in folders.items():
                if not _is_in_use(folder, in_use):
                    self._delete_old(folder, paths, now)

    def _delete_old(self, folder: str, paths: Sequence[str], now: datetime) -> None:
        """Delete these objects if the folder's are still as old, and none has got a manifest."""
        manifest = None
        if folder.split("/")[0] in KINDS:
            kind, name, digest = folder.split("/")
            manifest = self.store.find(cast(Kind, kind), name, digest)
        found = list(self.store.objects(folder))
        before = self._before(folder.split("/")[0], now)
        old = {item.path for item in _loose_in(folder, found, manifest, before)}
        for path in paths:
            if path in old:
                self.store.delete(path)

    def _loose_objects(
        self, artifacts: dict[str, Manifest], unreadable: Iterable[Unreadable], now: datetime
    ) -> Iterator[ObjectInfo]:
        closed = {each.path.rpartition("/")[0] for each in unreadable}
        in_use = set(leased(self.store, now))
        for root in (*_FLAGS, "attempts", *KINDS):
            before = self._before(root, now)
            found = {item.path: item for item in self.store.objects(root)}
            for folder, paths in _by_folder(found).items():
                if folder not in closed and not _is_in_use(folder, in_use):
                    items = [found[path] for path in paths]
                    yield from _loose_in(folder, items, artifacts.get(folder), before)

    def _before(self, root: str, now: datetime) -> datetime:
        """Return when garbage was last written; while work runs that may use it, long ago."""
        if root in _FLAGS:
            return now - LEASE_TTL
        is_busy = any(True for _ in leased(self.store, now))
        return now - max(self.grace, GRACE if is_busy else LEASE_TTL)

    def _sweep_partial_files(self, now: datetime) -> None:
        """Delete partial files of killed writers in a local store; obstore does not list them."""
        if (root := self.store.local_path()) is None:
            return
        # Only in the store's folders: its root may hold other files.
        folders = (*KINDS, *_FLAGS, "attempts", "condemned", "pins", "refs")
        for file in (file for folder in folders for file in (root / folder).rglob("*#*")):
            if _PARTIAL.fullmatch(file.name) and file.is_file():
                with contextlib.suppress(FileNotFoundError):  # its writer was alive after all
                    age = now - datetime.fromtimestamp(file.lstat().st_mtime, UTC)
                    if age >= max(self.grace, LEASE_TTL):
                        file.unlink()


def pin(store: Store, manifest: Manifest, reason: str) -> None:
    """Exempt an artifact and its inputs from garbage collection, regardless of refs.

    Raises BusyError if it is deleted at the same time.
    """
    path = f"pins/{manifest.prefix}.json"
    with needing(store, [manifest], "pin"):
        store.put(path, json.dumps({"reason": reason}).encode("ascii") + b"\n")
        store.sync([path])


def unpin(store: Store, manifest: Manifest) -> None:
    """Remove the pin of an artifact."""
    store.delete(f"pins/{manifest.prefix}.json")


@contextlib.contextmanager
def needing(store: Store, manifests: Sequence[Manifest], what: str) -> Iterator[None]:
    """Protect these artifacts from sweeps while the block runs; `what` describes the work.

    Raises BusyError if one of them is already deleted.
    """
    with holding(store, [manifest.prefix for manifest in manifests], what):
        for manifest in manifests:
            store.check_there(manifest)
        yield


def _mark(prefix: str) -> str:
    return f"condemned/{prefix}.json"


def _owner(folder: str) -> str:
    """Return the path whose lease protects a folder: itself, or the artifact staged in it."""
    staged = folder.removeprefix(_STAGING)
    return folder if staged == folder else staged.replace(".", "/")


def _is_in_use(folder: str, leases: set[str]) -> bool:
    return any(is_within(_owner(folder), path) for path in leases)


def _by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    """Group paths into units that are deleted together: an artifact, a job's scratch."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault("/".join(path.split("/")[:-1][:3]), []).append(path)
    return {folder: found for folder, found in folders.items() if _is_known(folder)}


def _is_known(folder: str) -> bool:
    """Return whether we make such folders; among the artifacts only those with an address."""
    kind, _, rest = folder.partition("/")
    if kind not in KINDS:
        return True
    name, _, digest = rest.partition("/")
    try:
        artifact_prefix(kind, name, digest)
    except ValueError:
        return False
    return True


def _loose_in(
    folder: str, items: Sequence[ObjectInfo], manifest: Manifest | None, before: datetime
) -> Iterator[ObjectInfo]:
    """Yield what is garbage in one folder: what was last written no later than `before`.

    Of an artifact, files that its manifest does not name, but for the configs beside it; of other
    folders everything, once the newest object is old: what is being written to is alive as a
    whole. Leases end each by itself.
    """
    named: set[str] = set()
    if manifest is not None:
        named = {f"{folder}/{path}" for path in (MANIFEST_NAME, *_paths(manifest))}
        named |= {item.path for item in items if _CONFIG.fullmatch(item.path, len(folder))}
    elif folder.split("/")[0] not in _FLAGS and any(item.modified > before for item in items):
        return
    for item in items:
        if item.path not in named and item.modified <= before and _is_ours(item.path):
            yield item


def _paths(manifest: Manifest) -> Iterator[str]:
    return (entry.path for entry in manifest.files)


def _is_ours(path: str) -> bool:
    """Return whether the store would write such a path; all other files stay."""
    try:
        check_path(path)
    except StoreError:
        _log.warning("%s is not a name of this store: left alone", path)
        return False
    return True
