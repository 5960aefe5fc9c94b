"""How many ranks a machine gets by default."""

import dataclasses

import pytest

from model.options import RunOptions
from model.training import torchrun
from model.training.presets import preset
from model.training.spec import apply_overrides
from model.training.torchrun import default_processes, train_in_processes


@pytest.mark.parametrize(
    ("cores", "batch_size", "expected"),
    [(1, 16, 1), (2, 16, 2), (16, 16, 4), (3, 16, 2), (16, 6, 1), (8, 9, 1), (64, 256, 64)],
)
def test_ranks_follow_cores_and_share_the_batch_evenly(
    monkeypatch, cores: int, batch_size: int, expected: int
) -> None:
    monkeypatch.setattr(torchrun, "threads_per_rank", lambda *_: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = apply_overrides(preset("tiny"), [f"batch_size={batch_size}"])
    assert default_processes(spec) == expected


def test_every_gpu_gets_a_rank(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert default_processes(preset("large")) == 8


def test_the_gpu_of_a_mac_gets_one_rank(monkeypatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert default_processes(preset("large"), device="mps") == 1


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_gpu_that_is_not_there_is_refused_before_a_rank_starts(
    store, make_dataset, small_spec, monkeypatch, device
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    dataset = make_dataset(store)
    options = RunOptions(device=device)
    with pytest.raises(ValueError, match=f"device {device}: torch finds no such GPU here"):
        train_in_processes(small_spec(dataset), dataset, store, "tiny", options=options)


def test_cpu_is_used_on_a_machine_with_gpus_if_it_is_wanted(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr(torchrun, "threads_per_rank", lambda *_: 2)
    assert default_processes(preset("tiny"), device="cpu") == 2


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_dataset_that_cannot_be_trained_on_is_refused_before_a_rank_starts(
    store, make_dataset, small_spec, monkeypatch, split
) -> None:
    whole = make_dataset(store)
    files = tuple(entry for entry in whole.files if entry.split != split)
    dataset = dataclasses.replace(whole, files=files)
    monkeypatch.setattr(torchrun, "launch", pytest.fail)
    with pytest.raises(ValueError, match=f"no drawings in {split}, .* build it with --splits"):
        train_in_processes(small_spec(whole), dataset, store, "tiny", num_processes=1)
    with pytest.raises(ValueError, match="the network expects images"):
        train_in_processes(preset("tiny"), whole, store, "tiny", num_processes=1)
