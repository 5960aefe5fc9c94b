"""Lineage of artifacts: trees of inputs and dependents, differences, an in-toto statement.

    Statement v1   https://in-toto.io/Statement/v1: subjects are all files with their SHA-256
    predicate      https://slsa.dev/provenance/v1: the request, its inputs and the program

The statement has no time and no host, so the same work has the same statement; it is not
signed. `cosign attest-blob` and `in-toto-verify` read it.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, StoreError
from pipelines.store.manifest import (
    KINDS,
    FileEntry,
    InputRef,
    Kind,
    Manifest,
    artifact_prefix,
    drawings_by_split,
)

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
# Identifies the meaning of the parameters; not an address to request.
BUILD_TYPE = "https://sketchmill.invalid/{kind}/v1"
BUILDER_ID = "https://sketchmill.invalid/builder"
PROVENANCE_NAME = "provenance.json"

# Kinds of lineage that are no artifacts: a source, and one of its files.
OUTSIDE = ("source", "file")
_SHORT_DIGEST = 12
# Our lineage has five levels. A tree repeats shared inputs, so a crafted one could be endless.
MAX_LEVELS = 100
MAX_LINES = 10_000

Pair = tuple[Any, Any]
Tree = TypeVar("Tree")


@dataclass(frozen=True, slots=True)
class Lineage:
    """An artifact, a source or one of its files, and its inputs.

    manifest is None for what is outside of the store, and for an artifact that is no longer in the
    store.
    """

    ref: InputRef
    manifest: Manifest | None
    inputs: tuple["Lineage", ...]


def trace(manifest: Manifest, store: Store) -> Lineage:
    """Follow an artifact's inputs down to the files of the sources.

    What several artifacts were made of is read once. Raises StoreError for an artifact that was
    made of itself, or of more than MAX_LEVELS after one another: we make no such.
    """
    return Lineage(manifest.ref(""), manifest, _Tracer(store, {}).inputs(manifest, ()))


def ancestors(lineage: Lineage) -> Iterator[Lineage]:
    """Yield all transitive inputs of an artifact once, the nearest first."""
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
    return _tree_text(lineage, _title, lambda found: found.inputs)


@dataclass(frozen=True, slots=True)
class Dependents:
    """An artifact and everything that names it among its inputs, and so on upwards."""

    manifest: Manifest
    made: tuple["Dependents", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where two artifacts differ; every pair is (left, right), None where one side has none.

    spec      by dotted field
    inputs    digests by role
    rows      by split
    summary   by dotted field: counts, drop reasons, metrics
    versions  of the program and the libraries
    files     how many are equal, changed, only left, only right
    """

    spec: Mapping[str, Pair]
    inputs: Mapping[str, Pair]
    rows: Mapping[str, Pair]
    summary: Mapping[str, Pair]
    versions: Mapping[str, Pair]
    files: Mapping[str, int]


@doing("lineage", "reading all manifests")
def dependents(manifest: Manifest, store: Store) -> Dependents:
    """Follow an artifact up to everything in the store that was made of it.

    Raises StoreError where `trace` does.
    """
    users: dict[tuple[str, str], list[Manifest]] = {}
    for kind in KINDS:
        for user in store.manifests(kind):
            for ref in user.inputs:
                users.setdefault((ref.kind, ref.digest), []).append(user)

    known: dict[str, Dependents] = {}

    def climb(found: Manifest, below: tuple[str, ...]) -> Dependents:
        if found.prefix not in known:
            path = _one_level_up(found.prefix, below)
            made = [climb(user, path) for user in users.get((found.kind, found.digest), [])]
            known[found.prefix] = Dependents(found, tuple(made))
        return known[found.prefix]

    return climb(manifest, ())


def dependents_text(tree: Dependents) -> str:
    """Return the tree as text, one line an artifact.

    datasets/cats@0123456789ab
    `-- models/cats@ba9876543210
        `-- samples/cats@...
    """
    return _tree_text(tree, _dependents_title, lambda found: found.made)


def diff(left: Manifest, right: Manifest) -> Difference:
    """Return where two artifacts differ in their requests and results."""
    return Difference(
        spec=_differing(_flat(left.spec), _flat(right.spec)),
        inputs=_differing(_inputs(left), _inputs(right)),
        rows=_differing(drawings_by_split(left), drawings_by_split(right)),
        summary=_differing(_flat(left.summary), _flat(right.summary)),
        versions=_differing(left.versions, right.versions),
        files=_compare_files(left, right),
    )


def diff_text(difference: Difference) -> str:
    """Return the differences as lines `part field: left -> right`; "no difference" if none."""
    lines = [
        f"{part:<8}  {name}: {left} -> {right}"
        for part in ("spec", "inputs", "rows", "summary", "versions")
        for name, (left, right) in getattr(difference, part).items()
    ]
    counts = ", ".join(f"{count} {what}" for what, count in difference.files.items() if count)
    return "\n".join([*(lines or ["no difference"]), f"files     {counts or 'none'}"]) + "\n"


def _tree_text(
    tree: Tree, title: Callable[[Tree], str], children: Callable[[Tree], Iterable[Tree]]
) -> str:
    """Return a tree's lines as text, the first MAX_LINES of them."""

    def branches(tree: Tree) -> Iterator[str]:
        found = list(children(tree))
        for index, child in enumerate(found):
            is_last = index == len(found) - 1
            yield ("`-- " if is_last else "|-- ") + title(child)
            for line in branches(child):
                yield ("    " if is_last else "|   ") + line

    lines = list(itertools.islice(branches(tree), MAX_LINES))
    more = ["..."] if len(lines) == MAX_LINES else []
    return "\n".join([title(tree), *lines, *more]) + "\n"


def _one_level_up(prefix: str, below: tuple[str, ...]) -> tuple[str, ...]:
    """Return the artifacts from the first one on with the next, `prefix`; see `trace` for errors."""
    if prefix in below:
        raise StoreError(
            f"{prefix} is among its own inputs, so sketchmill did not make it: delete it"
        )
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
            path = _one_level_up(prefix, above)
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


def _dependents_title(tree: Dependents) -> str:
    found = tree.manifest
    return f"{found.kind}/{found.name}@{found.digest[:_SHORT_DIGEST]}"


def _flat(mapping: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return a nested mapping's leaves by dotted name; lists are leaves."""
    leaves: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{above}{name}.")
        else:
            leaves[f"{above}{name}"] = value
    return leaves


def _inputs(manifest: Manifest) -> dict[str, str]:
    return {ref.role: ref.digest for ref in manifest.inputs}


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Pair]:
    return {
        name: (left.get(name), right.get(name))
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    }


def _compare_files(left: Manifest, right: Manifest) -> dict[str, int]:
    ours = {entry.path: entry.sha256 for entry in left.files}
    theirs = {entry.path: entry.sha256 for entry in right.files}
    both = ours.keys() & theirs.keys()
    equal = sum(ours[path] == theirs[path] for path in both)
    return {
        "equal": equal,
        "changed": len(both) - equal,
        "only left": len(ours) - len(both),
        "only right": len(theirs) - len(both),
    }
