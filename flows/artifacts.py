"""From what a person writes to an artifact of any kind: `name`, `kind/name@digest`, `digest`."""

from collections.abc import Mapping
from typing import Any

from pipelines.objects import AbsentError
from pipelines.schema import KINDS, Kind, Manifest, drawings_by_split
from pipelines.store import Store, StoreError


def resolve_any(store: Store, ref: str) -> Manifest:
    """Return the artifact that `ref` means among all kinds, or among one: `models/cats`.

    Raises StoreError if none or several match, or one that might is damaged.
    """
    kinds, rest = _kinds_of(ref)
    found, reasons = [], []
    for kind in kinds:
        try:
            found.append(store.resolve(kind, rest))
        except AbsentError as error:
            reasons.append(str(error))
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(f"{m.kind}/{m.name}@{m.digest[:12]}" for m in found)
        raise StoreError(f"{ref!r} means several artifacts: {which}; put the kind before it")
    raise AbsentError(reasons[0] if len(kinds) == 1 else f"nothing in {store.url} matches {ref!r}")


def overview(manifest: Manifest) -> dict[str, Any]:
    """Return the line of an artifact in a listing."""
    return {
        "kind": manifest.kind,
        "name": manifest.name,
        "digest": manifest.digest,
        "rows": sum(drawings_by_split(manifest).values()),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "files": len(manifest.files),
    }


def title(row: Mapping[str, Any]) -> str:
    """Return `kind/name@digest` of an overview, the digest short."""
    return f"{row['kind']}/{row['name']}@{row['digest'][:12]}"


def _kinds_of(ref: str) -> tuple[tuple[Kind, ...], str]:
    head, slash, rest = ref.partition("/")
    for kind in KINDS:
        if slash and head == kind:
            return (kind,), rest
    return KINDS, ref
