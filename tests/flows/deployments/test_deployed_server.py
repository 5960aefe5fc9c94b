"""A real Prefect server with PostgreSQL, workers of both pools, the real deployments.

One site serves all tests; the worker of its pool gpu does one run at a time. A rebuild of two
lists, which a kill and an outage disturb, makes the artifacts that other tests need.
"""

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from prefect.states import Cancelled

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from sites import ASK_SEC, CLASSES, FINAL, GONE_SEC, client, fire_soon, running_site

from flows.commands.deployments import FILE
from flows.stages.sample import SampleParams
from pipelines.store.artifacts import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DEPLOYMENTS = yaml.safe_load(FILE.read_text())["deployments"]
PLACES = {each["name"]: each.get("parameters", {}).get("places") for each in DEPLOYMENTS}
# A chain of four stages, each with a process of Prefect and one of its own.
CHAIN_SEC = 600
# Longer than the client of a flow that waits tries again by itself (sites.IMPATIENT).
OUTAGE_SEC = 10
BUDGET_NIMG = 800


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with running_site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture(scope="module")
def rebuilt(site):
    """Rebuild a bad and a good list; return the checkpoints of training that was killed.

    The server stops while the next try trains. The store has all artifacts of the good list.
    """
    lists = {"bad": ["no such class"], "good": list(CLASSES)}
    chain = site.chain(BUDGET_NIMG)
    run_id = site.start("rebuild/nightly", chain=chain, places=PLACES["nightly"], class_lists=lists)
    servers.wait_until(lambda: scratch(site, "curve.jsonl"), CHAIN_SEC, "a step")
    (killed,) = site.runs("train/gpu")
    running = site.stage_processes()
    os.kill(process_of(site, killed.id), signal.SIGKILL)
    # Not until there is none: the next try has its own.
    servers.wait_until(lambda: not running & site.stage_processes(), GONE_SEC, "their end")
    saved = scratch(site, "checkpoints/step-*")
    site.wait_for_ranks()
    site.server.stop()
    time.sleep(OUTAGE_SEC)
    site.server.start()
    site.finish(run_id, "Failed", limit_sec=CHAIN_SEC)
    return saved


def process_of(site, run_id) -> int:
    """Return the process of a flow run."""

    def is_it(pid: int) -> bool:
        return f"FLOW_RUN_ID={run_id}".encode() in Path(f"/proc/{pid}/environ").read_bytes()

    (found,) = [pid for pid in site.flow_processes() if is_it(pid)]
    return found


def scratch(site, pattern: str) -> set[Path]:
    """Return files that training keeps in the store until it has published."""
    return set(Path(site.store_url).glob(f"attempts/train-*/{pattern}"))


def test_deploying_again_changes_the_times_alone_that_are_given(site):
    def state() -> tuple[list, dict]:
        with client() as api:
            found = api.read_deployments()
        times = {f.name: f.schedules[0].schedule for f in found if f.schedules}
        return sorted((str(f.id), len(f.schedules)) for f in found), times

    before, times = state()
    assert len(before) == 13
    assert {name: time.cron for name, time in times.items()} == {
        "nightly": "17 2 * * *",
        "housekeeping": "47 5 * * *",
    }
    again = site.deploy("--nightly", "5 3 * * *", "--timezone", "America/New_York")
    assert (again["pools"], again["timezone"]) == (["cpu", "gpu"], "America/New_York")
    after, times = state()
    assert after == before
    assert {(time.cron, time.timezone) for time in times.values()} == {
        ("5 3 * * *", "America/New_York"),
        ("47 5 * * *", "America/New_York"),
    }


def test_server_answers_nobody_without_the_password(site):
    url = site.environment["PREFECT_API_URL"] + "/admin/settings"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=10)


def test_schedule_fires(site):
    open_store(site.store_url).put("attempts/test/old/file", b"x")
    runs = fire_soon()

    def done() -> bool:
        return any(run.state.is_completed() and run.auto_scheduled for run in runs())

    servers.wait_until(done, 240, "a scheduled run", poll_sec=ASK_SEC)


def test_bad_list_and_server_that_is_down_stop_no_other_list(site, rebuilt):
    """The stage that is tried again trains while the server is down, which disturbs no one."""
    assert site.store.latest("reports", "good").summary["class_names"] == list(CLASSES)
    assert [run.state.name for run in site.runs("train/gpu")] == ["Crashed", "Completed"]
    states = {run.name.partition(" @")[0]: run.state.name for run in site.runs("build/cpu")}
    expected = f"build good: {', '.join(CLASSES)}"
    assert states == {"build bad: no such class": "Failed", expected: "Completed"}


def test_killed_flow_leaves_no_process_and_its_retry_goes_on(site, rebuilt):
    """What is left is the checkpoint that the ranks have saved when they were told to stop."""
    (checkpoint,) = rebuilt
    assert int(checkpoint.name.removeprefix("step-")) > 0
    assert site.store.latest("models", "good").summary["trained_nimg"] == BUDGET_NIMG


def test_training_of_a_killed_flow_goes_on_until_that_is_cancelled_and_leaves_no_process(
    site, rebuilt
):
    """The stages are subflows: the server cancels them with the run, whose process is gone."""
    lists = {"good": list(CLASSES)}
    chain = site.chain(10**6)
    run_id = site.start("rebuild/nightly", chain=chain, places=PLACES["nightly"], class_lists=lists)
    site.wait_for_ranks()
    os.kill(process_of(site, run_id), signal.SIGKILL)
    site.finish(run_id, "Crashed")
    build, train = site.subflows(run_id)
    assert (build.state.name, train.state.name) == ("Completed", "Running")
    assert site.processes("model.training.train")
    with client() as api:
        api.set_flow_run_state(run_id, Cancelled())
    site.wait_until_nothing_is_left()
    site.finish(train.id, "Cancelled")


def test_killed_worker_leaves_no_process_and_its_run_is_crashed(site, rebuilt):
    """The run ends with its worker: nobody could cancel it any more."""
    with servers.worker("gpu", site.folder, site.environment, name="victim") as victim:
        site.gpu.send_signal(signal.SIGSTOP)  # the victim gets the run
        try:
            run_id = site.train(10**6, "orphan", "good")
            site.wait_for_ranks()
            os.kill(victim.pid, signal.SIGKILL)
            site.wait_until_nothing_is_left()
        finally:
            site.gpu.send_signal(signal.SIGCONT)
    site.finish(run_id, "Crashed")


def test_changed_class_list_starts_the_chain_for_it_alone(site, rebuilt):
    """The store has what the chain makes."""
    from prefect.client.schemas.actions import DeploymentUpdate

    from flows.deployments.deploy import remove_class_list, set_class_list

    chain = {"chain": site.chain(BUDGET_NIMG)}
    with client() as api:
        found = api.read_deployment_by_name("rebuild/class-list-changed")
        api.update_deployment(found.id, DeploymentUpdate(parameters=chain))
    file = site.folder / "pair.txt"
    file.write_text("".join(f"{name}\n" for name in CLASSES))
    assert set_class_list("good", file, "doodles")
    assert not set_class_list("good", file, "doodles")

    def runs() -> list:
        return site.runs("rebuild/class-list-changed")

    servers.wait_until(runs, 60, "a run of the list", poll_sec=ASK_SEC)
    (run,) = runs()
    site.finish(run.id)
    report = site.store.latest("reports", "good")
    with client() as api:
        assert api.read_flow_run(run.id).name == f"rebuild good @{report.digest[:12]}"
        keys = {shown.key for shown in api.read_artifacts() if shown.flow_run_id == run.id}
    assert {"datasets-good", "models-good", "report-good-page", "report-good-pictures"} <= keys
    remove_class_list("good")
    with pytest.raises(ValueError, match="the server has: none"):
        remove_class_list("good")


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
        servers.wait_until(
            lambda: site.state(lost.id) == "Crashed", 90, "the automation", poll_sec=ASK_SEC
        )
    finally:
        ensure_zombie_automation(HEARTBEAT_LIMIT)


def test_bulk_export_needs_one_slot_of_the_gpu(site, rebuilt):
    """Ranges, publishing and the audit run there; export-part and export in the pool cpu."""
    sample = SampleParams(
        store=site.store_url,
        name="drawn",
        model="good",
        per_class=2,
        rows_per_shard=2,
    )
    params = {"sample": vars(sample), "tasks": 2, "export": {"ref": "", "rows_per_file": 2}}
    run_id = site.start("bulk-export/bulk", params=params, places=PLACES["bulk"])
    site.finish(run_id, limit_sec=CHAIN_SEC)
    samples = site.store.latest("samples", "drawn")
    assert samples.summary["num_drawings"] == 4
    assert len([entry for entry in samples.files if entry.rows]) == 2
    assert site.store.damaged(samples) == []
    exported = site.store.latest("exports", "drawn")
    assert exported is not None
    assert site.store.damaged(exported) == []
    assert {ref.role for ref in exported.inputs} == {"samples", "audit"}
    for deployment in ("sample-shards/gpu", "export-part/cpu"):
        assert [run.state.name for run in site.runs(deployment)] == ["Completed"] * 2, deployment
    name = f"bulk-export drawn @{samples.digest[:12]} @{exported.digest[:12]}"
    with client() as api:
        assert api.read_flow_run(run_id).name == name


def test_cancelled_bulk_export_cancels_what_runs_elsewhere(site, rebuilt):
    known = {run.id for run in site.runs("sample-shards/gpu")}
    sample = SampleParams(
        store=site.store_url,
        name="endless",
        model="good",
        per_class=10**5,
        rows_per_shard=10**4,
    )
    params = {"sample": vars(sample), "tasks": 2, "export": {"ref": ""}}
    run_id = site.start("bulk-export/bulk", params=params, places=PLACES["bulk"])

    def asked():
        return [run for run in site.runs("sample-shards/gpu") if run.id not in known]

    servers.wait_until(lambda: len(asked()) == 2, CHAIN_SEC, "two ranges", poll_sec=ASK_SEC)
    servers.wait_until(
        lambda: site.processes("flows.deployments.child sample-shards"), 120, "sampling"
    )
    site.cancel(run_id)

    def have_ended() -> bool:
        return {run.state.name for run in asked()} <= FINAL

    servers.wait_until(have_ended, 60, "their end", poll_sec=ASK_SEC)
    assert [run.state.name for run in asked()] == ["Cancelled"] * 2
    assert {run.id for run in asked()} < {run.id for run in site.subflows(run_id)}
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Cancelled")
