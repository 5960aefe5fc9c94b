"""Run a deployment in another work pool and wait for its result, as a function call does.

The key of such a run is made of the run that asks, the deployment, the parameters and a number. A
process that asks again, after it was killed or its answer was lost, finds the run it has started,
and starts the next only if that one has ended without success. The result comes back as JSON in the
message of the run's last state.

Such a run is linked to the run that asks for it as a subflow: a task run of the latter, without
work of its own, stands for it, as prefect.deployments.run_deployment has it. Prefect shows it
below that run. Its server cancels the subflows of a run that is Cancelled, within half a minute
and whether or not a process of that run is left; this module does it at once, from any waiting
thread, and for a process that is told to stop. A server that does not answer neither ends nor
cancels anything.

Places say where the stages of a deployed flow run, and how long each may take. A place is a
deployment such as "train/gpu"; an empty one means here. prefect.yaml places every stage,
because the image with torch has no Beam and the other way round.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import FlowRun, State, TaskRunResult
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Cancelling, Completed, Pending
from prefect.tasks import Task

from flows.stages.registry import DEPLOYED
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import digest_of, slug
from pipelines.store.printable import shown

POLL_SEC = 5.0
# A worker says every 30 s that it is there.
WORKER_POLL_SEC = 30.0
# Grace period after a run's deadline, at which the run stops itself.
LATE_SEC = 900.0
_BUSY = (408, 429)
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_lock = threading.Lock()


_Placed = dataclasses.make_dataclass(
    "_Placed",
    [(stage.place, str, "") for stage in DEPLOYED.values()],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True, kw_only=True)
class Places(_Placed):
    """Deployments that do the stages, such as "build/cpu"; empty: here.

    deadline_hours     of one stage's work, its time in a queue not counted; it is stopped then
                       and resumes when the flow is run again
    no_worker_minutes  how long a stage waits in a work pool without an online worker before it
                       fails; 0: forever
    """

    deadline_hours: float = 24.0
    no_worker_minutes: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError for a deadline that no stage could keep."""
        if self.deadline_hours <= 0:
            raise ValueError(f"deadline_hours must be positive, found {self.deadline_hours}")

    @property
    def deadline_sec(self) -> float:
        """The deadline of one stage in seconds."""
        return self.deadline_hours * 3600


HERE = Places()


class RemoteRunError(RuntimeError):
    """A run of another deployment failed after its own retries."""


class LostError(RemoteRunError):
    """A run crashed: another run may succeed."""


class GivenUpError(RemoteRunError):
    """The wait for a run ended: its deadline passed, or no worker took it."""


class Waiting:
    """A run that a thread has started and waits for."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self.run_id: UUID | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """Tell the thread to give up."""
        self._stop.set()

    def pause(self) -> None:
        """Wait a moment; raise GivenUpError if told to."""
        if self._stop.wait(POLL_SEC):
            raise GivenUpError("the run that has asked for it is being stopped")


_waiting: set[Waiting] = set()


def ended_with(result: Mapping[str, Any]) -> State[Any]:
    """Return the last state of a flow: it says the result to the run that has asked for it."""
    return Completed(data=dict(result), message=json.dumps(result, sort_keys=True))


def run_remotely(deployment: str, params: Any, places: Places) -> dict[str, Any]:
    """Run a deployment whose flow takes `params` and `places`; return what it ended with.

    Raises LostError if the run crashed, GivenUpError if its time was up or its work pool has no
    worker, RemoteRunError if it failed or was cancelled. It is cancelled if we are.
    """
    with get_client(sync_client=True) as client, _cancelled_with_us(client) as waiting:
        run = _start(client, deployment, params, places, waiting)
        return _result(_follow(client, run.id, deployment, places, waiting), deployment)


@contextlib.contextmanager
def cancelling_runs() -> Iterator[None]:
    """Cancel the runs that all threads wait for when the block is left by an exception.

    A cancellation raises in the main thread alone.
    """
    try:
        yield
    except BaseException:
        with _lock:
            left = list(_waiting)
        for each in left:
            each.stop()
        if ids := [each.run_id for each in left if each.run_id]:
            with contextlib.suppress(Exception), get_client(sync_client=True) as client:
                for run_id in ids:
                    _cancel(client, run_id)
        raise


def _start(
    client: SyncPrefectClient, deployment: str, params: Any, places: Places, waiting: Waiting
) -> FlowRun:
    """Return the run that we have started before and that may succeed or has, else a new one."""
    ask = _patiently(places, waiting)
    found = ask(lambda: client.read_deployment_by_name(deployment))
    values = dataclasses.asdict(params)
    key = f"{_asking_run()}-{deployment}-{digest_of(values)}"
    limits = {
        "deadline_hours": places.deadline_hours,
        "no_worker_minutes": places.no_worker_minutes,
    }
    for attempt in itertools.count(1):
        run = ask(
            lambda number=attempt: client.create_flow_run_from_deployment(
                found.id,
                parameters={"params": values, "places": limits},
                idempotency_key=f"{key}-attempt-{number}",
                parent_task_run_id=_link(client, deployment, f"{key}-attempt-{number}"),
            )
        )
        if not _is_over(run.state) and not _is_gone(run.state, params, deployment):
            waiting.run_id = run.id
            return run
    raise AssertionError


def _follow(
    client: SyncPrefectClient, run_id: UUID, deployment: str, places: Places, waiting: Waiting
) -> State[Any]:
    """Wait for the last state of a run; raise GivenUpError if that takes too long."""
    ask = _patiently(places, waiting)
    absence = _Absence(client, deployment, places)
    while True:
        run = ask(lambda: client.read_flow_run(run_id))
        if run.state is not None and run.state.is_final():
            return run.state
        if run.estimated_run_time.total_seconds() > places.deadline_sec + LATE_SEC:
            raise GivenUpError(
                f"{deployment}: still running, and its deadline was {places.deadline_hours:g} h"
            )
        ask(lambda seen=run: absence.check(seen))
        waiting.pause()


class _Absence:
    """Notices that a run waits in a work pool without a worker."""

    def __init__(self, client: SyncPrefectClient, deployment: str, places: Places) -> None:
        self._client, self._deployment = client, deployment
        self._limit_sec = places.no_worker_minutes * 60
        self._absent_sec, self._last = 0.0, time.monotonic()

    def check(self, run: FlowRun) -> None:
        """Raise GivenUpError if there was no worker for too long."""
        passed_sec = time.monotonic() - self._last
        if not self._limit_sec or not run.work_pool_name or passed_sec < WORKER_POLL_SEC:
            return
        self._last += passed_sec
        if not _is_waiting(run) or self._is_online(run.work_pool_name):
            self._absent_sec = 0.0
            return
        # Workers that come back after the server did need a moment to say so.
        self._absent_sec += min(passed_sec, 2 * WORKER_POLL_SEC)
        if self._absent_sec >= self._limit_sec:
            raise GivenUpError(
                f"{self._deployment}: no online worker in work pool {run.work_pool_name!r} for "
                f"{self._limit_sec / 60:g} minutes: start one with "
                f"`prefect worker start --pool {run.work_pool_name}` and run this again"
            )

    def _is_online(self, pool: str) -> bool:
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        return bool(self._client.read_workers_for_work_pool(pool, worker_filter=online, limit=1))


def _patiently(places: Places, waiting: Waiting) -> Callable[[Callable[[], _T]], _T]:
    """Return a function that retries a request until the stage's deadline."""

    def ask(question: Callable[[], _T]) -> _T:
        limit = time.monotonic() + places.deadline_sec
        while True:
            try:
                return question()
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if not _may_pass(error) or time.monotonic() > limit:
                    raise
                _log.info("Prefect's server does not answer: %s", shown(str(error)))
            waiting.pause()

    return ask


def _may_pass(error: httpx.TransportError | httpx.HTTPStatusError) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in _BUSY
    return True


def _is_waiting(run: FlowRun) -> bool:
    return run.state is None or run.state.is_scheduled() or run.state.is_pending()


def _is_over(state: State[Any] | None) -> bool:
    """Return whether a run that we find has ended, or is about to end, without success."""
    if state is None:
        return False
    return state.is_cancelling() or (state.is_final() and not state.is_completed())


def _is_gone(state: State[Any] | None, params: Any, deployment: str) -> bool:
    """Return whether a run has completed whose artifact has left the store since."""
    if state is None or not state.is_completed():
        return False
    made = _result(state, deployment)
    if "kind" not in made:
        return False
    return open_store(params.store).find(made["kind"], made["name"], made["digest"]) is None


def _result(state: State[Any], deployment: str) -> dict[str, Any]:
    told = f"{deployment}: {state.name}: {state.message}"
    if state.is_crashed():
        raise LostError(told)
    if not state.is_completed():
        raise RemoteRunError(told)
    try:
        return json.loads(state.message or "")
    except ValueError:
        raise RemoteRunError(f"{told}: expected the flow to end with its result") from None


def _asking_run() -> UUID | None:
    context = FlowRunContext.get()
    return context.flow_run.id if context and context.flow_run else None


def _link(client: SyncPrefectClient, deployment: str, key: str) -> UUID | None:
    """Return the task run of our flow run that stands for a run of a deployment; None without one.

    The server answers with the same task run when a key is asked for again.
    """
    if (run_id := _asking_run()) is None:
        return None
    stand_in = Task(name=deployment, fn=lambda: None)
    stand_in.task_key = f"run_deployment.{slug(deployment)}"
    asking = TaskRunContext.get()
    return client.create_task_run(
        stand_in,
        flow_run_id=run_id,
        dynamic_key=key,
        name=deployment,
        state=Pending(),
        task_inputs={"__parents__": [TaskRunResult(id=asking.task_run.id)] if asking else []},
    ).id


@contextlib.contextmanager
def _cancelled_with_us(client: SyncPrefectClient) -> Iterator[Waiting]:
    """Cancel the run if the waiting process stops; not if only the server is unreachable."""
    waiting = Waiting()
    with _lock:
        _waiting.add(waiting)
    try:
        yield waiting
    except BaseException as error:
        is_needed = isinstance(error, Exception) and not isinstance(error, GivenUpError)
        if waiting.run_id and not is_needed:
            with contextlib.suppress(Exception):
                _cancel(client, waiting.run_id)
        raise
    finally:
        with _lock:
            _waiting.discard(waiting)


def _cancel(client: SyncPrefectClient, run_id: UUID) -> None:
    client.set_flow_run_state(run_id, Cancelling())
