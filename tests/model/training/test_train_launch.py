"""How many ranks a machine gets by default."""

import pytest

from model import launch
from model.launch import default_processes
from model.presets import preset
from model.spec import apply_overrides


@pytest.mark.parametrize(
    ("cores", "batch_size", "expected"),
    [(1, 16, 1), (2, 16, 2), (16, 16, 4), (3, 16, 2), (16, 6, 1), (8, 9, 1), (64, 256, 64)],
)
def test_ranks_follow_cores_and_share_the_batch_evenly(
    monkeypatch, cores: int, batch_size: int, expected: int
) -> None:
    monkeypatch.setattr(launch, "threads_per_rank", lambda *_: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = apply_overrides(preset("tiny"), [f"batch_size={batch_size}"])
    assert default_processes(spec) == expected


def test_every_gpu_gets_a_rank(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert default_processes(preset("large")) == 8
