"""Artifacts of given bytes in a store, for tests of what reads them."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pipelines.store.artifacts import Store
from pipelines.store.manifest import (
    FileEntry,
    InputRef,
    Kind,
    Manifest,
    artifact_digest,
    artifact_prefix,
)

Content = tuple[bytes, int | None, str | None]


def publish_contents(
    store: Store,
    kind: Kind,
    contents: Mapping[str, Content],
    *,
    name: str,
    spec: Mapping[str, Any],
    inputs: tuple[InputRef, ...],
    summary: Mapping[str, Any],
) -> Manifest:
    """Publish files by path: their bytes, and rows and split where they hold drawings."""
    digest = artifact_digest(kind, spec, inputs)
    entries = []
    for path, (content, rows, split) in contents.items():
        store.put(f"{artifact_prefix(kind, name, digest)}/{path}", content)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(
            FileEntry(path=path, bytes=len(content), sha256=sha256, rows=rows, split=split)
        )
    return store.publish(
        Manifest(
            kind=kind,
            name=name,
            digest=digest,
            spec=dict(spec),
            inputs=inputs,
            files=tuple(entries),
            summary=dict(summary),
        )
    )
