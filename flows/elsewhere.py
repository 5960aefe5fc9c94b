"""Run a deployment of another work pool and wait for it, as if it were a call.

Prefect does not cancel runs that a cancelled run has started; here it does. A run that is tried
again after its process was killed finds the run that it had started, by its idempotency key.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.states import Cancelling

POLL_SEC = 5.0


class ElsewhereError(RuntimeError):
    """A run of another deployment ended without success."""


def run_elsewhere(
    deployment: str, params: Any, *, key: str, deadline_sec: float | None = None
) -> UUID:
    """Run a deployment whose flow takes `params`; return the run's id once it has completed.

    key tells apart the runs that this flow run starts. Raises ElsewhereError if the run fails
    or its time is up; it is cancelled on every other way out.
    """
    context = FlowRunContext.get()
    mine = context.flow_run.id if context and context.flow_run else "none"
    run = run_deployment(
        deployment,
        parameters={"params": dataclasses.asdict(params)},
        timeout=0,
        as_subflow=False,
        idempotency_key=f"{mine}-{key}",
    )
    assert isinstance(run, FlowRun)
    with get_client(sync_client=True) as client, _cancelled_with_us(client, run.id):
        return _wait(client, run.id, deployment, deadline_sec or float("inf"))


def digest_of_run(run_id: UUID) -> str:
    """Return the digest that a run has shown as the first row of its table.

    Raises ElsewhereError if it shows none.
    """
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(type={"any_": ["table"]}),  # pyrefly: ignore
            flow_run_filter=FlowRunFilter(id={"any_": [run_id]}),  # pyrefly: ignore
        )
    for artifact in found:
        first = json.loads(str(artifact.data))[0]
        if first["what"] == "digest":
            return first["value"]
    raise ElsewhereError(f"run {run_id} has completed and shows no digest")


def _wait(client: SyncPrefectClient, run_id: UUID, deployment: str, limit_sec: float) -> UUID:
    deadline = time.monotonic() + limit_sec
    while True:
        with contextlib.suppress(OSError):  # a server that restarts does not end the run
            state = client.read_flow_run(run_id).state
            if state is not None and state.is_final():
                if state.is_completed():
                    return run_id
                raise ElsewhereError(f"{deployment}: {state.name}: {state.message}")
        if time.monotonic() > deadline:
            raise ElsewhereError(f"{deployment}: not done after {limit_sec:g} s")
        time.sleep(POLL_SEC)


@contextlib.contextmanager
def _cancelled_with_us(client: SyncPrefectClient, run_id: UUID) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_flow_run_state(run_id, Cancelling())
        raise
