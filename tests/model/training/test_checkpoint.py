"""Checkpoints: what is written whole is read whole, what is torn is passed over."""

import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.training.checkpoint import (
    COMPLETE_NAME,
    NUM_KEPT,
    Checkpoint,
    RunState,
    is_complete,
    latest_checkpoint,
    save_checkpoint,
)
from pipelines.store.errors import FullError
from pipelines.store.local_files import naming_full


def make_checkpoint(step: int, run_digest: str = "a" * 64) -> Checkpoint:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return Checkpoint(
        RunState(step=step, run_digest=run_digest, pending_nats=[0.1, 1 / 3]),
        network.state_dict(),
        {name: value / 2 for name, value in network.state_dict().items()},
        optimizer.state_dict(),
        b"{}",
    )


def test_read_is_what_was_written(tmp_path: Path) -> None:
    written = make_checkpoint(7)
    save_checkpoint(tmp_path, written)
    found = latest_checkpoint(tmp_path, run_digest="a" * 64)
    assert found is not None
    assert found.state == written.state
    for name, value in written.weights.items():
        assert torch.equal(found.weights[name], value), name
        assert torch.equal(found.average[name], value / 2), name
    moments = found.optimizer["state"][0]["exp_avg"]
    assert torch.equal(moments, written.optimizer["state"][0]["exp_avg"])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save_checkpoint(tmp_path, make_checkpoint(step))
    assert len(list(tmp_path.iterdir())) == NUM_KEPT
    found = latest_checkpoint(tmp_path, run_digest="a" * 64)
    assert found is not None
    assert found.state.step == 4


def test_what_is_no_checkpoint_takes_no_place_of_one(tmp_path: Path) -> None:
    for step in (200, 250):
        path = save_checkpoint(tmp_path, make_checkpoint(step))
        (path / "state.json").write_text("{")
    (tmp_path / ".step-00000210.partial").mkdir()
    for step in (50, 60):
        save_checkpoint(tmp_path, make_checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000050", "step-00000060"]


@pytest.mark.parametrize(
    "name",
    ["weights.safetensors", "average.safetensors", "config.json", "optimizer.pt", "state.json"],
)
def test_torn_file_sends_back_to_the_checkpoint_before(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, make_checkpoint(1))
    newest = save_checkpoint(tmp_path, make_checkpoint(2))
    os.truncate(newest / name, (newest / name).stat().st_size - 1)
    found = latest_checkpoint(tmp_path, run_digest="a" * 64)
    assert found is not None
    assert found.state.step == 1


def test_without_marker_there_is_no_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint(1))
    (path / COMPLETE_NAME).unlink()
    assert not is_complete(path)
    assert latest_checkpoint(tmp_path, run_digest="a" * 64) is None


def test_torn_checkpoint_is_written_again(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_checkpoint(1))
    (path / "state.json").write_text("{}")
    assert is_complete(save_checkpoint(tmp_path, make_checkpoint(1)))


def test_another_run_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make_checkpoint(1, run_digest="b" * 64))
    with pytest.raises(ValueError, match="belongs to run bbbbbbbbbbbb"):
        latest_checkpoint(tmp_path, run_digest="a" * 64)


def test_optimizer_file_with_code_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    checkpoint = make_checkpoint(1)
    checkpoint.optimizer["payload"] = Payload()
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(Exception, match="weights_only"):
        latest_checkpoint(tmp_path, run_digest="a" * 64)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_kill_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    script = (
        "import sys, itertools, torch\n"
        "from pathlib import Path\n"
        "from model.training.checkpoint import Checkpoint, RunState, save_checkpoint\n"
        "weights = {'w': torch.zeros(200_000)}\n"
        "for step in itertools.count(1):\n"
        "    weights['w'] += 1\n"
        "    state = RunState(step=step, run_digest='a' * 64)\n"
        "    save_checkpoint(Path(sys.argv[1]), Checkpoint(state, weights, weights, {}, b''))\n"
        "    print(step, flush=True)\n"
    )
    for num_written in (1, 2, 3, 5):
        folder = tmp_path / str(num_written)
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(num_written):
            writer.stdout.readline()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        found = latest_checkpoint(folder, run_digest="a" * 64)
        assert found is not None
        assert found.state.step >= num_written
        assert (found.weights["w"] == found.state.step).all()


@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_checkpoint_without_room_names_the_folder(tmp_path: Path, part: str) -> None:
    large = {"large": torch.zeros(10_000)}
    written = dataclasses.replace(make_checkpoint(7), **{part: large})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(FullError, match=f"{tmp_path} is full"), naming_full(tmp_path):
            save_checkpoint(tmp_path, written)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert latest_checkpoint(tmp_path, run_digest="a" * 64) is None
