"""`sketchmill train`: its options reach torchrun and the run untouched, mistakes are named."""

import json
import socket
from pathlib import Path

import pytest

from flows.cli import run_command_line
from flows.stages.train import TrainParams, rendezvous_options
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest, artifact_digest


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (TrainParams(), []),
        (
            TrainParams(nodes="2", rendezvous="host:29500"),
            ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=host:29500"],
        ),
        (
            TrainParams(nodes="2", rendezvous="host:29500", node_rank=0),
            ["--nnodes=2", "--rdzv-backend=static", "--node-rank=0", "--rdzv-endpoint=host:29500"],
        ),
        (
            TrainParams(
                nodes="1:4",
                rendezvous="10.0.0.1:29500",
                rendezvous_id="night",
                rendezvous_conf="is_host=1,timeout=60",
                local_address="10.0.0.1",
            ),
            [
                "--nnodes=1:4",
                "--rdzv-backend=c10d",
                "--rdzv-endpoint=10.0.0.1:29500",
                "--rdzv-id=night",
                "--rdzv-conf=is_host=1,timeout=60",
                "--local-addr=10.0.0.1",
            ],
        ),
    ],
)
def test_rendezvous_is_what_torchrun_takes(params: TrainParams, expected: list[str]) -> None:
    assert rendezvous_options(params) == expected


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (TrainParams(nodes="2"), "need --rdzv-endpoint"),
        (TrainParams(nodes="two"), "a number of machines or MIN:MAX"),
        (TrainParams(nodes="0"), "a number of machines or MIN:MAX"),
        (TrainParams(rendezvous="host:1"), "--rdzv-endpoint is for several machines"),
        (TrainParams(node_rank=0), "--node-rank is for several machines"),
        (TrainParams(nodes="2", rendezvous="a:1", node_rank=2), "--node-rank 2: expected 0 to 1"),
        (TrainParams(nodes="2", rendezvous="a:1", node_rank=-1), "--node-rank -1: expected 0 to 1"),
    ],
)
def test_rendezvous_that_cannot_be_is_explained(params: TrainParams, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rendezvous_options(params)


def test_options_of_the_command_line_reach_the_run(tmp_path: Path, capsys) -> None:
    store = open_store(str(tmp_path / "store"))
    summary = {"class_names": ["bee", "sun"], "image_shape": [28, 28]}
    digest = artifact_digest("datasets", {}, ())
    store.publish(Manifest(kind="datasets", name="d", digest=digest, spec={}, summary=summary))
    given = ["--store", store.url, "--dry-run", "--json", "--device", "cpu", "--grids", "2"]
    given += ["--work-dir", str(tmp_path), "--checkpoint-interval", "5", "--micro-batch", "4"]
    given += ["--compile", "--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", "host:1"]
    given += ["--rdzv-id", "x", "--rdzv-conf", "is_host=0", "--local-addr", "10.0.0.2"]
    assert run_command_line(["train", "--dataset", "d", *given]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"work_dir": str(tmp_path), "device": "cpu", "num_grids": 2, "compile": True}
    expected |= {"checkpoint_interval_sec": 5.0, "micro_batch_size": 4}
    assert expected.items() <= plan["options"].items()
    assert plan["torchrun"] == [
        "--nnodes=2",
        "--rdzv-backend=static",
        "--node-rank=1",
        "--rdzv-endpoint=host:1",
        "--rdzv-id=x",
        "--rdzv-conf=is_host=0",
        "--local-addr=10.0.0.2",
    ]


@pytest.mark.parametrize(
    "given", [["--device", "tpu"], ["--grids", "some"], ["--checkpoint-interval", "soon"]]
)
def test_option_of_another_type_is_bad_usage(given: list[str]) -> None:
    assert run_command_line(["train", "--dataset", "d", *given]) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("by_rank", [False, True], ids=["counted", "ranked"])
def test_machines_that_do_not_meet_name_the_place(tmp_path: Path, monkeypatch, capsys, by_rank):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    at = ["--store", str(tmp_path / "store"), "--quiet"]
    made = ["build", "--classes", "bee,sun", "--max-per-class", "40", "--name", "pair"]
    assert run_command_line([*made, *at]) == 0
    train = ["train", "--dataset", "pair", "--nnodes", "2", *at]
    train += ["--node-rank", "1"] if by_rank else []
    short = ["--rdzv-conf", "is_host=0,timeout=2,read_timeout=2,join_timeout=2"]
    with socket.socket() as held:  # where nobody listens
        held.bind(("127.0.0.1", 0))
        here = f"127.0.0.1:{held.getsockname()[1]}"
        for place, code, words in [
            (here, 1, "nothing listens there"),
            ("nowhere.invalid:29500", 2, "--rdzv-endpoint"),
            ("127.0.0.1:999999", 2, "port"),
        ]:
            assert run_command_line([*train, "--rdzv-endpoint", place, *short]) == code
            said = capsys.readouterr().err
            assert place in said
            assert words in said
            assert said.count("\n") == 1
