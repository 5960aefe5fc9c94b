"""Where an artifact comes from: the tree of its inputs, and an in-toto statement of them.

    Statement v1   https://in-toto.io/Statement/v1: subjects are all files with their SHA-256
    predicate      https://slsa.dev/provenance/v1: what was asked for, of what, by which program

The statement carries no time and no host, so the same work has the same statement; it is not
signed. `cosign attest-blob` and `in-toto-verify` read it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.schema import FileEntry, InputRef, Kind, Manifest
from pipelines.store import Store

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
# Names what the parameters mean; not an address that answers.
BUILD_TYPE = "https://sketchmill.invalid/{kind}/v1"
BUILDER_ID = "https://sketchmill.invalid/builder"
PROVENANCE_NAME = "provenance.json"

# Kinds of lineage that are no artifacts: a source, and one of its files.
OUTSIDE = ("source", "file")
_SHORT_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Lineage:
    """An artifact, a source or one of its files, and what it was made of.

    manifest is None for what is outside of the store, and for an artifact that is no longer in the store.
    """

    ref: InputRef
    manifest: Manifest | None
    inputs: tuple["Lineage", ...]


def trace(manifest: Manifest, store: Store, *, role: str = "") -> Lineage:
    """Follow an artifact's inputs down to the files of the sources."""
    ref = InputRef(role=role, kind=manifest.kind, name=manifest.name, digest=manifest.digest)
    files = _source_files(manifest)
    return Lineage(
        ref, manifest, tuple(_trace_ref(found, store, files) for found in manifest.inputs)
    )


def ancestors(lineage: Lineage) -> Iterator[Lineage]:
    """Yield everything below an artifact once, the nearest first."""
    seen = set()
    level = list(lineage.inputs)
    while level:
        for found in level:
            if found.ref.digest not in seen:
                seen.add(found.ref.digest)
                yield found
        level = [deeper for found in level for deeper in found.inputs]


def lineage_text(lineage: Lineage) -> str:
    """Return the tree as text, one line an artifact.

    exports/cats@0123456789ab
    `-- samples: samples/cats@ba9876543210
        `-- model: models/cats@...
    """
    return "\n".join([_title(lineage), *_branches(lineage)]) + "\n"


def provenance_json(manifest: Manifest, store: Store, runner: str = "") -> bytes:
    """Return the statement about a manifest's files; `store` resolves what lies behind it."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [_subject(entry) for entry in manifest.files],
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(manifest, store, runner),
    }
    return json.dumps(statement, sort_keys=True).encode("ascii") + b"\n"


def _source_files(manifest: Manifest) -> tuple[Lineage, ...]:
    return tuple(
        Lineage(
            InputRef(role="file", kind="file", name=each["file"], digest=each["digest"]), None, ()
        )
        for each in manifest.summary.get("source_files", ())
    )


def _trace_ref(ref: InputRef, store: Store, files: tuple[Lineage, ...]) -> Lineage:
    if ref.kind == "source":
        return Lineage(ref, None, files)
    kind: Kind = ref.kind  # type: ignore[assignment]
    if (manifest := store.find(kind, ref.name, ref.digest)) is None:
        return Lineage(ref, None, ())
    return trace(manifest, store, role=ref.role)


def _title(lineage: Lineage) -> str:
    ref = lineage.ref
    role = f"{ref.role}: " if ref.role else ""
    kind = "" if ref.kind == "file" else f"{ref.kind}/"
    gone = ref.kind not in OUTSIDE and lineage.manifest is None
    digest = ref.digest.rpartition(":")[2][:_SHORT_DIGEST]
    return f"{role}{kind}{ref.name}@{digest}" + " (gone)" * gone


def _branches(lineage: Lineage) -> Iterator[str]:
    for index, found in enumerate(lineage.inputs):
        last = index == len(lineage.inputs) - 1
        yield ("`-- " if last else "|-- ") + _title(found)
        for line in _branches(found):
            yield ("    " if last else "|   ") + line


def _predicate(manifest: Manifest, store: Store, runner: str) -> dict[str, Any]:
    lineage = trace(manifest, store)
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE.format(kind=manifest.kind),
            "externalParameters": {"name": manifest.name, "spec": dict(manifest.spec)},
            "internalParameters": {"runner": runner} if runner else {},
            "resolvedDependencies": [_dependency(found) for found in ancestors(lineage)],
        },
        "runDetails": {
            "builder": {"id": BUILDER_ID, "version": dict(manifest.versions)},
            "metadata": {"invocationId": manifest.digest},
        },
    }


def _subject(entry: FileEntry) -> dict[str, Any]:
    return {"name": entry.path, "digest": {"sha256": entry.sha256}}


def _dependency(found: Lineage) -> dict[str, Any]:
    """Return a ResourceDescriptor; what lies behind a dependency is named in its annotations."""
    ref = found.ref
    annotations: dict[str, Any] = {"role": ref.role, "kind": ref.kind}
    if found.manifest is not None:
        annotations["spec"] = dict(found.manifest.spec)
        annotations["inputs"] = [deeper.ref.digest for deeper in found.inputs]
        annotations["files"] = len(found.manifest.files)
    algorithm, _, digest = ref.digest.rpartition(":")  # a file's says which
    digests = {algorithm or "sha256": digest}
    return {"name": ref.name, "digest": digests, "annotations": annotations}
