"""`sketchmill run`: the whole chain in one command."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from flows.options import MAIN, Classes, Output
from flows.stages.params import ChainParams
from flows.terminal import check_prefect_home, run_stage
from pipelines.processes.progress import doing

SOURCE = Group("The source", sort_key=1)


def run(
    *,
    params: Annotated[ChainParams, Parameter(name="*", group=SOURCE)] = ChainParams(),
    classes: Annotated[Classes, MAIN] = Classes(),
    output: Output = Output(),
) -> None:
    """Make a dataset, train a model on it, draw new drawings, and show them in a report.

    Running the same command again answers at once; after an interruption it goes on.
    """
    from pipelines.sources.files import without_secrets  # which takes a moment

    given = dataclasses.replace(
        params, classes=classes.written(), source=without_secrets(params.source)
    )
    run_stage(output, plan=lambda: plan_chain(given), work=lambda: work_chain(given))


def plan_chain(params: ChainParams) -> Mapping[str, Any]:
    """Return the resolved parameters and what the store already has."""
    from flows.stages.lookup import STAGES, find_chain

    check_chain(params)
    found = find_chain(params)
    state = {
        stage: f"there: {found[stage].digest}" if stage in found else "to be made"
        for stage in STAGES
    }
    return {"params": dataclasses.asdict(params)} | state


def check_chain(params: ChainParams) -> None:
    """Raise ValueError for what no stage could do, before the first begins."""
    from flows.stages.base import check_runner
    from model.network.config import check_guidance
    from model.training.presets import preset
    from model.training.spec import apply_overrides
    from pipelines.store.manifest import check_slug

    spec = apply_overrides(preset(params.preset), params.settings)
    if params.guidance is not None:
        check_guidance(params.guidance, spec.network)
    check_slug(params.model_name)
    check_runner(params.build())


def work_chain(params: ChainParams) -> Mapping[str, Any]:
    """Run the chain unless the store has all of it; return digests, paths and numbers."""
    from flows.stages.lookup import STAGES, chain_result, find_chain
    from pipelines.store.artifacts import open_store
    from pipelines.store.leases import check_writable

    check_prefect_home()
    check_chain(params)
    check_writable(open_store(params.store))
    found = find_chain(params, reuse=True)
    if len(found) == len(STAGES):
        digests: Mapping[str, Any] = {stage: m.digest for stage, m in found.items()}
        return chain_result(params, digests) | {"seconds": {}}
    from flows.deployments.chain import chain  # starts Prefect, which takes seconds

    with doing("run", "waiting for Prefect"):
        digests = chain(params)
    return chain_result(params, digests) | {"seconds": digests["seconds"]}
