"""A real Prefect server with PostgreSQL, a real worker, the real deployments: run, cancel, kill."""

import contextlib
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import servers

from flows.params import SampleParams
from pipelines.store import Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
MARK = "SKETCHMILL_TEST_SITE"
CLASSES = ("sun", "lightning")
# A network that learns nothing, in seconds; every process is the real one.
SMALL = ("num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8")
LIMIT_SEC = 240
GONE_SEC = 30
# Longer than the client's own retries last.
OUTAGE_SEC = 90


class Site:
    """The server, its worker and the store, as a test sees them."""

    def __init__(self, server: servers.PrefectServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.store_url = str(folder / "store")
        self.mark = f"{folder}-{os.getpid()}"
        self.environment = server.environment | {
            "SKETCHMILL_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            MARK: self.mark,
        }

    @property
    def store(self) -> Store:
        return open_store(self.store_url)

    def deploy(self) -> dict:
        from flows.deploy import Target, deploy

        values = {"STORE": self.store_url, "SOURCE": "doodles", "PRESET": "tiny"}
        return deploy(
            Target(
                file=ROOT / "infra" / "prefect.yaml",
                pool_type="process",
                pools={"cpu": 4, "gpu": 2},
                environment={f"SKETCHMILL_{name}": value for name, value in values.items()},
            )
        )

    def start(self, deployment: str, **parameters):
        """Start a run of a deployment; return its id."""
        from prefect.deployments import run_deployment

        return run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False).id

    def state(self, run_id) -> str:
        with client() as api:
            return api.read_flow_run(run_id).state.name

    def finish(self, run_id, expected: str = "Completed") -> None:
        final = {"Completed", "Failed", "Crashed", "Cancelled"}
        servers.wait_until(lambda: self.state(run_id) in final, LIMIT_SEC, f"end of {run_id}")
        with client() as api:
            state = api.read_flow_run(run_id).state
        assert state.name == expected, f"{state.name}: {state.message}"

    def processes(self, text: str) -> list[int]:
        """Return the site's processes with this in their command line."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                marked = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
                if marked and text in line:
                    found.append(int(entry.name))
        return found

    def train(self, budget_nimg: int, name: str):
        params = {
            "store": self.store_url,
            "name": name,
            "dataset": "doodles",
            "settings": [*SMALL, f"budget_nimg={budget_nimg}"],
        }
        return self.start("train/gpu", params=params)

    def wait_for_ranks(self) -> None:
        servers.wait_until(lambda: self.processes("model.train"), LIMIT_SEC, "ranks")
        time.sleep(2)  # they import torch, or train: to be ended at any moment
        assert self.processes("model.train")

    def wait_until_nothing_is_left(self) -> None:
        servers.wait_until(
            lambda: (
                not [
                    *self.processes("flows.isolated"),
                    *self.processes("model.train"),
                    *self.processes("model.agent"),
                    *self.processes("guard.py"),
                ]
            ),
            GONE_SEC,
            "the end of all processes",
        )


def client():
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if servers.postgres_programs() is None:
        pytest.skip("PostgreSQL is missing: apt install postgresql")
    folder = tmp_path_factory.mktemp("site")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(servers.postgres(folder / "postgres"))
        server = servers.PrefectServer(folder / "server", url)
        server.start()
        stack.callback(server.stop)
        made = Site(server, folder)
        stack.enter_context(settings_of(made.environment))
        made.deploy()
        stack.enter_context(servers.worker("cpu", folder, made.environment))
        made.gpu = stack.enter_context(servers.worker("gpu", folder, made.environment))
        yield made


@pytest.fixture(scope="module")
def dataset(site):
    """A dataset that the deployment build/cpu has made."""
    params = {"store": site.store_url, "classes": CLASSES, "max_per_class": 100}
    site.finish(site.start("build/cpu", params=params))
    return site.store.resolve("datasets", "doodles")


def test_deploying_again_changes_nothing(site):
    def state():
        with client() as api:
            found = api.read_deployments()
            return sorted((str(each.id), len(each.schedules)) for each in found)

    before = state()
    assert len(before) == 12
    again = site.deploy()
    assert state() == before
    assert again["pools"] == ["cpu", "gpu"]


def test_server_answers_nobody_without_the_password(site):
    url = site.environment["PREFECT_API_URL"] + "/admin/settings"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=10)


def test_schedule_fires(site):
    fire_soon_and_wait(site)


def fire_soon_and_wait(site) -> None:
    """Give housekeeping a schedule of seconds, and wait until it has run."""
    from datetime import timedelta

    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.schedules import IntervalSchedule

    make_something(site.store_url)
    with client() as api:
        housekeeping = api.read_deployment_by_name("housekeeping/housekeeping")
        schedule = IntervalSchedule(interval=timedelta(seconds=5))
        (made,) = api.create_deployment_schedules(housekeeping.id, [(schedule, True)])

        def done() -> bool:
            runs = api.read_flow_runs(
                flow_run_filter=FlowRunFilter(deployment_id={"any_": [housekeeping.id]})
            )
            completed = [run for run in runs if run.state.is_completed() and run.auto_scheduled]
            return bool(completed)

        servers.wait_until(done, LIMIT_SEC, "a scheduled run")
        api.delete_deployment_schedule(housekeeping.id, made.id)


def make_something(url: str) -> None:
    open_store(url).put("attempts/test/old/file", b"x")


def test_cancelled_training_leaves_no_process(site, dataset):
    from prefect.states import Cancelling

    run_id = site.train(10**6, "cancelled")
    site.wait_for_ranks()
    with client() as api:
        api.set_flow_run_state(run_id, Cancelling())
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Cancelled")


def test_killed_flow_leaves_no_process_and_its_retry_goes_on(site, dataset):
    run_id = site.train(64, "killed")
    site.wait_for_ranks()
    (flow,) = [pid for pid in site.processes("prefect") if "engine" in _line(pid)]
    os.kill(flow, signal.SIGKILL)
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Crashed")
    site.finish(site.train(64, "killed"))
    assert site.store.latest("models", "killed").summary["trained_nimg"] == 64


def test_killed_worker_leaves_no_process(site, dataset):
    """The run ends with its worker: nobody could cancel it any more."""
    with servers.worker("gpu", site.folder, site.environment, name="victim") as victim:
        site.gpu.send_signal(signal.SIGSTOP)  # the victim gets the run
        try:
            run_id = site.train(10**6, "orphan")
            site.wait_for_ranks()
            os.kill(victim.pid, signal.SIGKILL)
            site.wait_until_nothing_is_left()
        finally:
            site.gpu.send_signal(signal.SIGCONT)
    assert site.state(run_id) != "Completed"


def _line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_server_that_is_down_for_a_while_disturbs_no_training(site, dataset):
    run_id = site.train(200, "outage")
    site.wait_for_ranks()
    site.server.stop()
    time.sleep(OUTAGE_SEC)
    site.server.start()
    site.finish(run_id)
    assert site.store.latest("models", "outage").summary["trained_nimg"] == 200


def test_changed_class_list_starts_the_chain_for_it_alone(site, dataset):
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.filters import FlowRunFilter

    from flows.deploy import set_class_list

    chain = {
        "store": site.store_url,
        "max_per_class": 100,
        "samples_per_class": 2,
        "settings": [*SMALL, "budget_nimg=16"],
    }
    with client() as api:
        found = api.read_deployment_by_name("rebuild/class-list-changed")
        api.update_deployment(found.id, DeploymentUpdate(parameters={"chain": chain}))
    file = site.folder / "pair.txt"
    file.write_text("sun\nlightning\n")
    assert set_class_list("pair", file)
    assert not set_class_list("pair", file)

    def runs():
        with client() as api:
            chosen = FlowRunFilter(deployment_id={"any_": [found.id]})
            return api.read_flow_runs(flow_run_filter=chosen)

    servers.wait_until(runs, 60, "a run of the changed list")
    (run,) = runs()
    site.finish(run.id)
    assert site.store.latest("reports", "pair").summary["class_names"] == list(CLASSES)
    with client() as api:
        keys = {artifact.key for artifact in api.read_artifacts()}
    assert {"datasets-pair", "models-pair", "report-pair-page", "report-pair-pictures"} <= keys


def test_run_without_a_heartbeat_is_marked_as_crashed(site):
    from datetime import timedelta

    from prefect.events import emit_event
    from prefect.states import Running

    from flows.deploy import HEARTBEAT_LIMIT, ensure_zombie_automation
    from flows.housekeeping import housekeeping

    ensure_zombie_automation(timedelta(seconds=10))
    try:
        with client() as api:
            lost = api.create_flow_run(housekeeping, state=Running())
        resource = {"prefect.resource.id": f"prefect.flow-run.{lost.id}"}
        emit_event(event="prefect.flow-run.heartbeat", resource=resource)
        servers.wait_until(lambda: site.state(lost.id) == "Crashed", 90, "the automation")
    finally:
        ensure_zombie_automation(HEARTBEAT_LIMIT)


def test_ranges_of_shards_are_drawn_by_runs_of_another_pool(site, dataset):
    if not (models := list(site.store.manifests("models"))):
        site.finish(site.train(8, "drawn"))
        models = list(site.store.manifests("models"))
    sample = SampleParams(
        store=site.store_url, name="drawn", model=models[0].digest, per_class=2, rows_per_shard=2
    )
    export = {"ref": "", "rows_per_file": 2}
    params = {"sample": vars(sample), "tasks": 2, "export": export}
    places = {
        "sample": "sample-shards/gpu",
        "audit": "audit/gpu",
        "export_part": "export-part/cpu",
        "export": "export/cpu",
    }
    site.finish(site.start("bulk-export/bulk", params=params, places=places))
    samples = site.store.latest("samples", "drawn")
    assert samples.summary["num_drawings"] == 4
    assert len([entry for entry in samples.files if entry.rows]) == 2
    assert site.store.damaged(samples) == []
    exported = site.store.latest("exports", "drawn")
    assert exported is not None
    assert site.store.damaged(exported) == []
    assert {ref.role for ref in exported.inputs} == {"samples", "audit"}
    with client() as api:
        runs = api.read_flow_runs()
    parts = [run for run in runs if run.name.startswith("part ")]
    assert [run.state.name for run in parts] == ["Completed"] * 2


def test_schedule_fires_with_sqlite(tmp_path):
    server = servers.PrefectServer(tmp_path / "server", None)
    server.start()
    try:
        site = Site(server, tmp_path)
        with settings_of(site.environment):
            site.deploy()
            with servers.worker("cpu", tmp_path, site.environment):
                fire_soon_and_wait(site)
    finally:
        server.stop()
