"""Copy artifacts and their inputs between stores; every byte is verified.

Inputs are published first and the artifact last, each by the store's protocol: an interrupted
transfer leaves no partial artifact visible, and the same call resumes it.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, StoreError, check_file_names
from pipelines.store.held import reading
from pipelines.store.leases import holding
from pipelines.store.lineage import OUTSIDE, Lineage, trace
from pipelines.store.manifest import FileEntry, InputRef, Manifest, artifact_digest

_COPIERS = 4
# Whose bytes depend on the machine: one that is made in the target at the same time has others.
_OTHER_BYTES = ("models", "reports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Result of a copy: artifacts copied and already present, bytes copied, inputs not available."""

    copied: tuple[str, ...]
    present: tuple[str, ...]
    gone: tuple[str, ...]
    bytes: int


def copy_artifact(
    manifest: Manifest,
    source: Store,
    target: Store,
    *,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Transfer:
    """Copy an artifact and its inputs from one store to another.

    The artifact becomes the latest of its name in the target; an input only if it is the first
    of its name. Raises StoreError if a file of the source is damaged; no byte of that file is
    then in the target; BusyError if a garbage collection takes it from the source.
    """
    with reading(source, [manifest], "copy"):
        try:
            return _copy_lineage(manifest, source, target, progress)
        except FileNotFoundError:
            source.check_there(manifest)
            raise


@doing("copy", "listing the other store")
def _copy_lineage(
    manifest: Manifest,
    source: Store,
    target: Store,
    progress: Callable[[str, int, int, str], None] | None,
) -> Transfer:
    lineage = _inputs_first(trace(manifest, source))
    wanted = [found.manifest for found in lineage.values() if found.manifest]
    for each in wanted:
        _check_own(each, source)
    copied_bytes = 0
    with holding(target, [each.prefix for each in wanted], "copy"):
        # Within the lease: what is there now stays there.
        missing = [each for each in wanted if not target.find(each.kind, each.name, each.digest)]
        total = sum(entry.bytes for each in missing for entry in each.files)
        for each in missing:
            if progress:
                progress("copy", copied_bytes, total, each.name)
            for size in _copy(each, source, target):
                copied_bytes += size
                if progress:
                    progress("copy", copied_bytes, total, each.name)
        for each in wanted:
            if each == manifest or not target.ref_entries(each.kind, each.name):
                target.add_ref(each.kind, each.name, each.digest)
    return Transfer(
        copied=tuple(each.prefix for each in missing),
        present=tuple(each.prefix for each in wanted if each not in missing),
        gone=tuple(address for address, found in lineage.items() if found.manifest is None),
        bytes=copied_bytes,
    )


def _check_own(manifest: Manifest, source: Store) -> None:
    """Raise StoreError unless an artifact's address matches its spec and its names are allowed."""
    check_file_names(manifest)
    if artifact_digest(manifest.kind, manifest.spec, manifest.inputs) != manifest.digest:
        raise StoreError(
            f"{manifest.prefix} in {source.url} is not copied: its spec and inputs do not give its "
            f"digest, so it was edited; {source.remedy(manifest.prefix)}"
        )


def _inputs_first(lineage: Lineage) -> dict[str, Lineage]:
    """Return the artifacts of a lineage by address, each after its inputs; no sources."""
    found: dict[str, Lineage] = {}

    def visit(each: Lineage) -> None:
        if each.ref.kind not in OUTSIDE and _address(each.ref) not in found:
            for below in each.inputs:
                visit(below)
            found[_address(each.ref)] = each

    visit(lineage)
    return found


def _copy(manifest: Manifest, source: Store, target: Store) -> Iterator[int]:
    """Copy an artifact and yield the size of each file when it is copied."""
    if manifest.kind not in _OTHER_BYTES:
        yield from _copy_files(manifest, source, target)
        target.complete(manifest)
        return
    files = {entry.path: source.read(manifest, entry.path) for entry in manifest.files}
    target.complete_files(manifest, files)
    yield from map(len, files.values())


def _copy_files(manifest: Manifest, source: Store, target: Store) -> Iterator[int]:
    """Copy files concurrently and yield the size of each when it is copied."""
    with ThreadPoolExecutor(_COPIERS) as pool:
        yield from pool.map(
            lambda entry: _copy_file(manifest, entry, source, target), manifest.files
        )


def _copy_file(manifest: Manifest, entry: FileEntry, source: Store, target: Store) -> int:
    path = f"{manifest.prefix}/{entry.path}"
    if target.holds(path, entry.bytes, entry.sha256):
        return entry.bytes
    where = f"{path}: {source.remedy(path)}"
    source.surely(lambda: target.put_chunks(path, _verified(source.chunks(path), entry, where)))
    return entry.bytes


def _verified(chunks: Iterator[bytes], entry: FileEntry, where: str) -> Iterator[bytes]:
    """Yield the chunks; if damaged, raise StoreError after the last, before they are visible."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != entry.sha256:
        raise StoreError(f"damaged, it does not match its SHA-256: {where}")


def _address(ref: InputRef) -> str:
    return f"{ref.kind}/{ref.name}/{ref.digest}"
