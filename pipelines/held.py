"""What a command reads stays until the command has ended: one place takes the leases for it.

Whatever comes out of a `HeldStore` is leased: what was named, what was found done, what was made.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from obstore.exceptions import PermissionDeniedError

from pipelines.retention import needing
from pipelines.schema import Kind, Manifest
from pipelines.store import Store, existing_store

_log = logging.getLogger(__name__)
# Not permitted, permission denied, read-only: as obstore words what a local store answers.
_REFUSED = re.compile(r"\(os error (1|13|30)\)")
_told: set[str] = set()


class HeldStore(Store):
    """A store that keeps what it returns from being swept while it is open.

    Its methods raise BusyError if that is deleted at the same time.
    """

    def __init__(self, store: Store, what: str) -> None:
        """Wrap a store; `what` tells people of the work."""
        super().__init__(store.backend, store.url)
        self.leases = contextlib.ExitStack()
        self._what = what
        self._kept: set[str] = set()

    def resolve(self, kind: Kind, ref: str) -> Manifest:
        """Return what Store.resolve does."""
        return self._keep(super().resolve(kind, ref))

    def reuse(self, kind: Kind, name: str, digest: str) -> Manifest | None:
        """Return what Store.reuse does."""
        found = super().reuse(kind, name, digest)
        return found and self._keep(found)

    def publish(self, manifest: Manifest) -> Manifest:
        """Do what Store.publish does."""
        return self._keep(super().publish(manifest))

    def publish_files(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Do what Store.publish_files does."""
        return self._keep(super().publish_files(manifest, files))

    def _keep(self, manifest: Manifest) -> Manifest:
        if manifest.prefix not in self._kept:
            self.leases.enter_context(reading(self, [manifest], self._what))
            self._kept.add(manifest.prefix)
        return manifest


@contextlib.contextmanager
def held_store(url: str, what: str) -> Iterator[HeldStore]:
    """Open a store that is there; whatever is resolved with it stays until the block ends."""
    store = HeldStore(existing_store(url), what)
    with store.leases:
        yield store


def check_held(
    manifest: Manifest, store: Store, check: Callable[[Manifest], list[str]]
) -> list[str]:
    """Return what `check` finds wrong with an artifact, which stays meanwhile.

    Raises BusyError if it is deleted: then nothing is wrong with it.
    """
    with reading(store, [manifest], "verify"):
        if problems := check(manifest):
            store.check_there(manifest)
        return problems


@contextlib.contextmanager
def reading(store: Store, manifests: Sequence[Manifest], what: str) -> Iterator[None]:
    """Do what `needing` does; in a store that may only be read, say once that it cannot be done."""
    with contextlib.ExitStack() as leases:
        try:
            leases.enter_context(needing(store, manifests, what))
        except Exception as error:
            if not isinstance(error, PermissionDeniedError) and not _REFUSED.search(str(error)):
                raise
            if store.url not in _told:
                _told.add(store.url)
                _log.warning(
                    "%s may only be read: nothing keeps what is read from a garbage collection",
                    store.url,
                )
        yield
