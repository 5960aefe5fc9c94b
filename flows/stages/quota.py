"""Quotas and reproduction as steps: counts of accepted drawings, and one drawing again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.options import DEFAULT_STORE, NotNegative, StoreUrl
from flows.stages.base import find_exportable, parent
from flows.stages.sample import guidance, read_counts
from flows.terminal import current
from pipelines.catalogue import resolve_names
from pipelines.store.artifacts import Store, existing_store
from pipelines.store.held import held_store, working_store
from pipelines.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class QuotaParams:
    """Draw, audit and draw again until each class has exactly its accepted drawings.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    per_class
        Accepted drawings of each class that the model knows.
    counts
        CSV file of class,count instead; a spreadsheet's semicolons and tabs will do.
    filters
        TOML file of rules that a drawing must keep to.
    gate
        TOML file of limits on the audit of the accepted drawings; beyond one nothing is published.
    judge
        A classifier of the store, if a rule asks it.
    seed
        Of the first round; the others follow from it.
    temperature
        Below 1 the drawings are more alike and cleaner.
    guidance
        How much to prefer what tells a class from the others; 0 is the class's own distribution.
        By default 2.5 for models that learned for it (condition.dropout_p), 0 for others.
    name
        Name in the store; the model's by default.
    processes
        How many at once; 0 is one a core.
    """

    model: str
    per_class: NotNegative = 0
    counts: str = ""
    filters: str = ""
    gate: str = ""
    judge: str = ""
    seed: int = 0
    temperature: float = 1.0
    guidance: float | None = None
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    processes: NotNegative = 0


def wanted_counts(params: QuotaParams, model: Manifest) -> dict[str, int]:
    """Return the number of drawings of each class; raise ValueError for unknown classes."""
    known = list(model.summary["class_names"])
    if bool(params.counts) == bool(params.per_class):
        raise ValueError("give either --per-class or --counts")
    if params.per_class:
        return dict.fromkeys(known, params.per_class)
    counts = read_counts(Path(params.counts))
    names = resolve_names(counts, known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"the model has no class {unknown[0]!r}; it knows {', '.join(known)}")
    return dict(zip(names, counts.values(), strict=True))


def plan_quota(params: QuotaParams) -> Mapping[str, Any]:
    """Return the resolved spec and whether the store has the drawings."""
    from pipelines.store.manifest import artifact_digest

    store = existing_store(params.store)
    spec, sources = _work(params, store)
    _gate(params)
    digest = artifact_digest("samples", spec.to_json(), sources.inputs())
    name = params.name or sources.model.name
    found = store.find("samples", name, digest)
    return {"spec": spec.to_json(), "samples": digest, "name": name, "is_drawn": found is not None}


def work_quota(params: QuotaParams) -> Mapping[str, Any]:
    """Draw and return the digest, with accepted and rejected by reason."""
    from model.audit.quota import fill_quotas

    with working_store(params.store, "quota") as store:
        spec, sources = _work(params, store)
        made = fill_quotas(
            spec,
            sources,
            store,
            params.name or sources.model.name,
            gate=_gate(params),
            processes=params.processes,
            progress=current(),
        )
    rejected: dict[str, int] = {}
    for reasons in made.summary["rejected"].values():
        for reason, count in reasons.items():
            rejected[reason] = rejected.get(reason, 0) + count
    return {
        "samples": made.digest,
        "name": made.name,
        "accepted": made.summary["num_drawings"],
        "drawn": sum(made.summary["drawn"].values()),
        "rejected": rejected,
        "rounds": len(made.summary["rounds"]),
    }


def work_reproduce(store_url: str, ref: str, row: int) -> Mapping[str, Any]:
    """Draw one row again; raise RuntimeError if a pixel differs."""
    from model.audit.reproduce import reproduce

    with held_store(store_url, "reproduce") as store:
        samples = find_exportable(store, ref if "/" in ref else f"samples/{ref}")
        found = reproduce(samples, store, row=row)
    recipe = found.recipe
    if not found.is_equal:
        pixels = int((recipe.image != found.image).sum())
        raise RuntimeError(
            f"row {row} of {samples.name} differs in {pixels} pixels: another processor or another "
            "version of torch may round a sum otherwise"
        )
    return {
        "row": row,
        "is_equal": True,
        "class_name": recipe.class_name,
        "seed": recipe.seed,
        "sample_index": recipe.sample_index,
        "model": recipe.model,
        "bytes": recipe.image.size,
    }


def _gate(params: QuotaParams):
    from model.audit.gate import read_gate

    return read_gate(Path(params.gate)) if params.gate else ()


def _work(params: QuotaParams, store: Store):
    from model.audit.filters import Filters, read_filters
    from model.audit.quota import QuotaSpec, Sources

    model = store.resolve("models", params.model)
    filters = read_filters(Path(params.filters)) if params.filters else Filters()
    judge = store.resolve("models", params.judge) if params.judge else None
    spec = QuotaSpec(
        counts=wanted_counts(params, model),
        filters=filters,
        seed=params.seed,
        temperature=params.temperature,
        guidance=guidance(params.guidance, model),
    )
    return spec, Sources(model=model, dataset=parent(store, model, "dataset"), judge=judge)
