"""Prefect flows: one for each stage and the chain over them. Only digests pass between them.

Each task is one call of a stage, which looks into the store before it works. So a rerun does
what is missing, a cached result need not be trusted, and nothing large goes through Prefect.
"""

import time
from collections.abc import Callable
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stages.base import Stage
from flows.stages.chain import ChainParams
from flows.stages.registry import STAGES
from pipelines.store.errors import INPUT_ERRORS, MISTAKES, FinalError

# Trying again cannot help: bad input, what ends the same, an interruption, a mistake of ours.
FINAL_ERRORS = (*INPUT_ERRORS, *MISTAKES, FinalError, KeyboardInterrupt)


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether trying again may help: after a lost child or a store that did not answer."""
    try:
        state.result()
    except FINAL_ERRORS:
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


def _stage_flow(stage: Stage) -> Callable[[Any], str]:
    """Return the flow of a stage, which does it in this process and returns its digest."""

    @task(name=stage.name, task_run_name=f"{stage.name} {{params.name}}", **RETRY)
    def work(params: Any) -> str:
        return stage.work(params).digest

    @flow(name=stage.name, flow_run_name=f"{stage.name} {{params.name}}", description=stage.title)
    def run(params: Any) -> str:
        return work(params)

    return run


@flow(name="sketchmill", flow_run_name="{params.dataset_name} {params.preset}", log_prints=False)
def chain(params: ChainParams) -> dict[str, Any]:
    """Run every stage; return the digests and the seconds each took."""
    seconds: dict[str, float] = {}

    def timed(name: str, stage_params: Any) -> str:
        start = time.perf_counter()
        digest = _stage_flow(STAGES[name])(stage_params)
        seconds[name] = round(time.perf_counter() - start, 1)
        return digest

    dataset = timed("build", params.build())
    model = timed("train", params.train(dataset))
    samples = timed("sample", params.sample(model))
    report = timed("report", params.report(samples))
    return {
        "dataset": dataset,
        "model": model,
        "samples": samples,
        "report": report,
        "seconds": seconds,
    }
