"""Tasks of the deployed flows: a stage or part of one, here or on a worker of another pool.

Only digests pass between them, and every stage asks the store first.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run, task_run
from prefect.tasks import exponential_backoff

from flows.deployments.child import run_isolated
from flows.deployments.dashboard import (
    name_run,
    result_name,
    show_result,
    showing_progress,
    subject,
)
from flows.deployments.remote_run import LostError, Places, RemoteRunError, run_remotely
from flows.stages.prefect_flow import is_transient
from flows.stages.registry import DEPLOYED
from pipelines.processes.supervise import STOPPED_CODE, ChildError, DeadlineError, end_with_worker

_T = TypeVar("_T")
# A run's message must fit a page.
SHOWN_ERRORS = 10


def is_worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether trying again may help.

    False after a deadline, bad input, a final error or a stop by the user. A failed remote run has
    retried by itself: True only if its process was lost.
    """
    try:
        state.result()
    except ChildError as error:
        return not isinstance(error, DeadlineError) and error.code != STOPPED_CODE
    except RemoteRunError as error:
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


def _task_run_name() -> str:
    """Return the name of the task run that begins: the stage, and what it makes."""
    stage, params = (task_run.parameters[name] for name in ("stage", "params"))
    return f"{stage} {subject(params)}"


@task(name="stage", task_run_name=_task_run_name, **RETRY)
def stage_task(stage: str, params: Any, places: Places) -> dict[str, Any]:
    """Do a stage where it is placed; return what the run that asked for it needs to know."""
    end_with_worker()
    if place := getattr(places, DEPLOYED[stage].place):
        return run_remotely(place, params, places)
    with showing_progress(f"{stage} {subject(params)}", get_run_logger()) as progress:
        result = run_isolated(stage, params, deadline_sec=places.deadline_sec, progress=progress)
    if "kind" not in result:
        return result
    show_result(result, params.store)
    if flow_run.flow_name == stage:
        classes = result["summary"].get("class_names", ())
        name_run(result_name(stage, result["name"], classes, result["digest"]))
    return {key: result[key] for key in ("kind", "name", "digest")}


class SomeFailedError(RuntimeError):
    """Some of many tasks failed; the message says which and why."""


def run_window(submit: Callable[[Any], Any], asked: Sequence[Any], *, at_once: int) -> None:
    """Submit each of `asked` to Prefect, at most `at_once` at a time, and wait for all.

    Raises SomeFailedError with what every task that failed has said.
    """
    free = threading.Semaphore(at_once)
    futures = []
    for each in asked:
        free.acquire()
        future = submit(each)
        future.add_done_callback(lambda _: free.release())
        futures.append(future)
    results_of_all([future.result for future in futures])


def results_of_all(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Make every call and return the results; attempt all before raising SomeFailedError."""
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
