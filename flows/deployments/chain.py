"""Prefect flows: one for each stage and the chain over them. Only digests pass between them.

Each task is one call of a stage, which looks into the store before it works. So a rerun does
what is missing, a cached result need not be trusted, and nothing large goes through Prefect.
"""

import time
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stages import base as stages
from flows.stages.params import BuildParams, ChainParams, ReportParams, SampleParams, TrainParams
from pipelines.store.errors import INPUT_ERRORS, FinalError

# Trying again cannot help: bad input, what ends the same, an interruption, a mistake of ours.
FINAL_ERRORS = (
    *INPUT_ERRORS,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    FinalError,
    KeyboardInterrupt,
)


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


@task(name="build", task_run_name="build {params.name}", **RETRY)
def build_task(params: BuildParams) -> str:
    """Make the dataset; return its digest."""
    return stages.build(params).digest


@task(name="train", task_run_name="train {params.name}", **RETRY)
def train_task(params: TrainParams) -> str:
    """Train the model; return its digest."""
    return stages.train(params).digest


@task(name="sample", task_run_name="sample {params.name}", **RETRY)
def sample_task(params: SampleParams) -> str:
    """Draw new drawings; return the samples' digest."""
    return stages.sample(params).digest


@task(name="report", task_run_name="report {params.name}", **RETRY)
def report_task(params: ReportParams) -> str:
    """Draw the report; return its digest."""
    return stages.report(params).digest


@flow(name="build", flow_run_name="build {params.name}", log_prints=False)
def build_flow(params: BuildParams) -> str:
    """Make a dataset of the chosen classes; return its digest."""
    return build_task(params)


@flow(name="train", flow_run_name="train {params.name}", log_prints=False)
def train_flow(params: TrainParams) -> str:
    """Train a conditional PixelCNN++ on a dataset; return its digest."""
    return train_task(params)


@flow(name="sample", flow_run_name="sample {params.name}", log_prints=False)
def sample_flow(params: SampleParams) -> str:
    """Draw new labelled drawings from a model; return the samples' digest."""
    return sample_task(params)


@flow(name="report", flow_run_name="report {params.name}", log_prints=False)
def report_flow(params: ReportParams) -> str:
    """Show real above generated drawings in one page; return its digest."""
    return report_task(params)


@flow(name="sketchmill", flow_run_name="{params.dataset_name} {params.preset}", log_prints=False)
def chain(params: ChainParams) -> dict[str, Any]:
    """Run every stage; return the digests and the seconds each took."""
    seconds: dict[str, float] = {}

    def timed(name: str, stage_flow: Any, stage_params: Any) -> str:
        start = time.perf_counter()
        digest = stage_flow(stage_params)
        seconds[name] = round(time.perf_counter() - start, 1)
        return digest

    dataset = timed("build", build_flow, params.build())
    model = timed("train", train_flow, params.train(dataset))
    samples = timed("sample", sample_flow, params.sample(model))
    report = timed("report", report_flow, params.report(samples))
    return {
        "dataset": dataset,
        "model": model,
        "samples": samples,
        "report": report,
        "seconds": seconds,
    }
