"""Where an artifact comes from: the tree of its inputs, and an in-toto statement of them.

    Statement v1   https://in-toto.io/Statement/v1: subjects are all files with their SHA-256
    predicate      https://slsa.dev/provenance/v1: what was asked for, of what, by which program

The statement carries no time and no host, so the same work has the same statement; it is not
signed. `cosign attest-blob` and `in-toto-verify` read it.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.store.artifacts import Store, StoreError
from pipelines.store.manifest import FileEntry, InputRef, Kind, Manifest, artifact_prefix

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
# Names what the parameters mean; not an address that answers.
BUILD_TYPE = "https://sketchmill.invalid/{kind}/v1"
BUILDER_ID = "https://sketchmill.invalid/builder"
PROVENANCE_NAME = "provenance.json"

# Kinds of lineage that are no artifacts: a source, and one of its files.
OUTSIDE = ("source", "file")
_SHORT_DIGEST = 12
# Ours has five levels. A tree shows what is shared each time, which others may make endless.
MAX_LEVELS = 100
MAX_LINES = 10_000


@dataclass(frozen=True, slots=True)
class Lineage:
    """An artifact, a source or one of its files, and what it was made of.

    manifest is None for what is outside of the store, and for an artifact that is no longer in the store.
    """

    ref: InputRef
    manifest: Manifest | None
    inputs: tuple["Lineage", ...]


def trace(manifest: Manifest, store: Store, *, role: str = "") -> Lineage:
    """Follow an artifact's inputs down to the files of the sources.

    What several artifacts were made of is read once. Raises StoreError for an artifact that was
    made of itself, or of more than MAX_LEVELS after one another: we make no such.
    """
    ref = InputRef(role=role, kind=manifest.kind, name=manifest.name, digest=manifest.digest)
    return Lineage(ref, manifest, _Tracer(store, {}).inputs(manifest, ()))


def ancestors(lineage: Lineage) -> Iterator[Lineage]:
    """Yield everything below an artifact once, the nearest first."""
    seen, opened = set(), set()
    level = list(lineage.inputs)
    while level:
        below: list[Lineage] = []
        for found in level:
            if found.ref.digest not in seen:
                seen.add(found.ref.digest)
                yield found
            if id(found.inputs) not in opened:  # many may be made of the same
                opened.add(id(found.inputs))
                below += found.inputs
        level = below


def lineage_text(lineage: Lineage) -> str:
    """Return the tree as text, one line an artifact.

    exports/cats@0123456789ab
    `-- samples: samples/cats@ba9876543210
        `-- model: models/cats@...
    """
    return tree_text(_title(lineage), _branches(lineage))


def tree_text(title: str, branches: Iterable[str]) -> str:
    """Return a tree's lines as text, the first MAX_LINES of them."""
    lines = list(itertools.islice(branches, MAX_LINES))
    more = ["..."] if len(lines) == MAX_LINES else []
    return "\n".join([title, *lines, *more]) + "\n"


def one_level_up(prefix: str, below: tuple[str, ...]) -> tuple[str, ...]:
    """Return the artifacts from the first one on with the next, `prefix`; see `trace` for errors."""
    if prefix in below:
        raise StoreError(f"{prefix} is made of itself: what made it is not ours, delete it")
    if len(below) == MAX_LEVELS:
        raise StoreError(f"{below[0]} is related to {prefix} over more than {MAX_LEVELS} others")
    return (*below, prefix)


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


@dataclass(frozen=True, slots=True)
class _Tracer:
    """Traces artifacts; `known` has those that were, by their prefix."""

    store: Store
    known: dict[str, Lineage]

    def inputs(self, manifest: Manifest, above: tuple[str, ...]) -> tuple[Lineage, ...]:
        files = _source_files(manifest)
        return tuple(self._trace(ref, files, above) for ref in manifest.inputs)

    def _trace(self, ref: InputRef, files: tuple[Lineage, ...], above: tuple[str, ...]) -> Lineage:
        if ref.kind == "source":
            return Lineage(ref, None, files)
        kind: Kind = ref.kind  # type: ignore[assignment]
        prefix = artifact_prefix(kind, ref.name, ref.digest)
        if prefix not in self.known:
            path = one_level_up(prefix, above)
            manifest = self.store.find(kind, ref.name, ref.digest)
            below = self.inputs(manifest, path) if manifest else ()
            self.known[prefix] = Lineage(ref, manifest, below)
        return replace(self.known[prefix], ref=ref)


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
