"""A store that leases every artifact that it returns, until the command ends.

The leases cover artifacts that were resolved by name, reused or published.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.store.artifacts import Store, existing_store, open_store
from pipelines.store.collect import needing
from pipelines.store.errors import FullError, ReadOnlyError
from pipelines.store.manifest import Kind, Manifest
from pipelines.store.objects import Content

_log = logging.getLogger(__name__)
_told: set[str] = set()


class HeldStore(Store):
    """A store that protects the artifacts it returns from garbage collection while it is open.

    Its methods raise BusyError if an artifact is deleted concurrently. If the store is read-only,
    `publish_files` writes to the store beside it, if there is one, and the artifact is found
    there.
    """

    def __init__(self, store: Store, what: str, beside: Path | None = None) -> None:
        """Wrap a store; `what` describes the work, `beside` is the folder of the second store."""
        super().__init__(store.backend, store.url)
        self.leases = contextlib.ExitStack()
        self._what = what
        self._kept: set[str] = set()
        self._beside_path = beside
        self._beside: Store | None = None

    def find(self, kind: Kind, name: str, digest: str) -> Manifest | None:
        """Return what Store.find does."""
        found = super().find(kind, name, digest)
        if found is None and self._beside is not None:
            return self._beside.find(kind, name, digest)
        return found

    def resolve(self, kind: Kind, ref: str) -> Manifest:
        """Return what Store.resolve does."""
        return self._keep(super().resolve(kind, ref))

    def reuse(self, kind: Kind, name: str, digest: str) -> Manifest | None:
        """Return what Store.reuse does."""
        try:
            found = super().reuse(kind, name, digest)
        except ReadOnlyError:
            found = self.find(kind, name, digest)
        return found and self._keep(found)

    def publish(self, manifest: Manifest) -> Manifest:
        """Do what Store.publish does."""
        return self._keep(super().publish(manifest))

    def publish_files(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Do what Store.publish_files does."""
        try:
            return self._keep(super().publish_files(manifest, files))
        except ReadOnlyError:
            if self._beside is None:
                raise
            return self._beside.publish_files(manifest, files)

    def checked(self, path: str, size: int, sha256: str) -> Content:
        """Return what Store.checked does."""
        if self._beside is not None and self._beside.size(path) is not None:
            return self._beside.checked(path, size, sha256)
        return super().checked(path, size, sha256)

    def home(self, manifest: Manifest) -> Store:
        """Return the store that has an artifact: this one or the one beside it."""
        return self if self._beside is None or super().find(*_address(manifest)) else self._beside

    def _keep(self, manifest: Manifest) -> Manifest:
        if manifest.prefix not in self._kept:
            is_leased = self.leases.enter_context(reading(self, [manifest], self._what))
            if not is_leased and self._beside_path and self._beside is None:
                self._beside = open_store(str(self._beside_path))
            self._kept.add(manifest.prefix)
        return manifest


def _address(manifest: Manifest) -> tuple[Kind, str, str]:
    return manifest.kind, manifest.name, manifest.digest


@contextlib.contextmanager
def held_store(url: str, what: str, beside: Path | None = None) -> Iterator[HeldStore]:
    """Open an existing store; artifacts resolved with it stay until the block ends."""
    store = HeldStore(existing_store(url), what, beside)
    with store.leases:
        yield store


def check_held(
    manifest: Manifest, store: Store, check: Callable[[Manifest], list[str]]
) -> list[str]:
    """Return the damage that `check` finds in an artifact, which is leased meanwhile.

    Raises BusyError if it is deleted, which is not damage.
    """
    with reading(store, [manifest], "verify"):
        if problems := check(manifest):
            store.check_there(manifest)
        return problems


@contextlib.contextmanager
def reading(store: Store, manifests: Sequence[Manifest], what: str) -> Iterator[bool]:
    """Lease as `needing` does; if no lease can be written, warn once and yield False."""
    with contextlib.ExitStack() as leases:
        is_leased = True
        try:
            leases.enter_context(needing(store, manifests, what))
        except (FullError, ReadOnlyError) as error:
            if store.url not in _told:
                _told.add(store.url)
                _log.warning(
                    "%s %s: a garbage collection may delete artifacts while they are read",
                    store.url,
                    "is full" if isinstance(error, FullError) else "may only be read",
                )
            is_leased = False
        yield is_leased
