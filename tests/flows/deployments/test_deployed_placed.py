"""Flows whose stages run on other workers: a server, a pool gpu of one slot, a worker of one."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from sites import FINAL, ROOT, build_dataset, client, running_site

from flows.stages.sample import SampleParams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

DEPLOYMENTS = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
PLACES = {each["name"]: each.get("parameters", {}).get("places") for each in DEPLOYMENTS}
# A chain of four stages, each with a process of Prefect and one of its own.
CHAIN_SEC = 600
# Longer than the client's own retries last.
OUTAGE_SEC = 90


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with running_site(tmp_path_factory.mktemp("placed")) as made:
        yield made


@pytest.fixture(scope="module")
def dataset(site):
    return build_dataset(site)


@pytest.fixture(scope="module")
def model(site, dataset):
    """Return a model that draws noise."""
    site.finish(site.train(8, "noise"))
    return site.store.latest("models", "noise")


def rebuild(site, chain, **parameters):
    return site.start("rebuild/nightly", chain=chain, places=PLACES["nightly"], **parameters)


def test_bad_list_killed_stage_and_server_that_is_down_stop_no_other_list(site):
    """The stage that is tried again trains while the server is down, which disturbs no one."""
    lists = {"bad": ["no such class"], "good": ["sun", "bee"]}
    run_id = rebuild(site, site.chain(4000), class_lists=lists)
    site.wait_for_ranks()
    (lost,) = site.runs("train/gpu")
    os.kill(process_of(site, lost.id), signal.SIGKILL)
    servers.wait_until(lambda: len(site.runs("train/gpu")) == 2, CHAIN_SEC, "another try")
    servers.wait_until(
        lambda: not site.processes("model.training.train"), 60, "the end of the lost ranks"
    )
    site.wait_for_ranks()
    site.server.stop()
    time.sleep(OUTAGE_SEC)
    site.server.start()
    site.finish(run_id, "Failed", limit_sec=2 * CHAIN_SEC)
    assert site.store.latest("reports", "good").summary["class_names"] == ["sun", "bee"]
    assert [run.state.name for run in site.runs("train/gpu")] == ["Crashed", "Completed"]
    states = {run.name.partition(" @")[0]: run.state.name for run in site.runs("build/cpu")}
    assert states == {"build bad: no such class": "Failed", "build good: sun, bee": "Completed"}


def process_of(site, run_id) -> int:
    """Return the process of a flow run."""

    def is_it(pid: int) -> bool:
        return f"FLOW_RUN_ID={run_id}".encode() in Path(f"/proc/{pid}/environ").read_bytes()

    (found,) = [pid for pid in site.flow_processes() if is_it(pid)]
    return found


def test_bulk_export_needs_one_slot_of_the_gpu(site, model):
    """Ranges, publishing and the audit run there; export-part and export in the pool cpu."""
    sample = SampleParams(
        store=site.store_url,
        name="drawn",
        model=model.digest,
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


def test_cancelled_bulk_export_cancels_what_runs_elsewhere(site, model):
    known = {run.id for run in site.runs("sample-shards/gpu")}
    sample = SampleParams(
        store=site.store_url,
        name="endless",
        model=model.digest,
        per_class=10**5,
        rows_per_shard=10**4,
    )
    params = {"sample": vars(sample), "tasks": 2, "export": {"ref": ""}}
    run_id = site.start("bulk-export/bulk", params=params, places=PLACES["bulk"])

    def asked():
        return [run for run in site.runs("sample-shards/gpu") if run.id not in known]

    servers.wait_until(lambda: len(asked()) == 2, CHAIN_SEC, "two ranges")
    servers.wait_until(
        lambda: site.processes("flows.deployments.child sample-shards"), 120, "sampling"
    )
    site.cancel(run_id)
    servers.wait_until(lambda: {run.state.name for run in asked()} <= FINAL, 60, "their end")
    assert [run.state.name for run in asked()] == ["Cancelled"] * 2
    site.wait_until_nothing_is_left()
    site.finish(run_id, "Cancelled")
