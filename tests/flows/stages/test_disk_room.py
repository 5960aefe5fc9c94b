"""The disk that memory maps of drawings need: said by plans, and asked for before all reading.

The shards of `huge` are no Parquet: whatever read one would fail with another message.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

sys.path.insert(0, str(Path(__file__).parents[2] / "model"))

import strokes
from published import publish_contents

from flows.cli import run_command_line
from model.network.pixelcnn import PixelCNN
from pipelines.store.artifacts import open_store

ROWS = 10**10  # 240 GB of 4x4 pixels and labels a split
SPLITS = ("train", "validation", "test")
SPLIT_BYTES = ROWS * (4 * 4 + 8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a store of a model and of a dataset for which no disk has room."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, SPLIT_BYTES // 2)
    )
    store = open_store(str(tmp_path / "store"))
    summary = {"class_names": list(strokes.CLASS_NAMES), "image_shape": [4, 4]}
    shards = {f"data/{split}.parquet": (b"?", ROWS, split) for split in SPLITS}
    huge = publish_contents(
        store, "datasets", shards, name="huge", spec={}, inputs=(), summary=summary
    )
    strokes.publish_model(store, PixelCNN(strokes.BYTES).eval(), huge, "net")
    return tmp_path


def ask(place: Path, capsys, *arguments: str) -> tuple[int, dict, str]:
    """Return exit code, JSON result and what stands on stderr."""
    given = [*arguments, "--store", str(place / "store"), "--json", "--quiet"]
    code = run_command_line(given)
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if said.out else {}, said.err


def is_told(said: str, folder: Path, size: str) -> bool:
    """Return whether one line names the folder, the room there and what to do."""
    needs = (
        f"sketchmill: {folder} needs {size}.0 GB for the memory map of the drawings, and its disk"
    )
    assert said.startswith(f"{needs} has 120.0 GB free: free some of it, or"), said
    assert "--work-dir of `sketchmill train`" in said
    assert "SKETCHMILL_CACHE" in said
    return said.count("\n") == 1


@pytest.mark.parametrize("work_dir", ["", "elsewhere"])
def test_training_says_before_it_reads_what_it_needs(place, capsys, work_dir) -> None:
    folder = place / (work_dir or "store/attempts") / "drawings"
    train = ["train", "--dataset", "huge", "--device", "cpu"]
    train += ["--work-dir", str(place / work_dir)] if work_dir else []
    code, plan, said = ask(place, capsys, *train, "--dry-run")
    assert code == 0
    free = SPLIT_BYTES // 2
    needed = {"folder": str(folder), "bytes": 3 * SPLIT_BYTES, "free_bytes": free}
    assert plan["memory_map"] == needed
    assert is_told(said, folder, "720")
    code, _, said = ask(place, capsys, *train)
    assert code == 1
    assert is_told(said, folder, "720")
    assert not folder.exists()


@pytest.mark.parametrize(("options", "splits"), [([], 1), (["--baseline"], 2)])
def test_evaluation_says_before_it_reads_what_it_needs(place, capsys, options, splits) -> None:
    evaluate = ["evaluate", "--model", "net", "--dataset", "huge", *options]
    code, plan, said = ask(place, capsys, *evaluate, "--dry-run")
    assert (code, plan["memory_map"]["bytes"]) == (0, splits * SPLIT_BYTES)
    size = str(splits * 240)
    assert is_told(said, place / "cache" / "drawings", size)
    code, _, said = ask(place, capsys, *evaluate)
    assert code == 1
    assert is_told(said, place / "cache" / "drawings", size)


def test_other_commands_that_read_drawings_refuse_too(place, capsys) -> None:
    code, _, said = ask(place, capsys, "score", "--model", "net", "--dataset", "huge")
    assert code == 1
    assert is_told(said, place / "cache" / "drawings", "240")


def test_chain_plans_with_what_its_dataset_has_at_most(place, capsys, monkeypatch) -> None:
    run = ["run", "--classes", "bee,sun", "--dry-run"]
    _, plan, said = ask(place, capsys, *run, "--max-per-class", "50")
    assert plan["memory_map"]["max_bytes"] == 2 * 50 * (28 * 28 + 8)
    assert said == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 10**3))
    _, _, said = ask(place, capsys, *run, "--max-per-class", "50")
    assert "needs at most 0.1 MB" in said
