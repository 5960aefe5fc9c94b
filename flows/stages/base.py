"""What stages have in common: parameters in, manifest out; no Prefect here.

A stage resolves its parameters to a spec and asks the library, which answers at once if the store
has the result. While it works, what it resolves is leased (pipelines.store.held), as is what it
makes. Heavy libraries are imported in the stage that needs them.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.store.artifacts import Store, StoreError
from pipelines.store.errors import AbsentError, FullError
from pipelines.store.held import HeldStore, held_store
from pipelines.store.local_files import NO_ROOM, check_room
from pipelines.store.manifest import Kind, Manifest, digest_of


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as everything that starts it knows it: the chain, child processes, deployed flows.

    name    of the command, the deployment, the child process and the place where it runs
    title   what it does, in a line
    params  its parameters: options of the command, fields of Prefect's form, JSON of the child
    work    makes the artifact, or finds it in the store
    """

    name: str
    title: str
    params: type
    work: Callable[[Any], Manifest]


# Less than any source needs of it: what has not even this is full.
MIN_CACHE_BYTES = 1 << 16


def cache_folder() -> Path:
    """Return the folder of downloads and made doodles: $SKETCHMILL_CACHE or the user's cache."""
    own = os.environ.get("SKETCHMILL_CACHE")
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "sketchmill")
    return Path(os.path.expanduser(own or users))  # noqa: PTH111  Path's raises without a home


def writable_cache() -> Path:
    """Return that folder, made if it is not there.

    Raises ValueError if nothing can be written there, FullError if it is full.
    """
    folder = cache_folder()
    with naming_cache():
        check_room(folder, MIN_CACHE_BYTES)
        return folder


@contextlib.contextmanager
def naming_cache() -> Iterator[None]:
    """Raise an error that says how to move the cache in place of an OSError in it.

    FullError if it is full, else ValueError.
    """
    folder = cache_folder()
    try:
        yield
    except OSError as error:
        # What a full disk answers to a write names no file; errors of the store are another kind.
        is_full = error.errno in NO_ROOM
        failed = folder if is_full and error.filename is None else Path(str(error.filename))
        if not (failed.is_relative_to(folder) or folder.is_relative_to(failed)):
            raise
        kind = FullError if is_full else ValueError
        raise kind(
            f"the cache {folder} cannot be written ({error.strerror}): let the environment "
            "variable SKETCHMILL_CACHE name a folder that can"
        ) from error


def report_store(url: str, what: str) -> AbstractContextManager[HeldStore]:
    """Open a store as `held_store` does; if it may only be read, reports go to the cache."""
    return held_store(url, what, cache_folder() / "reports" / digest_of(url)[:16])


def parent(store: Store, manifest: Manifest, role: str) -> Manifest:
    """Return the artifact that a manifest names as its input of a role.

    Raises ValueError if it names none, StoreError if the store lacks it.
    """
    for ref in manifest.inputs:
        if ref.role == role:
            return store.resolve(cast("Kind", ref.kind), f"{ref.name}@{ref.digest}")
    raise ValueError(f"{manifest.kind} {manifest.name} names no {role} among its inputs")


def model_and_dataset(store: Store, model_ref: str, dataset_ref: str) -> tuple[Manifest, Manifest]:
    """Return a model, and a dataset: by default the one the model learned from."""
    model = store.resolve("models", model_ref)
    if dataset_ref:
        return model, store.resolve("datasets", dataset_ref)
    return model, parent(store, model, "dataset")


EXPORTABLE: tuple[Kind, ...] = ("samples", "datasets")


def where(store: Store, manifest: Manifest) -> str:
    """Return the path of an artifact in a local store, its URL in another."""
    local = store.local_path(manifest.prefix)
    return str(local) if local is not None else f"{store.url.rstrip('/')}/{manifest.prefix}"


def find_exportable(store: Store, ref: str) -> Manifest:
    """Return the dataset or samples that a person means.

    Raises StoreError if there is none, or one of each kind.
    """
    kind, _, rest = ref.partition("/")
    if rest:
        if kind not in EXPORTABLE:
            raise StoreError(f"{ref!r}: only {' and '.join(EXPORTABLE)} can be exported")
        return store.resolve(kind, rest)
    found, errors = [], []
    for candidate in EXPORTABLE:
        try:
            found.append(store.resolve(candidate, ref))
        except AbsentError as error:
            errors.append(str(error))
    if len(found) > 1:
        raise StoreError(f"{ref!r} means both: write samples/{ref} or datasets/{ref}")
    if not found:
        raise StoreError("; ".join(errors))
    return found[0]
