"""torch.compile: the same curve where it works, one line of warning where it does not."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from model.data import open_split
from model.network.precision import cpu_has_bfloat16
from model.options import RunOptions
from model.ranks import Ranks
from model.training.run import Run
from model.training.torchrun import train_in_processes
from model.training.train import train_model

EAGER = RunOptions(num_threads=1, tensorboard=False)
COMPILED = RunOptions(num_threads=1, tensorboard=False, compile=True)


def curve(store, model) -> list[dict[str, float]]:
    content = store.get(f"{model.prefix}/curve.jsonl").decode()
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes of compiling, beside another test on two cores
def test_compiled_training_follows_the_curve_of_eager_training(
    store, make_dataset, small_spec, caplog
) -> None:
    dataset = make_dataset(store)
    spec = small_spec(dataset, "num_hierarchies=1", "precision=float64", "budget_nimg=16")
    eager = train_model(spec, dataset, store, "eager", options=EAGER)
    with caplog.at_level(logging.WARNING):
        compiled = train_in_processes(
            spec, dataset, store, "compiled", num_processes=1, options=COMPILED
        )
    assert not caplog.messages
    left, right = curve(store, eager), curve(store, compiled)
    losses = [[row["loss_bpd"] for row in rows if "loss_bpd" in row] for rows in (left, right)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_compiler_that_fails_is_one_line_of_warning_and_eager_training_on_all_ranks(
    store, make_dataset, small_spec, monkeypatch, caplog, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    # Kernels that were compiled before need no compiler.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    dataset = make_dataset(store)
    spec = small_spec(dataset, "num_hierarchies=1", "budget_nimg=16")
    with caplog.at_level(logging.WARNING):
        fallen = train_in_processes(
            spec, dataset, store, "fallen", num_processes=2, options=COMPILED
        )
    (message,) = [text for text in caplog.messages if "torch.compile" in text]
    assert message.startswith("training runs without torch.compile: ")
    assert "\n" not in message
    eager = train_in_processes(spec, dataset, store, "eager", num_processes=2, options=EAGER)
    weights = [store.read(model, "weights.safetensors") for model in (fallen, eager)]
    assert weights[0] == weights[1]


def test_bfloat16_trains_and_says_if_the_cpu_computes_in_float32(
    store, make_dataset, small_spec, tmp_path: Path, caplog
) -> None:
    dataset = make_dataset(store)
    drawings = open_split(store, dataset, split="train", cache_dir=tmp_path)
    losses = {}
    for precision in ("float32", "bfloat16"):
        spec = small_spec(dataset, f"precision={precision}")
        run = Run(
            spec, drawings, dataset_digest=dataset.digest, ranks=Ranks(), options=RunOptions()
        )
        losses[precision] = [run.advance().nats for _ in range(4)]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert (losses["bfloat16"] == losses["float32"]) is not cpu_has_bfloat16()
    warned = [text for text in caplog.messages if "emulates bfloat16" in text]
    assert len(warned) == (not cpu_has_bfloat16())
