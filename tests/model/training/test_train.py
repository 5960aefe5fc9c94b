"""Training: it learns, stops and resumes without a trace, and publishes once."""

import dataclasses
import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data import open_split
from model.evaluation.evaluate import Evaluation, evaluate_model, histogram_nats
from model.network.config import ConditionConfig
from model.network.weights import CONFIG_NAME, WEIGHTS_NAME, load_model, open_model
from model.options import RunOptions, run_folder
from model.ranks import Interrupted, Ranks, StopSignal
from model.training.checkpoint import is_complete, save_checkpoint
from model.training.publish import Origin, _learned_from
from model.training.run import NonFiniteError, Run
from model.training.session import NON_FINITE_NAME, Session
from model.training.spec import run_digest
from model.training.train import train_model
from pipelines.processes.progress import no_progress

OPTIONS = RunOptions(num_threads=1, tensorboard=False, num_grids=0)


def weights(store, manifest) -> bytes:
    return store.get(f"{manifest.prefix}/weights.safetensors")


def make_run(store, dataset, spec, tmp_path: Path, *, options: RunOptions = OPTIONS) -> Run:
    drawings = open_split(store, dataset, split="train", cache_dir=tmp_path)
    return Run(spec, drawings, dataset_digest=dataset.digest, ranks=Ranks(), options=options)


def same_tensors(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.slow
def test_training_lowers_the_loss_below_uniform(store, make_dataset, small_spec) -> None:
    dataset = make_dataset(store)
    model = train_model(
        small_spec(dataset, "budget_nimg=400"), dataset, store, "m", options=OPTIONS
    )
    assert model.summary["trained_nimg"] == 400
    losses = [row["loss_bpd"] for row in model_curve(store, model) if "loss_bpd" in row]
    assert np.mean(losses[-10:]) < 0.8 * losses[0]


def model_curve(store, model) -> list[dict[str, float]]:
    content = store.get(f"{model.prefix}/curve.jsonl").decode()
    return [json.loads(line) for line in content.splitlines()]


def test_published_model_gives_the_likelihood_it_states(store, make_dataset, small_spec, tmp_path):
    dataset = make_dataset(store)
    model = train_model(small_spec(dataset), dataset, store, "m", options=OPTIONS)
    found = evaluate_model(model, dataset, store, Evaluation(split="test"), cache_dir=tmp_path)
    stated = json.loads(store.get(f"{model.prefix}/evaluation.json"))["test"]
    assert found["bits_per_dim"] == pytest.approx(stated["bits_per_dim"], rel=1e-6)
    assert found["classes"].keys() == {"bar", "dot", "ring"}
    assert store.damaged(model) == []


def test_published_model_is_beside_its_training_split_and_a_histogram(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    model = train_model(small_spec(dataset, "budget_nimg=16"), dataset, store, "m", options=OPTIONS)
    found = json.loads(store.read(model, "evaluation.json"))
    assert found["train"]["num_drawings"] == 48
    train, test = (
        open_split(store, dataset, split=split, cache_dir=tmp_path) for split in ("train", "test")
    )
    expected = histogram_nats(train, test).mean() / 64 / math.log(2)
    assert found["test_histogram"]["bits_per_dim"] == pytest.approx(expected)
    card = store.read(model, "README.md").decode()
    assert f"{expected:.4f} on the test drawings" in card
    assert f"{model.summary['train_bits_per_dim']:.4f}. A model without a network" in card
    assert "It learned from the drawings of its dataset" in card
    made = dataclasses.replace(dataset, summary=dataset.summary | {"is_synthetic": True})
    assert "a program made" in _learned_from(Origin(made))


@pytest.mark.slow
def test_training_twice_gives_the_same_bytes_and_a_third_time_reads_them(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset)
    first = train_model(spec, dataset, store, "one", options=OPTIONS)
    second = train_model(spec, dataset, store, "two", options=OPTIONS)
    assert [e for e in first.files if e.path != "README.md"] == [
        e for e in second.files if e.path != "README.md"
    ]
    assert first.digest == second.digest == run_digest(spec, dataset)
    again = train_model(spec, dataset, store, "one", options=OPTIONS, progress=refuse)
    assert again == first


def refuse(stage: str, done: int, total: int, message: str) -> None:
    raise AssertionError("a finished model was trained again")


@pytest.mark.slow
def test_two_trainers_whose_bytes_differ_publish_one_model_whole(
    store, make_dataset, small_spec, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr("model.training.telemetry.MIN_INTERVAL_SEC", 0.0)
    dataset = make_dataset(store)
    spec = small_spec(dataset, "budget_nimg=24")
    elsewhere = dataclasses.replace(OPTIONS, work_dir=tmp_path / "two", micro_batch_size=3)
    first = []

    def publish_another(stage: str, done: int, total: int, message: str) -> None:
        if (stage, done) == ("train", total):
            first.append(train_model(spec, dataset, store, "m", options=OPTIONS))

    second = train_model(spec, dataset, store, "m", options=elsewhere, progress=publish_another)
    assert first == [second]
    assert store.damaged(second) == []


@pytest.mark.slow
@pytest.mark.parametrize("stop_step", [1, 3, 5])
def test_stopped_and_resumed_run_is_bitwise_the_undisturbed_one(
    store, make_dataset, small_spec, monkeypatch, stop_step: int
) -> None:
    monkeypatch.setattr("model.training.telemetry.MIN_INTERVAL_SEC", 0.0)
    dataset = make_dataset(store)
    spec = small_spec(dataset)
    whole = train_model(spec, dataset, store, "whole", options=OPTIONS)

    def stop(stage: str, done: int, total: int, message: str) -> None:
        if done == stop_step * spec.batch_size:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        train_model(spec, dataset, store, "parts", options=OPTIONS, progress=stop)
    assert caught.value.code == 143
    assert store.find("models", "parts", whole.digest) is None
    parts = train_model(spec, dataset, store, "parts", options=OPTIONS)
    assert weights(store, parts) == weights(store, whole)
    assert model_curve(store, parts) == model_curve(store, whole)


@pytest.mark.slow
def test_state_after_resumption_equals_the_uninterrupted_state(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset)
    whole = make_run(store, dataset, spec, tmp_path)
    for _ in range(5):
        whole.advance()
    parts = make_run(store, dataset, spec, tmp_path)
    for _ in range(3):
        parts.advance()
    resumed = make_run(store, dataset, spec, tmp_path)
    resumed.restore(parts.checkpoint("a" * 64))
    for _ in range(2):
        resumed.advance()
    assert same_tensors(whole.network.state_dict(), resumed.network.state_dict())
    left, right = whole.average.network.state_dict(), resumed.average.network.state_dict()
    assert same_tensors(left, right)


def test_checkpoint_opens_as_a_model_without_its_dataset(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    run = make_run(store, dataset, small_spec(dataset), tmp_path)
    run.advance()
    path = save_checkpoint(tmp_path / "checkpoints", run.checkpoint("a" * 64))
    weights = (path / "average.safetensors").read_bytes()
    saved = load_model({WEIGHTS_NAME: weights, CONFIG_NAME: (path / CONFIG_NAME).read_bytes()})
    assert saved.class_names == ("bar", "dot", "ring")
    assert saved.dataset_digest == dataset.digest
    assert saved.model.config == run.spec.network
    assert same_tensors(run.average.network.state_dict(), saved.model.state_dict())
    assert is_complete(path)
    (path / CONFIG_NAME).unlink()
    assert not is_complete(path)


def test_signal_during_a_step_counts_at_its_end(store, make_dataset, small_spec, tmp_path) -> None:
    dataset = make_dataset(store)
    run = make_run(store, dataset, small_spec(dataset), tmp_path)

    def stop(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    with StopSignal() as received:
        assert run.advance(signal=received).num_stop == 0
        run.network.register_forward_hook(stop)
        assert run.advance(signal=received).num_stop == 1


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch(
    store, make_dataset, small_spec, tmp_path, micro_batch_size: int
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "precision=float64")
    options = RunOptions(micro_batch_size=micro_batch_size)
    whole = make_run(store, dataset, spec, tmp_path)
    parts = make_run(store, dataset, spec, tmp_path, options=options)
    for _ in range(3):
        left, right = whole.advance(), parts.advance()
        assert left.nats == pytest.approx(right.nats, rel=1e-12)
        assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-9)


def test_nonfinite_loss_stops_and_keeps_weights_and_indices(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "learning_rate=1e30", "clip_norm=0", "warmup_nimg=0")
    with pytest.raises(NonFiniteError, match="lower learning_rate"):
        train_model(spec, dataset, store, "m", options=OPTIONS)
    folder = run_folder(OPTIONS, store, run_digest(spec, dataset))
    found = json.loads((folder / NON_FINITE_NAME).read_text())
    assert len(found["rows"]) == spec.batch_size
    assert store.find("models", "m", run_digest(spec, dataset)) is None


def test_spec_of_another_dataset_is_refused(store, make_dataset, small_spec) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "batch_size=6")
    with pytest.raises(ValueError, match="is not divisible by 4"):
        train_model(spec, dataset, store, "m", ranks=Ranks(size=4), options=OPTIONS)


def test_dataset_without_a_split_is_refused_with_what_to_do(
    store, make_dataset, small_spec
) -> None:
    dataset = make_dataset(store)
    files = tuple(entry for entry in dataset.files if entry.split != "validation")
    with pytest.raises(ValueError, match=r"no drawings in validation.*--splits"):
        train_model(
            small_spec(dataset), dataclasses.replace(dataset, files=files), store, "m",
            options=OPTIONS,
        )  # fmt: skip


@pytest.mark.slow
def test_curve_has_each_class_of_the_validation_split_and_pictures_are_drawn(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "budget_nimg=64")
    options = dataclasses.replace(OPTIONS, work_dir=tmp_path, num_grids=2)
    model = train_model(spec, dataset, store, "m", options=options)
    looks = [row for row in model_curve(store, model) if "validation_bpd" in row]
    assert looks
    for row in looks:
        own = [row[f"validation_bpd/{name}"] for name in ("bar", "dot", "ring")]
        assert row["validation_bpd"] == pytest.approx(np.mean(own))
    grids = (run_folder(options, store, model.digest) / "grids").iterdir()
    assert sorted(path.name for path in grids) == ["0000000032.png", "0000000064.png"]


def test_unconditional_model_trains(store, make_dataset, small_spec) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "budget_nimg=16")
    network = dataclasses.replace(spec.network, condition=ConditionConfig(kind="none"))
    spec = dataclasses.replace(spec, network=network)
    model = train_model(spec, dataset, store, "m", options=OPTIONS)
    assert open_model(store, model).config.condition.kind == "none"
    card = store.read(model, "README.md").decode()
    assert "# Unconditional PixelCNN++ of drawings in 3 classes" in card
    assert "-log2 p(drawing) / 64" in card
    assert math.isfinite(model.summary["test_bits_per_dim"])


class ElsewhereRanks(Ranks):
    """The first of two ranks, where the other one found no checkpoint."""

    def sum(self, values):
        return [value + 0.0 for value in values]


def test_ranks_that_found_different_checkpoints_are_refused(
    store, make_dataset, small_spec, tmp_path
) -> None:
    dataset = make_dataset(store)
    run = make_run(store, dataset, small_spec(dataset), tmp_path)
    run.advance()
    save_checkpoint(tmp_path / "checkpoints", run.checkpoint("a" * 64))
    run.ranks = ElsewhereRanks(size=2)
    with pytest.raises(ValueError, match="that all machines share"):
        Session(run, digest="a" * 64, folder=tmp_path, signal=StopSignal(), progress=no_progress)
