"""The quota stage: sample until each class has its number of accepted drawings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.options import (
    AUDIT,
    DEFAULT_STORE,
    RUNNING,
    SAMPLING,
    EngineOptions,
    NotNegative,
    StoreUrl,
    grouped,
)
from flows.stages.audit import filters_of, limits_of
from flows.stages.base import (
    Inputs,
    Result,
    Stage,
    check_drawing_engine,
    engine_of,
    find_model,
    parent,
)
from flows.stages.sample import (
    SHARED_SAMPLING,
    AskedArithmetic,
    arithmetic,
    guidance,
    read_counts,
)
from flows.terminal import current
from pipelines.catalogue import resolve_names
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.manifest import Manifest


@grouped({AUDIT: ("filters", "gate", "judge"), SAMPLING: SHARED_SAMPLING})
@dataclass(frozen=True, kw_only=True)
class QuotaParams(EngineOptions):
    """Draw, audit and draw again until each class has exactly its accepted drawings.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    per_class
        Number of accepted drawings of each class of the model.
    counts
        CSV file of class,count in place of --samples-per-class; semicolons and tabs separate as
        well. One of the two is needed.
    filters
        TOML file of rules for drawings; those that break one are rejected.
    gate
        TOML file of limits on the audit's numbers; if one is exceeded, nothing is published.
    judge
        Classifier in the store that the rules use.
    seed
        Seed of the noise in the first round; other rounds derive theirs from it.
    temperature
        Below 1 the drawings are more alike and cleaner.
    guidance
        How much to prefer what tells a class from the others; 0 is the class's own distribution. By
        default the model's own, or 2.5; 0 for models that cannot be guided (condition.dropout_p).
    arithmetic
        How sums are computed. portable: in float32, on CPUs, with the same bits on each. torch: on a
        GPU if there is one; another --batch or processor may round a pixel to another level. auto:
        portable; torch where there is a GPU or no C compiler, for another --dtype, and for networks
        that portable does not know.
    name
        Name in the store. By default that of the model.
    processes
        Number of processes; 0 means one per GPU, or one per core without GPUs. Ignored with
        --cluster or --beam, where each worker draws shards one at a time.
    """

    model: Annotated[str, Parameter(required=True)] = ""
    per_class: Annotated[NotNegative, Parameter(name="--samples-per-class", show_default=False)] = 0
    counts: str = ""
    filters: str = ""
    gate: str = ""
    judge: Annotated[str, Parameter(name="--classifier")] = ""
    seed: int = 0
    temperature: float = 1.0
    guidance: float | None = None
    arithmetic: AskedArithmetic = "auto"
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    processes: Annotated[NotNegative, RUNNING] = 0


def wanted_counts(params: QuotaParams, model: Manifest) -> dict[str, int]:
    """Return the number of drawings of each class; raise ValueError for unknown classes."""
    known = list(model.summary["class_names"])
    if bool(params.counts) == bool(params.per_class):
        raise ValueError("give either --samples-per-class or --counts")
    if params.per_class:
        return dict.fromkeys(known, params.per_class)
    counts = read_counts(Path(params.counts))
    names = resolve_names(counts, known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"the model has no class {unknown[0]!r}; it knows {', '.join(known)}")
    return dict(zip(names, counts.values(), strict=True))


def _check(params: QuotaParams) -> None:
    check_drawing_engine(params)
    filters_of(params.filters)
    limits_of(params.gate)


def _inputs(params: QuotaParams, store: Store) -> Inputs:
    model = find_model(store, params.model)
    judge = {"judge": store.resolve("models", params.judge)} if params.judge else {}
    return {"model": model, "dataset": parent(store, model, "dataset")} | judge


def _spec(params: QuotaParams, model: Manifest):
    from model.audit.quota import QuotaSpec

    return QuotaSpec(
        counts=wanted_counts(params, model),
        filters=filters_of(params.filters),
        seed=params.seed,
        temperature=params.temperature,
        guidance=guidance(params.guidance, model),
        arithmetic=arithmetic(params.arithmetic, "float32", model),
    )


def _sources(inputs: Inputs):
    from model.audit.quota import Sources

    return Sources(model=inputs["model"], dataset=inputs["dataset"], judge=inputs.get("judge"))


def _plan(params: QuotaParams, inputs: Inputs, store: Store) -> Result:
    """Return the resolved spec and whether the store has the drawings."""
    from pipelines.store.manifest import artifact_digest

    model = inputs["model"]
    spec = _spec(params, model)
    digest = artifact_digest("samples", spec.to_json(), _sources(inputs).inputs())
    name = params.name or model.name
    found = store.find("samples", name, digest)
    return {"spec": spec.to_json(), "samples": digest, "name": name, "is_drawn": found is not None}


def _work(params: QuotaParams, inputs: Inputs, store: HeldStore) -> Manifest:
    from model.audit.quota import fill_quotas

    model = inputs["model"]
    return fill_quotas(
        _spec(params, model),
        _sources(inputs),
        store,
        params.name or model.name,
        gate=limits_of(params.gate),
        processes=params.processes,
        engine=engine_of(params, store),
        progress=current(),
    )


def _result(_params: QuotaParams, made: Manifest, _store: HeldStore) -> Result:
    """Return the digest, with accepted and rejected by reason."""
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


STAGE = Stage(
    name="quota",
    params=QuotaParams,
    check=_check,
    inputs=_inputs,
    plan=_plan,
    work=_work,
    result=_result,
)
