"""Apply prefect.yaml to a Prefect server; idempotent.

    work pools     cpu and gpu, of the type that the workers have, with a limit of runs at once
    deployments    with schedules and triggers, by `prefect deploy` from the file
    automation     runs whose heartbeat has ended become Crashed, where the server cannot see that
                   a host was lost (https://docs.prefect.io/v3/advanced/detect-zombie-flows)
    class lists    a variable; a changed list is announced by an event

Limits are those of work pools and queues, which count runs by their state. Concurrency limits of
deployments are leases: a healthy run is ended when its lease cannot be renewed in time
(PrefectHQ/prefect issue 18839).
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.variables import Variable

from flows.deployments.flows import CLASS_LISTS
from flows.options import read_class_list
from pipelines.processes.progress import doing
from pipelines.store.manifest import slug

ZOMBIES = "sketchmill: runs without a heartbeat have crashed"
# Ten heartbeats of three minutes, Prefect's default. While its server is down none arrives: with
# the three that its manual shows, an outage of over six minutes would crash every healthy run.
HEARTBEAT_LIMIT = timedelta(seconds=1800)
# A server on SQLite that is busy fails a request now and then; applying the file again is harmless.
DEPLOY_ATTEMPTS = 3
# Queues of the pool cpu, one run at a time in each; the first two wait there for their stages.
WAITING_QUEUES = ("chains", "bulk")
QUEUES = (*WAITING_QUEUES, "housekeeping")
# Leaves a slot for a stage while a run of each queue waits.
MIN_CPU = len(WAITING_QUEUES) + 1
CHANGED_EVENT = "sketchmill.class-list.changed"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to deploy, for which workers.

    file          the deployments
    pool_type     process, docker or kubernetes
    pools         runs at once by work pool; cpu needs MIN_CPU, for flows wait there for stages
    environment   values of the $SKETCHMILL_ variables in the file
    """

    file: Path
    pool_type: str
    pools: Mapping[str, int]
    environment: Mapping[str, str]


def deploy(target: Target) -> dict[str, Any]:
    """Apply everything but class lists; return what is there now.

    Raises ValueError if no server is named, RuntimeError if it does not answer.
    """
    with doing("deploy", "waiting for the Prefect server"):
        return _deploy(target)


def _deploy(target: Target) -> dict[str, Any]:
    require_server()
    with get_client(sync_client=True) as client:
        for name, limit in target.pools.items():
            ensure_pool(client, name, target.pool_type, limit)
        for name in QUEUES:
            ensure_queue(client, "cpu", name, 1)
    apply_file(target)
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        names = [f"{flows[each.flow_id]}/{each.name}" for each in client.read_deployments()]
    return {
        "pools": sorted(target.pools),
        "deployments": sorted(names),
        "automation": ensure_zombie_automation(HEARTBEAT_LIMIT),
    }


def require_server() -> None:
    """Raise unless a server is configured and responds; Prefect would start a temporary one."""
    url = get_current_settings().api.url
    if not url:
        raise ValueError(
            "PREFECT_API_URL names no server: start one with `prefect server start`, then set it to "
            "http://127.0.0.1:4200/api"
        )
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise RuntimeError(f"no Prefect server answers at {url}: {error}")


def ensure_pool(client: SyncPrefectClient, name: str, pool_type: str, limit: int) -> None:
    """Create a work pool or set its limit; raise ValueError if it is of another type."""
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, concurrency_limit=limit))
        return
    if found.type != pool_type:
        raise ValueError(
            f"work pool {name!r} is of type {found.type!r}, not {pool_type!r}: "
            f"`prefect work-pool delete {name}` and deploy again"
        )
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def ensure_queue(client: SyncPrefectClient, pool: str, name: str, limit: int) -> None:
    """Create a queue of a work pool or set its limit of runs at once."""
    try:
        found = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        found = client.create_work_queue(name, work_pool_name=pool)
    client.update_work_queue(found.id, concurrency_limit=limit)


def apply_file(target: Target) -> None:
    """Apply the deployments of the file; raise RuntimeError with Prefect's words if it cannot."""
    if not target.file.is_file():
        raise FileNotFoundError(f"{target.file} is missing: name the file of deployments")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    for attempt in range(DEPLOY_ATTEMPTS):
        with doing("deploy", f"prefect deploy applies {target.file}"):
            done = subprocess.run(
                [*command, "--prefect-file", str(target.file)],
                env=os.environ | dict(target.environment),
                capture_output=True,
                text=True,
                check=False,
            )
        if not done.returncode:
            return
        time.sleep(2.0**attempt)
    raise RuntimeError(f"prefect deploy failed:\n{done.stdout}{done.stderr}")


def ensure_zombie_automation(within: timedelta) -> str:
    """Create or update the automation that marks silent runs as crashed; return its name."""
    wanted = Automation(
        name=ZOMBIES,
        description="A host or a container was lost: no process is left to say how the run ended.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                *(f"prefect.flow-run.{state}" for state in _ENDS),
            },
            match={"prefect.resource.id": "prefect.flow-run.*"},  # pyrefly: ignore
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"No heartbeat for {within.total_seconds():g} s"
            )
        ],
    )
    try:
        found = cast(Automation, Automation.read(name=ZOMBIES))  # async only in a loop
    except ValueError:
        wanted.create()
        return ZOMBIES
    found.trigger, found.actions = wanted.trigger, wanted.actions
    found.description, found.enabled = wanted.description, True
    found.update()
    return ZOMBIES


@doing("deploy", "setting the class lists")
def set_class_list(name: str, file: Path, source: str) -> bool:
    """Set a class list of the server from a file; return whether it has changed.

    A change is announced by an event, which starts the deployment class-list-changed. Raises
    ValueError for classes that the source cannot have.
    """
    classes = read_class_list(file, source)
    lists = _class_lists()
    if lists.get(slug(name)) == classes:
        return False
    Variable.set(CLASS_LISTS, lists | {slug(name): classes}, overwrite=True)
    emit_event(
        event=CHANGED_EVENT,
        resource={"prefect.resource.id": f"sketchmill.class-list.{slug(name)}"},
        payload={"name": slug(name), "num_classes": len(classes)},
    )
    return True


@doing("deploy", "setting the class lists")
def remove_class_list(name: str) -> None:
    """Remove a class list of the server; its artifacts stay in the store.

    Raises ValueError if there is none of that name.
    """
    lists = _class_lists()
    if lists.pop(slug(name), None) is None:
        raise ValueError(f"no class list {name!r}; the server has: {', '.join(lists) or 'none'}")
    Variable.set(CLASS_LISTS, lists, overwrite=True)


def _class_lists() -> dict[str, Any]:
    stored = Variable.get(CLASS_LISTS)
    return dict(stored) if isinstance(stored, dict) else {}


_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
