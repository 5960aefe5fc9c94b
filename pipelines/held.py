"""What a command reads stays until the command has ended: one place takes the leases for it."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence

from obstore.exceptions import PermissionDeniedError

from pipelines.retention import needing
from pipelines.schema import Kind, Manifest
from pipelines.store import Store, existing_store

_log = logging.getLogger(__name__)
# Not permitted, permission denied, read-only: as obstore words what a local store answers.
_REFUSED = re.compile(r"\(os error (1|13|30)\)")
_told: set[str] = set()


class HeldStore(Store):
    """A store that keeps what its `resolve` returns from being swept while it is open."""

    def __init__(self, store: Store, what: str) -> None:
        """Wrap a store; `what` tells people of the work."""
        super().__init__(store.backend, store.url)
        self.leases = contextlib.ExitStack()
        self._what = what
        self._kept: set[str] = set()

    def resolve(self, kind: Kind, ref: str) -> Manifest:
        """Do what Store.resolve does, and keep the artifact; BusyError if it is just deleted."""
        manifest = super().resolve(kind, ref)
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
