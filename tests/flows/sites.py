"""A real Prefect server with workers and our deployments, as a test sees them."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import servers

from pipelines.store.artifacts import Store, open_store

MARK = "SKETCHMILL_TEST_SITE"
CLASSES = ("sun", "lightning")
# A network that learns nothing, in seconds; every process is the real one.
SMALL = ("num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8")
LIMIT_SEC = 400
GONE_SEC = 30
# Seldom: each question costs the server, which the runs need as well.
ASK_SEC = 2.0
# The client of a flow of the pool cpu tries a request again for some six seconds, not for a minute:
# then our own patience is asked for.
IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "2"}
FINAL = {"Completed", "Failed", "Crashed", "Cancelled"}


class Site:
    """The server, its workers and the store."""

    def __init__(self, server: servers.PrefectServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.store_url = str(folder / "store")
        self.mark = f"{folder}-{os.getpid()}"
        self.environment = server.environment | {
            "SKETCHMILL_CACHE": str(folder / "cache"),
            "SKETCHMILL_PUBLIC_URL": "http://127.0.0.1:8000/store",
            "OMP_NUM_THREADS": "1",
            MARK: self.mark,
        }

    @property
    def store(self) -> Store:
        return open_store(self.store_url)

    def deploy(self, *options: str) -> dict:
        """Run the command where no file is; return its result."""
        from flows.cli import run_command_line

        empty, said = self.folder / "empty", io.StringIO()
        empty.mkdir(exist_ok=True)
        given = ["--store", self.store_url, "--source", "doodles", "--preset", "tiny", *options]
        with contextlib.chdir(empty), contextlib.redirect_stdout(said):
            assert run_command_line(["deploy", *given, "--json"]) == 0
        assert not [*empty.iterdir()]
        return json.loads(said.getvalue().splitlines()[-1])

    def start(self, deployment: str, **parameters):
        """Start a run of a deployment; return its id."""
        from prefect.deployments import run_deployment

        return run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False).id

    def state(self, run_id) -> str:
        with client() as api:
            return api.read_flow_run(run_id).state.name

    def finish(self, run_id, expected: str = "Completed", limit_sec: float = LIMIT_SEC) -> None:
        with client() as api:

            def has_ended() -> bool:
                return api.read_flow_run(run_id).state.name in FINAL

            servers.wait_until(has_ended, limit_sec, f"end of {run_id}", poll_sec=ASK_SEC)
            state = api.read_flow_run(run_id).state
        assert state.name == expected, f"{state.name}: {state.message}"

    def cancel(self, run_id) -> None:
        from prefect.states import Cancelling

        with client() as api:
            api.set_flow_run_state(run_id, Cancelling())

    def runs(self, deployment: str) -> list:
        """Return all runs of a deployment, the oldest first."""
        from prefect.client.schemas.filters import FlowRunFilter

        with client() as api:
            found = api.read_deployment_by_name(deployment)
            chosen = FlowRunFilter(deployment_id={"any_": [found.id]})
            return sorted(api.read_flow_runs(flow_run_filter=chosen), key=lambda run: run.created)

    def subflows(self, run_id) -> list:
        """Return the runs that a run has started, the oldest first."""
        from prefect.client.schemas.filters import FlowRunFilter

        with client() as api:
            chosen = FlowRunFilter(parent_flow_run_id={"any_": [run_id]})
            return sorted(api.read_flow_runs(flow_run_filter=chosen), key=lambda run: run.created)

    def processes(self, text: str) -> list[int]:
        """Return the site's processes with this in their command line."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
                if marked and text in line:
                    found.append(int(entry.name))
        return found

    def train(self, budget_nimg: int, name: str, dataset: str):
        """Start to train in one process; return the id of the run."""
        params = {
            "store": self.store_url,
            "name": name,
            "dataset": dataset,
            "processes": 1,
            "settings": [*SMALL, f"budget_nimg={budget_nimg}"],
        }
        return self.start("train/gpu", params=params)

    def chain(self, budget_nimg: int, classes=CLASSES, name: str = "") -> dict:
        return {
            "store": self.store_url,
            "name": name,
            "classes": classes,
            "max_per_class": 100,
            "samples_per_class": 2,
            "settings": [*SMALL, f"budget_nimg={budget_nimg}"],
        }

    def wait_for_ranks(self) -> None:
        servers.wait_until(lambda: self.processes("model.training.train"), LIMIT_SEC, "ranks")
        time.sleep(2)  # they import torch, or train: to be ended at any moment
        assert self.processes("model.training.train")

    def flow_processes(self) -> list[int]:
        """Return the processes of flow runs, which workers have started."""
        return [pid for pid in self.processes("prefect") if "engine" in line_of(pid)]

    def stage_processes(self) -> set[int]:
        """Return the processes of stages, which flows have started."""
        words = (
            "flows.deployments.child",
            "model.training.train",
            "model.training.agent",
            "guard.py",
        )
        return {pid for word in words for pid in self.processes(word)}

    def wait_until_nothing_is_left(self) -> None:
        servers.wait_until(lambda: not self.stage_processes(), GONE_SEC, "the end of all processes")


@contextlib.contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Run a server on PostgreSQL and a worker of each pool; that of the GPU does one run."""
    if servers.postgres_programs() is None:
        pytest.skip("PostgreSQL is missing: apt install postgresql")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(servers.postgres(folder / "postgres"))
        server = servers.PrefectServer(folder / "server", url)
        server.start()
        stack.callback(server.stop)
        site = Site(server, folder)
        stack.enter_context(settings_of(site.environment))
        site.deploy()
        stack.enter_context(servers.worker("cpu", folder, site.environment | IMPATIENT))
        site.gpu = stack.enter_context(servers.worker("gpu", folder, site.environment, limit=1))
        yield site


def fire_soon() -> Callable[[], list]:
    """Schedule housekeeping once, in seconds; return what reads its runs."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.schedules import IntervalSchedule

    soon = datetime.now(UTC) + timedelta(seconds=5)
    schedule = IntervalSchedule(interval=timedelta(days=300), anchor_date=soon)
    with client() as api:
        housekeeping = api.read_deployment_by_name("housekeeping/housekeeping")
        api.create_deployment_schedules(housekeeping.id, [(schedule, True)])

    def runs() -> list:
        with client() as api:
            chosen = FlowRunFilter(deployment_id={"any_": [housekeeping.id]})
            return api.read_flow_runs(flow_run_filter=chosen)

    return runs


def client():
    """Return a client of the server."""
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def line_of(pid: int) -> str:
    """Return a process's command line, empty if it has ended."""
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


@contextlib.contextmanager
def settings_of(environment):
    """Let this process be a client of the server."""
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import Settings

    profile = get_settings_context().profile
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # Not temporary_settings(): within another server's settings it keeps that server's URL.
        with SettingsContext(profile=profile, settings=Settings()):
            yield
