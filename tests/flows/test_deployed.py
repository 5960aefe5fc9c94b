"""What the deployed flows are made of, without a server."""

import dataclasses
import hashlib
import json

import pytest

from flows.dashboard import result_rows
from flows.deployed import is_worth_retrying, split_ranges
from flows.exporting import ExportParams
from flows.housekeeping import is_due, sweep, verify
from flows.isolated import MISTAKE_CODE, ShardsParams, from_json, jobs, run_isolated
from flows.launcher import ChildError, DeadlineError
from flows.params import BuildParams, SampleParams, TrainParams
from pipelines.schema import FileEntry, Manifest, artifact_digest
from pipelines.store import open_store

PARAMS = [
    BuildParams(classes=("bee", "sun"), max_per_class=3),
    TrainParams(settings=("seed=1",)),
    ShardsParams(sample=SampleParams(classes=("bee",)), start=2, stop=5),
    ExportParams(ref="samples/x", formats=("hf", "png")),
]


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: type(params).__name__)
def test_parameters_survive_the_way_to_the_child(params):
    assert from_json(type(params), json.loads(json.dumps(dataclasses.asdict(params)))) == params


def test_every_stage_is_a_job():
    assert {"build", "train", "sample", "report", "export"} <= set(jobs())


def test_child_without_its_input_is_bad_input_and_not_tried_again(tmp_path):
    params = TrainParams(store=str(tmp_path), dataset="nothing")
    with pytest.raises(ValueError, match="no complete artifact 'nothing'"):
        run_isolated("train", params)


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
        (ChildError(["x"], MISTAKE_CODE, "KeyError"), False),
        (ChildError(["x"], 137, "killed"), True),
        (OSError("connection reset"), True),
    ],
    ids=["input", "deadline", "mistake", "killed", "network"],
)
def test_only_what_may_pass_is_tried_again(error, expected):
    assert is_worth_retrying(None, None, State(error)) == expected


@pytest.mark.parametrize("missing", [[], [7], list(range(5)), [0, 2, 4], list(range(1037))])
def test_ranges_cover_the_missing_shards_once_and_no_other(missing):
    ranges = split_ranges(missing)
    assert [shard for start, stop in ranges for shard in range(start, stop)] == missing
    assert len(ranges) <= 110


def test_table_of_a_result_begins_with_its_digest():
    result = {
        "digest": "d",
        "place": "/p",
        "bytes": 5,
        "summary": {
            "counts": {"train": {"bee": 2}},
            "test_bits_per_dim": 1.5,
            "bits_per_dim_by_class": {"bee": 1.4},
        },
    }
    rows = [(row["what"], row["value"]) for row in result_rows(result)]
    assert rows[0] == ("digest", "d")
    assert rows[3:] == [("train bee", 2), ("test_bits_per_dim", 1.5), ("bits_per_dim bee", 1.4)]


def test_table_of_an_export_has_its_counts_by_class_alone():
    result = {"digest": "d", "place": "/p", "bytes": 5, "summary": {"counts": {"bee": 2}}}
    assert result_rows(result)[-1] == {"what": "bee", "value": 2}


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
    assert verify.fn(str(tmp_path), 100.0) == [manifest.prefix]
    assert sweep.fn(str(tmp_path), 0.0, 3) == {
        "artifacts": 0,
        "objects": 1,
        "condemned": 0,
        "bytes": 1,
    }
    assert store.find("datasets", "cats", digest) is not None
