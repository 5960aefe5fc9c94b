"""`sketchmill quota`: draw until each class has its number of accepted drawings."""

from typing import Annotated

from cyclopts import Parameter

from flows.options import Common, NotNegative
from flows.stages.quota import QuotaParams, plan_quota, work_quota
from flows.terminal import run_stage

ALL = Common()


def quota(
    *,
    model: str,
    per_class: NotNegative = 0,
    counts: str = "",
    filters: str = "",
    gate: str = "",
    judge: str = "",
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float | None = None,
    name: str = "",
    processes: NotNegative = 0,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
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
    params = QuotaParams(
        store=common.store,
        model=model,
        name=name,
        per_class=per_class,
        counts=counts,
        filters=filters,
        gate=gate,
        judge=judge,
        seed=seed,
        temperature=temperature,
        guidance=guidance,
        processes=processes,
    )
    run_stage(common, plan=lambda: plan_quota(params), work=lambda: work_quota(params))
