"""The chain as a Prefect flow in this process; only digests pass between its tasks.

Each task is one call of a stage, which looks into the store before it works. A rerun therefore
makes only what is missing, Prefect's result cache is not needed, and no data passes through
Prefect.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stages.base import P, Stage
from pipelines.store.errors import FINAL_ERRORS
from pipelines.store.manifest import Manifest


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether trying again may help: after a lost child or a store that did not answer."""
    try:
        state.result()
    except (*FINAL_ERRORS, KeyboardInterrupt):
        return False
    except Exception:
        return True
    return False


RETRY: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_jitter_factor": 1,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
}


def run_chain(
    params: P,
    steps: Callable[[P], Mapping[str, tuple[Stage, Callable[[Mapping[str, str]], Any]]]],
    name: str,
) -> dict[str, Any]:
    """Run stages one after the other; return the digests and the seconds each took.

    steps: returns, by the name of the result, a stage and what makes its parameters of the digests
    of those before; name: of the run, filled in from `params`.
    """

    @flow(name="sketchmill", flow_run_name=name, log_prints=False)
    def chain(params: Any) -> dict[str, Any]:
        made: dict[str, str] = {}
        seconds: dict[str, float] = {}
        for result, (stage, params_of) in steps(params).items():
            start = time.perf_counter()
            made[result] = _stage_flow(stage)(params_of(made))
            taken = seconds.get(stage.name, 0.0) + time.perf_counter() - start
            seconds[stage.name] = round(taken, 1)
        return made | {"seconds": seconds}

    return chain(params)


def _stage_flow(stage: Stage) -> Callable[[Any], str]:
    """Return the flow of a stage, which does it in this process and returns its digest."""

    @task(name=stage.name, task_run_name=f"{stage.name} {{params.name}}", **RETRY)
    def work(params: Any) -> str:
        return cast(Manifest, stage.run(params)).digest

    @flow(name=stage.name, flow_run_name=f"{stage.name} {{params.name}}", description=stage.title)
    def run(params: Any) -> str:
        return work(params)

    return run
