"""`sketchmill ls | show | verify | lineage | diff`: inspect and verify artifacts."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common
from flows.stages.base import resolve_any
from flows.terminal import print_result
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, Unreadable, existing_store
from pipelines.store.backends import one_line
from pipelines.store.errors import BusyError
from pipelines.store.held import check_held, held_store
from pipelines.store.manifest import KINDS, Manifest, drawings_by_split

# Problems of one artifact that are printed; there may be a million.
MAX_PROBLEMS = 100
# Errors raised by a spec or a summary that another program wrote.
_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def overview(manifest: Manifest) -> dict[str, Any]:
    """Return the row of an artifact in a listing."""
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


def ls(text: str = "", /, *, common: Common = Common()) -> None:
    """List the complete artifacts of the store.

    Parameters
    ----------
    text
        List only artifacts whose kind/name contains this.
    """
    store = existing_store(common.store)
    rows = [overview(m) for kind in KINDS for m in store.manifests(kind)]
    rows = [row for row in rows if text in f"{row['kind']}/{row['name']}"]
    if common.json:
        print_result({"artifacts": rows}, as_json=True)
        return
    lines = {title(row): f"{row['rows']:>12,} rows  {row['bytes']:>15,} bytes" for row in rows}
    print_result(lines or {"nothing": f"in {store.url}"}, as_json=False)


def show(ref: str, /, *, common: Common = Common()) -> None:
    """Show an artifact: its spec, inputs, counts and versions.

    Parameters
    ----------
    ref
        Name, kind/name, name@digest, or the first characters of a digest.
    """
    manifest = resolve_any(existing_store(common.store), ref)
    shown: dict[str, Any] = overview(manifest) | {
        "spec": dict(manifest.spec),
        "inputs": [f"{i.role}: {i.kind}/{i.name}@{i.digest[:12]}" for i in manifest.inputs],
        "summary": dict(manifest.summary),
        "versions": dict(manifest.versions),
    }
    print_result(shown, as_json=common.json)


def verify(*refs: str, common: Common = Common()) -> None:
    """Read every byte of artifacts and report damage; all artifacts by default.

    Parameters
    ----------
    refs
        Names, kind/name, name@digest, or the first characters of digests.
    """
    store = existing_store(common.store)
    chosen = [resolve_any(store, ref) for ref in refs]
    found = chosen or [each for kind in KINDS for each in store.survey(kind)]
    problems = {}
    total = sum(map(_bytes_to_read, found))
    with doing("verify", f"{len(found)} artifacts", total=total):
        for each in found:
            try:
                name, wrong = _checked(each, store)
                problems[name] = _first(wrong)
            except BusyError:  # a garbage collection has taken it since
                if refs:
                    raise
    if common.json:
        print_result({"problems": problems}, as_json=True)
    else:
        lines = {name: "; ".join(found) or "holds" for name, found in problems.items()}
        print_result(lines, as_json=False)
    damaged = [name for name, found in problems.items() if found]
    if damaged:
        raise RuntimeError(f"damaged: {', '.join(damaged)}")


def lineage(ref: str, /, *, common: Common = Common()) -> None:
    """Show what an artifact was made of, down to the source, and what was made of it.

    Parameters
    ----------
    ref
        Name, kind/name, name@digest, or the first characters of a digest.
    """
    from pipelines.store.lineage import dependents, dependents_text, lineage_text, trace

    store = existing_store(common.store)
    manifest = resolve_any(store, ref)
    made_of = lineage_text(trace(manifest, store))
    made_into = dependents_text(dependents(manifest, store))
    if common.json:
        print_result({"made_of": made_of, "made_into": made_into}, as_json=True)
    else:
        print_result({"made of\n" + made_of: "", "made into\n" + made_into: ""}, as_json=False)


def diff(
    left: str,
    right: str,
    /,
    *,
    drawings: Annotated[bool, Parameter(negative=())] = False,
    common: Common = Common(),
) -> None:
    """Show where two artifacts differ, in their specs and in their results.

    Parameters
    ----------
    left
        Name, kind/name, name@digest, or the first characters of a digest.
    right
        The other one.
    drawings
        Read two datasets and count, by split, the drawings that only one of them has.
    """
    import dataclasses

    from pipelines.store.lineage import diff as compare
    from pipelines.store.lineage import diff_text

    with held_store(common.store, "diff") as store:
        one, other = resolve_any(store, left), resolve_any(store, right)
        difference = compare(one, other)
        counted = _drawings_apart(one, other, store) if drawings else {}
    if common.json:
        print_result(dataclasses.asdict(difference) | counted, as_json=True)
    else:
        print_result({diff_text(difference).rstrip(): ""}, as_json=False)
        print_result(counted, as_json=False)


def _drawings_apart(left: Manifest, right: Manifest, store: Store) -> dict[str, Any]:
    if {left.kind, right.kind} != {"datasets"}:
        raise ValueError(f"--drawings compares two datasets, not {left.kind} and {right.kind}")
    from pipelines.dataset.verify import diff_datasets

    found = diff_datasets(left, right, store)
    return {
        "same drawings": found.is_same_content,
        "only left": found.only_in_a,
        "only right": found.only_in_b,
    }


def _checked(found: Manifest | Unreadable, store: Store) -> tuple[str, list[str]]:
    """Return the title of an artifact and its problems."""
    if isinstance(found, Unreadable):
        return found.path, [found.reason]
    return title(overview(found)), check_held(found, store, lambda each: _problems(each, store))


def _bytes_to_read(found: Manifest | Unreadable) -> int:
    """Return the number of bytes that verification reads; datasets are read twice."""
    if isinstance(found, Unreadable):
        return 0
    return sum(entry.bytes for entry in found.files) * (1 + (found.kind == "datasets"))


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - MAX_PROBLEMS
    return problems if more <= 0 else [*problems[:MAX_PROBLEMS], f"and {more:,} more"]


def _problems(manifest: Manifest, store: Store) -> list[str]:
    """Check the hashes of an artifact; recount the drawings of a dataset."""
    try:
        if manifest.kind != "datasets":
            return store.damaged(manifest)
        from pipelines.dataset.verify import verify_dataset

        return verify_dataset(manifest, store)
    except _NOT_OURS as error:  # foreign artifact: continue with the others
        return [f"cannot be checked: {type(error).__name__}: {one_line(error)}"]
