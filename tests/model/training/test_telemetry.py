"""Curve, event files and the live line."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.training.session import NUM_ROWS, grid_png, sample_grid
from model.training.telemetry import CURVE_NAME, LiveLine, Telemetry, read_curve
from pipelines.processes.progress import JsonProgress


def row(step: int) -> dict[str, float]:
    return {"step": step, "nimg": 10 * step, "loss_bpd": 3.0 / step}


def write_rows(folder: Path, *, step: int, steps: range, tensorboard: bool = False) -> None:
    telemetry = Telemetry(folder, step=step, tensorboard=tensorboard)
    for number in steps:
        telemetry.write(row(number), images_per_sec=5.0)
    telemetry.close()


def test_resumed_curve_is_the_undisturbed_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "whole", step=0, steps=range(1, 9))
    write_rows(tmp_path / "parts", step=0, steps=range(1, 7))
    with (tmp_path / "parts" / CURVE_NAME).open("a") as file:
        file.write('{"step": 7, "ni')
    write_rows(tmp_path / "parts", step=4, steps=range(5, 9))
    whole, parts = (tmp_path / name / CURVE_NAME for name in ("whole", "parts"))
    assert parts.read_bytes() == whole.read_bytes()
    assert read_curve(whole)[0] == row(1)


def test_curve_without_a_file_is_empty(tmp_path: Path) -> None:
    assert read_curve(tmp_path / "none.jsonl") == []


@pytest.mark.slow
def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    write_rows(tmp_path, step=0, steps=range(1, 7), tensorboard=True)
    write_rows(tmp_path, step=4, steps=range(5, 9), tensorboard=True)
    script = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]); events.Reload()\n"
        "print(json.dumps([(e.step, e.value) for e in events.Scalars('loss_bpd')]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "tensorboard")],
        check=True,
        capture_output=True,
        text=True,
    )
    points = json.loads(done.stdout.splitlines()[-1])
    assert [step for step, _ in points] == [10 * step for step in range(1, 9)]
    assert points[2][1] == pytest.approx(1.0)


def test_event_files_load_no_tensorflow(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from model.training.telemetry import EventFile\n"
        "EventFile(Path(sys.argv[1]), step=0).close()\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_live_line_shows_the_last_drawing_and_what_is_left(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    shown: list[tuple[str, int, int, str]] = []
    line = LiveLine(lambda *event: shown.append(event), total_nimg=100, start_nimg=20)
    for nimg in (30, 40, 100):
        clock[0] += 0.15
        line.show(nimg, 2.5)
    assert [event[1] for event in shown] == [30, 100]
    assert shown[0] == ("train", 30, 100, "2.500 bits/dim, 67 images/s, 0:01 left")


def test_progress_for_a_parent_is_json_lines() -> None:
    stream = io.StringIO()
    JsonProgress(stream)("train", 1, 2, "half")
    expected = {"stage": "train", "done": 1, "total": 2, "message": "half"}
    assert json.loads(stream.getvalue()) == expected


def test_grid_is_the_same_every_time_and_has_a_class_a_column() -> None:
    torch.manual_seed(0)
    condition = ConditionConfig(kind="embedding", num_classes=3, embedding_dim=2)
    config = PixelCNNConfig(
        image_shape=(4, 4, 1),
        num_resnet=1,
        num_hierarchies=1,
        num_filters=2,
        num_logistic_mix=1,
        condition=condition,
    )
    network = PixelCNN(config).eval()
    grid = sample_grid(network)
    assert grid.shape == (NUM_ROWS * 4, 3 * 4)
    assert np.array_equal(grid, sample_grid(network))
    assert not np.array_equal(grid, sample_grid(network, seed=1))


def test_grid_is_kept_as_a_picture_with_dark_ink(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path, step=0, tensorboard=False)
    grid = np.array([[0, 255], [10, 20]], np.uint8)
    telemetry.show_grid(grid_png(grid), grid.shape, nimg=1_000)
    with Image.open(tmp_path / "grids" / "0000001000.png") as picture:
        assert np.array_equal(np.asarray(picture), 255 - grid)
