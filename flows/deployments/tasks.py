"""The tasks of the deployed flows: a stage or a part of one, here or on a worker of another pool.

Only digests pass between them, and every stage asks the store first.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from flows.deployments.chain import is_transient
from flows.deployments.child import FINAL_CODE, MISTAKE_CODE, run_isolated
from flows.deployments.dashboard import name_run, result_name, show_result, showing_progress
from flows.deployments.remote_run import ElsewhereError, LostError, Places, run_elsewhere
from flows.stages.export import ExportPartParams
from flows.stages.sample import SampleParams, ShardsParams
from pipelines.processes.supervise import STOPPED_CODE, ChildError, DeadlineError, end_with_worker

_T = TypeVar("_T")
# A run's message must fit a page.
SHOWN_ERRORS = 10


def is_worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether trying again may help.

    Not after a deadline, a mistake, bad input, what ends the same, or when somebody has stopped
    it; and not after a run elsewhere that has tried again by itself, only if its process was lost.
    """
    try:
        state.result()
    except ChildError as error:
        is_final = error.code in (FINAL_CODE, MISTAKE_CODE, STOPPED_CODE)
        return not isinstance(error, DeadlineError) and not is_final
    except ElsewhereError as error:
        return isinstance(error, LostError)
    except Exception:
        return is_transient(_task, _run, state)
    return False


RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 1,
    "retry_condition_fn": is_worth_retrying,
    "cache_policy": NO_CACHE,
}


@task(name="stage", task_run_name="{job} {params.name}", **RETRY)
def stage_task(job: str, params: Any, places: Places) -> str:
    """Do a stage where it is placed; return the digest of what it made."""
    end_with_worker()
    if place := getattr(places, job):
        return run_elsewhere(place, params, places)["digest"]
    result = _run_here(job, params, places, title=f"{job} {params.name}")
    if "kind" not in result:  # written to a directory of its own, not to the store
        return result["export"]
    show_result(result, params.store)
    if flow_run.flow_name == job:
        classes = result["summary"].get("class_names", ())
        name_run(result_name(job, result["name"], classes, result["digest"]))
    return result["digest"]


@task(name="plan", **RETRY)
def plan_task(params: SampleParams, places: Places) -> dict[str, Any]:
    """Return the number of shards, of those that the store lacks, and the ranges to draw."""
    end_with_worker()
    if places.plan:
        return run_elsewhere(places.plan, params, places)
    return _run_here("plan-sample", params, places, title=f"plan {params.name}")


@task(name="shards", task_run_name="shards {params.start} to {params.stop}", **RETRY)
def shards_task(params: ShardsParams, places: Places) -> int:
    """Draw a range of shards; return how many."""
    end_with_worker()
    if places.shards:
        run_elsewhere(places.shards, params, places)
    else:
        title = f"shards {params.start}-{params.stop}"
        _run_here("sample-shards", params, places, title=title)
    return params.stop - params.start


@task(name="part", task_run_name="part {params.part} of {params.parts}", **RETRY)
def export_part_task(params: ExportPartParams, places: Places) -> int:
    """Write one part of an export's files; return its number."""
    end_with_worker()
    if places.export_part:
        run_elsewhere(places.export_part, params, places)
    else:
        title = f"part {params.part} of {params.parts}"
        _run_here("export-part", params, places, title=title)
    return params.part


def _run_here(job: str, params: Any, places: Places, *, title: str) -> dict[str, Any]:
    with showing_progress(title, get_run_logger()) as progress:
        return run_isolated(job, params, deadline_sec=places.deadline_sec, progress=progress)


class SomeFailedError(RuntimeError):
    """Some of many tasks failed; the message says which and why."""


def run_window(task: Any, asked: Sequence[Any], places: Any, *, at_once: int) -> None:
    """Run a Prefect task for each of `asked`, at most `at_once` at a time, and wait for all.

    Raises SomeFailedError with what every task that failed has said.
    """
    free = threading.Semaphore(at_once)
    futures = []
    for each in asked:
        free.acquire()
        future = task.submit(each, places)
        future.add_done_callback(lambda _: free.release())
        futures.append(future)
    results_of_all([future.result for future in futures])


def results_of_all(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Make every call and return what they return; raise SomeFailedError once all are tried."""
    results: list[_T] = []
    errors: list[Exception] = []
    for call in calls:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)
    if errors:
        told = "\n".join(_brief(error) for error in errors[:SHOWN_ERRORS])
        raise SomeFailedError(
            f"{len(errors)} of {len(calls)} failed; run it again to do these alone:\n{told}"
        )
    return results


def _brief(error: Exception) -> str:
    """Return an error's first line, and its last, where a child says what went wrong."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: " + " ... ".join(dict.fromkeys((lines[0], lines[-1])))
