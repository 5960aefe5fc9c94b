"""A real Prefect server with PostgreSQL, a real worker, the real deployments: run, cancel, kill."""

import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from sites import CLASSES, Site, build_dataset, client, running_site, settings_of

from pipelines.store.artifacts import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with running_site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def dataset(site):
    return build_dataset(site)


def test_deploying_again_changes_nothing(site):
    def state():
        with client() as api:
            found = api.read_deployments()
            return sorted((str(each.id), len(each.schedules)) for each in found)

    before = state()
    assert len(before) == 13
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

        servers.wait_until(done, 240, "a scheduled run")
        api.delete_deployment_schedule(housekeeping.id, made.id)


def make_something(url: str) -> None:
    open_store(url).put("attempts/test/old/file", b"x")


def test_cancelled_training_leaves_no_process(site, dataset):
    run_id = site.train(10**6, "cancelled")
    site.wait_for_ranks()
    site.cancel(run_id)
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Cancelled")


def test_cancelled_sampling_leaves_no_process(site, dataset):
    site.finish(site.train(8, "sampled"))
    params = {"store": site.store_url, "name": "long", "model": "sampled", "per_class": 10**5}
    run_id = site.start("sample/gpu", params=params)
    servers.wait_until(lambda: site.processes("flows.deployments.child sample"), 120, "sampling")
    site.cancel(run_id)
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Cancelled")


def test_flow_that_is_told_to_stop_leaves_no_process(site, dataset):
    run_id = site.train(10**6, "stopped")
    site.wait_for_ranks()
    (flow,) = site.flow_processes()
    os.kill(flow, signal.SIGTERM)
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Crashed")


def test_killed_flow_leaves_no_process_and_its_retry_goes_on(site, dataset):
    """What is left is the checkpoint that the ranks have saved when they were told to stop."""
    run_id = site.train(800, "killed")
    known, saved = scratch(site, "curve.jsonl"), scratch(site, "checkpoints/step-*")
    servers.wait_until(lambda: scratch(site, "curve.jsonl") - known, 240, "a step")
    (flow,) = site.flow_processes()
    os.kill(flow, signal.SIGKILL)
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Crashed")
    (checkpoint,) = scratch(site, "checkpoints/step-*") - saved
    assert int(checkpoint.name.removeprefix("step-")) > 0
    site.finish(site.train(800, "killed"))
    assert site.store.latest("models", "killed").summary["trained_nimg"] == 800


def scratch(site, pattern: str) -> set[Path]:
    """Return files that training keeps in the store until it has published."""
    return set(Path(site.store_url).glob(f"attempts/train-*/{pattern}"))


def test_killed_worker_leaves_no_process_and_its_run_is_crashed(site, dataset):
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
    site.finish(run_id, "Crashed")


def test_changed_class_list_starts_the_chain_for_it_alone(site, dataset):
    from prefect.client.schemas.actions import DeploymentUpdate

    from flows.deployments.deploy import remove_class_list, set_class_list

    with client() as api:
        found = api.read_deployment_by_name("rebuild/class-list-changed")
        api.update_deployment(found.id, DeploymentUpdate(parameters={"chain": site.chain(16)}))
    file = site.folder / "pair.txt"
    file.write_text("sun\nlightning\n")
    assert set_class_list("pair", file, "doodles")
    assert not set_class_list("pair", file, "doodles")
    servers.wait_until(lambda: site.runs("rebuild/class-list-changed"), 60, "a run of the list")
    (run,) = site.runs("rebuild/class-list-changed")
    site.finish(run.id)
    report = site.store.latest("reports", "pair")
    assert report.summary["class_names"] == list(CLASSES)
    with client() as api:
        assert api.read_flow_run(run.id).name == f"rebuild pair @{report.digest[:12]}"
        keys = {artifact.key for artifact in api.read_artifacts()}
    assert {"datasets-pair", "models-pair", "report-pair-page", "report-pair-pictures"} <= keys
    remove_class_list("pair")
    with pytest.raises(ValueError, match="the server has: none"):
        remove_class_list("pair")


def test_run_without_a_heartbeat_is_marked_as_crashed(site):
    from datetime import timedelta

    from prefect.events import emit_event
    from prefect.states import Running

    from flows.deployments.deploy import HEARTBEAT_LIMIT, ensure_zombie_automation
    from flows.deployments.housekeeping import housekeeping

    ensure_zombie_automation(timedelta(seconds=10))
    try:
        with client() as api:
            lost = api.create_flow_run(housekeeping, state=Running())
        resource = {"prefect.resource.id": f"prefect.flow-run.{lost.id}"}
        emit_event(event="prefect.flow-run.heartbeat", resource=resource)
        servers.wait_until(lambda: site.state(lost.id) == "Crashed", 90, "the automation")
    finally:
        ensure_zombie_automation(HEARTBEAT_LIMIT)


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
