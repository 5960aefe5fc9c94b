"""How artifacts relate: what was made of one, and where two of them differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.lineage import one_level_up, tree_text
from pipelines.store.manifest import KINDS, Manifest, drawings_by_split

Pair = tuple[Any, Any]


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

    Raises StoreError where `provenance.trace` does.
    """
    users: dict[tuple[str, str], list[Manifest]] = {}
    for kind in KINDS:
        for user in store.manifests(kind):
            for ref in user.inputs:
                users.setdefault((ref.kind, ref.digest), []).append(user)

    known: dict[str, Dependents] = {}

    def climb(found: Manifest, below: tuple[str, ...]) -> Dependents:
        if found.prefix not in known:
            path = one_level_up(found.prefix, below)
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
    return tree_text(_title(tree.manifest), _branches(tree))


def diff(left: Manifest, right: Manifest) -> Difference:
    """Return where two artifacts differ in what was asked for and in what came out."""
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


def _title(manifest: Manifest) -> str:
    return f"{manifest.kind}/{manifest.name}@{manifest.digest[:12]}"


def _branches(tree: Dependents) -> Iterator[str]:
    for index, found in enumerate(tree.made):
        is_last = index == len(tree.made) - 1
        yield ("`-- " if is_last else "|-- ") + _title(found.manifest)
        for line in _branches(found):
            yield ("    " if is_last else "|   ") + line


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
