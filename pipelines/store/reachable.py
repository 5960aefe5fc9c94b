"""Reachable artifacts: leased, pinned, among the last refs of a name, and inputs of those.

pins/<kind>/<name>/<digest>.json    kept until unpinned
"""

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import cast

from pipelines.store.artifacts import Store, made_of
from pipelines.store.leases import leased
from pipelines.store.manifest import KINDS, Kind, Manifest, artifact_prefix

_log = logging.getLogger(__name__)

Address = tuple[str, str]  # kind and digest: names are for people


class Reachability:
    """Computes the reachable artifacts; refs and lineage are immutable and are read once."""

    def __init__(self, store: Store, keep_refs: int) -> None:
        """Start with an empty cache; `keep_refs` is the number of refs of a name that count."""
        self._store = store
        self._keep_refs = keep_refs
        self._inputs: dict[Address, list[str]] = {}
        self._referred: dict[str, str] = {}

    def learn(self, manifest: Manifest) -> None:
        """Record the inputs of an artifact."""
        self._inputs[manifest.kind, manifest.digest] = made_of(manifest)

    def learn_unreadable(self, prefix: str) -> None:
        """Record no inputs for an artifact; the caller must not sweep its possible inputs."""
        kind, _, digest = _parts(prefix)
        self._inputs[kind, digest] = []

    def now(self, now: datetime) -> set[Address]:
        """Return the artifacts that are reachable from the roots at this moment."""
        # Leases, then pins, then refs: the order that pipelines.store.leases requires.
        found = [path for path in leased(self._store, now) if path.split("/")[0] in KINDS]
        return self.lineage([*found, *self._pinned(), *self._last_refs()])

    def lineage(self, prefixes: Iterable[str]) -> set[Address]:
        """Return these artifacts and all their inputs, transitively."""
        waiting = list(prefixes)
        needed: set[Address] = set()
        while waiting:
            kind, name, digest = _parts(waiting.pop())
            if (kind, digest) in needed:
                continue
            needed.add((kind, digest))
            if (kind, digest) not in self._inputs:  # published since, or gone
                if (manifest := self._store.find(kind, name, digest)) is None:
                    continue
                self.learn(manifest)
            waiting += self._inputs[kind, digest]
        return needed

    def _last_refs(self) -> Iterator[str]:
        for kind in KINDS:
            for name in self._store.list_dirs(f"refs/{kind}"):
                last: dict[str, None] = {}
                for path in reversed(self._store.ref_entries(kind, name)):
                    if len(last) < self._keep_refs and (digest := self._digest(path)):
                        last[digest] = None
                yield from (f"{kind}/{name}/{digest}" for digest in last)

    def _pinned(self) -> Iterator[str]:
        for item in self._store.objects("pins"):
            prefix = item.path.removeprefix("pins/").removesuffix(".json")
            try:
                _parts(prefix)
            except ValueError:
                _log.warning("%s is not the pin of an artifact: delete it", item.path)
            else:
                yield prefix

    def _digest(self, path: str) -> str | None:
        if path not in self._referred and (digest := self._store.ref_digest(path)):
            self._referred[path] = digest
        return self._referred.get(path)


def _parts(prefix: str) -> tuple[Kind, str, str]:
    kind, name, digest = prefix.split("/")
    artifact_prefix(kind, name, digest)
    return cast(Kind, kind), name, digest
