"""What the deployed flows are made of, without a server."""

import dataclasses
import hashlib
import io
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.deployments import child
from flows.deployments import flows as deployed
from flows.deployments.child import from_json, run_isolated
from flows.deployments.housekeeping import is_due, sweep, verify
from flows.deployments.remote_run import Places
from flows.deployments.tasks import SomeFailedError, is_worth_retrying, run_window
from flows.stages.build import BuildParams
from flows.stages.chain import BulkParams
from flows.stages.export import ExportParams
from flows.stages.sample import MAX_RANGES, SampleParams, ranges_of, sample_spec
from flows.stages.train import TrainParams
from pipelines.processes.supervise import ChildError, DeadlineError
from pipelines.store.artifacts import open_store
from pipelines.store.errors import BusyError, FinalError
from pipelines.store.failures import failure_from_json
from pipelines.store.manifest import FileEntry, Manifest, artifact_digest

PARAMS = [
    BuildParams(classes=("bee", "sun"), max_per_class=3),
    TrainParams(settings=("seed=1",)),
    SampleParams(classes=("bee",), shards="2-4"),
    ExportParams(ref="samples/x", formats=("hf", "png")),
]


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: type(params).__name__)
def test_parameters_survive_the_way_to_the_child(params):
    assert from_json(type(params), json.loads(json.dumps(dataclasses.asdict(params)))) == params


def test_child_without_its_input_is_bad_input_and_not_tried_again(tmp_path):
    params = TrainParams(store=str(tmp_path), dataset="nothing")
    with pytest.raises(ValueError, match="no complete artifact 'nothing'"):
        run_isolated("train", params)


def test_mistake_in_a_child_is_final_and_says_where_it_is(monkeypatch, capsys):
    def fail(params):
        raise KeyError(params.name)

    monkeypatch.setitem(child.DEPLOYED, "train", SimpleNamespace(params=TrainParams, run=fail))
    params = json.dumps(dataclasses.asdict(TrainParams(name="pets")))
    monkeypatch.setattr("sys.stdin", io.StringIO(params))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert child.main(["train"]) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    (line,) = capsys.readouterr().out.splitlines()
    error = failure_from_json(json.loads(line)["failure"], FinalError)
    assert (type(error), str(error)) == (FinalError, "'pets'")
    assert "raise KeyError(params.name)" in error.__notes__[0]


def test_forms_offer_the_choices_that_a_spec_has():
    properties = parameter_schema(deployed.build).definitions["BuildParams"]["properties"]
    assert properties["layout"]["enum"] == ["packed", "linked"]
    assert properties["on_bad_row"]["enum"] == ["fail", "skip"]


def test_no_form_demands_what_its_flow_ignores():
    definitions = parameter_schema(deployed.bulk_export).definitions
    assert "required" not in definitions["BulkParams"]
    assert "required" not in definitions["ExportOptions"]
    assert not {"ref", "name", "store"} & set(definitions["ExportOptions"]["properties"])
    assert parameter_schema(deployed.export).definitions["ExportParams"]["required"] == ["ref"]


def test_parameters_of_a_bulk_export_saved_by_an_earlier_version_are_understood():
    export = {"ref": "", "name": "x", "store": "y", "rows_per_file": 2}
    given = deployed.bulk_export.validate_parameters({"params": {"tasks": 3, "export": export}})
    assert given["params"].export.rows_per_file == 2
    with pytest.raises(ParameterTypeError, match="reff"):
        deployed.bulk_export.validate_parameters({"params": {"export": {"reff": ""}}})


class State:
    def __init__(self, error):
        self.error = error

    def result(self):
        if self.error:
            raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("unknown class"), False),
        (DeadlineError(["x"], 124, ""), False),
        (FinalError("training diverges"), False),
        (BusyError("another publisher is at work"), True),
        (ChildError(["x"], 143, "told to stop"), False),
        (ChildError(["x"], 137, "killed"), True),
        (OSError("connection reset"), True),
    ],
    ids=[
        "input",
        "deadline",
        "final",
        "busy",
        "stopped",
        "killed",
        "network",
    ],
)
def test_only_what_may_pass_is_tried_again(error, expected):
    assert is_worth_retrying(None, None, State(error)) == expected


@pytest.mark.parametrize(
    ("missing", "num_shards"),
    [([], 9), ([7], 8), (range(5), 5), ([0, 2, 4], 5), (range(0, 4000, 2), 4000), ([4001], 4003)],
    ids=["none", "last", "all", "some", "every second", "odd"],
)
def test_ranges_hold_every_missing_shard_once_and_are_few(missing, num_shards):
    ranges = ranges_of(missing, num_shards)
    covered = [shard for start, stop in ranges for shard in range(start, stop)]
    assert len(covered) == len(set(covered))
    assert set(missing) <= set(covered) <= set(range(num_shards))
    assert len(ranges) <= MAX_RANGES


def test_ranges_stay_where_they_are_when_some_shards_are_drawn():
    before = ranges_of(range(4000), 4000)
    assert set(ranges_of(range(1234, 4000, 7), 4000)) < set(before)


def submitting(work, workers: int):
    """Return what submits to threads as Prefect does: each call says what it returns or raises."""
    return partial(ThreadPoolExecutor(workers).submit, work)


def test_window_is_always_full_and_never_overfull():
    running, most, blocked = set(), [], threading.Event()

    def work(each):
        running.add(each)
        most.append(len(running))
        if each == 0:  # the first is slow: the others must not wait for it
            assert blocked.wait(20)
        if each == 9:
            blocked.set()
        running.discard(each)

    run_window(submitting(work, 5), range(10), at_once=3)
    assert max(most) <= 3


def test_every_range_is_tried_and_all_failures_are_told():
    tried = []

    def work(each):
        tried.append(each)
        if each % 2:
            raise OSError(f"first line of {each}\nlast line of {each}")

    with pytest.raises(SomeFailedError, match=r"2 of 5 failed") as caught:
        run_window(submitting(work, 1), range(5), at_once=1)
    assert tried == list(range(5))
    for text in ("OSError: first line of 1 ... last line of 1", "last line of 3"):
        assert text in str(caught.value)


def test_deadline_that_no_stage_can_keep_is_refused():
    with pytest.raises(ValueError, match="deadline_hours must be positive, found 0"):
        Places(deadline_hours=0)


def test_counts_and_classes_are_refused_together():
    model = Manifest(
        kind="models",
        name="net",
        digest="1" * 64,
        spec={},
        inputs=(),
        files=(),
        summary={"class_names": ["bee"]},
    )
    with pytest.raises(ValueError, match="either --classes or --counts"):
        sample_spec(SampleParams(classes=("bee",), counts="counts.csv"), model)


def test_number_of_tasks_that_draws_nothing_is_refused():
    with pytest.raises(ValueError, match="tasks must be 1 or more, found 0"):
        BulkParams(tasks=0)
    with pytest.raises(ValueError, match="leave shards empty"):
        BulkParams(sample=SampleParams(shards="0"))


@pytest.mark.parametrize("percent", [1.0, 5.0, 30.0, 100.0])
def test_housekeeping_comes_to_every_artifact_in_turn(percent):
    days = -int(-100 // percent)
    for number in range(0, 2**32, 2**28 - 3):
        digest = f"{number:08x}" + "0" * 56
        assert any(is_due(digest, percent, day) for day in range(days)), digest


def test_housekeeping_names_what_is_damaged(tmp_path):
    store = open_store(str(tmp_path))
    file = FileEntry(path="a", bytes=1, sha256=hashlib.sha256(b"x").hexdigest())
    spec = {"seed": 0}
    digest = artifact_digest("datasets", spec, ())
    manifest = Manifest(kind="datasets", name="cats", digest=digest, spec=spec, files=(file,))
    store.put(f"{manifest.prefix}/a", b"x")
    store.publish(manifest)
    store.put(f"{manifest.prefix}/a", b"y")
    store.put("attempts/build/old/part", b"x")
    store.put("attempts/build/new/part", b"x")
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / "attempts/build/old/part", (two_hours_ago, two_hours_ago))
    broken = f"models/net/{digest}/manifest.json"
    store.put(broken, b"{")
    assert verify.fn(str(tmp_path), 100.0) == [broken, manifest.prefix]
    store.delete(broken)
    assert sweep.fn(str(tmp_path), 0.0, 3) == {
        "artifacts": 0,
        "objects": 1,
        "condemned": 0,
        "bytes": 1,
    }
    assert store.find("datasets", "cats", digest) is not None
