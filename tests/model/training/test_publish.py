"""What training itself measures: a sample of a large split, all of a small one."""

import json

import numpy as np
import pytest

from model.data import Drawings, batch_rows, open_split, order_key
from model.evaluation.evaluate import Evaluation, evaluate_model, histogram_nats, split_nats
from model.network.weights import open_model
from model.options import RunOptions
from model.ranks import Ranks
from model.training.publish import evaluated_rows
from model.training.train import train_model

OPTIONS = RunOptions(num_threads=1, tensorboard=False, num_grids=0)
NUM_TEST, NUM_SAMPLED = 12, 5


class Trained:
    """A model, its evaluation and card, and the progress that was told of the evaluation."""

    def __init__(self, store, dataset, spec) -> None:
        self.told: list[tuple[int, int, str]] = []
        name = f"m{spec.max_eval_drawings}"
        self.model = train_model(spec, dataset, store, name, options=OPTIONS, progress=self.tell)
        self.text = store.read(self.model, "evaluation.json")
        self.evaluation = json.loads(self.text)
        self.card = store.read(self.model, "README.md").decode()

    def tell(self, stage: str, done: int, total: int, message: str) -> None:
        if stage == "evaluate":
            self.told.append((done, total, message))


@pytest.fixture
def trained(store, make_dataset, small_spec):
    """Return a dataset and what trains on it with these settings."""
    dataset = make_dataset(store)
    return dataset, lambda *settings: Trained(
        store, dataset, small_spec(dataset, "budget_nimg=16", *settings)
    )


def test_large_split_is_measured_by_a_sample_with_its_errors(store, trained, tmp_path) -> None:
    dataset, train = trained
    made = train(f"max_eval_drawings={NUM_SAMPLED}")
    found = made.evaluation
    train_split, test = (
        open_split(store, dataset, split=split, cache_dir=tmp_path) for split in ("train", "test")
    )
    key = order_key(dataset.digest, split="test", seed=0)
    rows = np.sort(batch_rows(NUM_TEST, NUM_SAMPLED, key=key, step=0))
    nats = split_nats(open_model(store, made.model), test, ranks=Ranks(), rows=rows)
    assert found["test"]["nats"] == pytest.approx(nats.mean(), rel=1e-6)
    error = nats.std(ddof=1) / np.sqrt(NUM_SAMPLED)
    assert found["test"]["nats_stderr"] == pytest.approx(error, rel=1e-4)
    counts = {split: found[split]["num_drawings"] for split in ("train", "validation", "test")}
    assert counts == dict.fromkeys(counts, NUM_SAMPLED)
    assert found["test"]["split_drawings"] == NUM_TEST
    sample = Drawings(test.images[rows], test.labels[rows], test.class_names)
    assert found["test_histogram"]["num_drawings"] == NUM_SAMPLED
    expected = histogram_nats(train_split, sample).mean()
    assert found["test_histogram"]["nats"] == pytest.approx(expected)
    assert "on 5 of 12\ndrawings that training never saw" in made.card
    for name, each in found["test"]["classes"].items():
        error = f"{each['bits_per_dim_stderr']:.4f}"
        assert f"| {name} | {each['num_drawings']} | {each['bits_per_dim']:.4f} +- {error} |" in (
            made.card
        )
    whole = evaluate_model(made.model, dataset, store, Evaluation(), cache_dir=tmp_path)
    assert whole["num_drawings"] == NUM_TEST


def test_small_split_is_measured_whole_as_ever(trained) -> None:
    _, train = trained
    usual, same, whole = (
        train(),
        train(f"max_eval_drawings={NUM_TEST}"),
        train("max_eval_drawings=0"),
    )
    test = usual.evaluation["test"]
    assert test["num_drawings"] == NUM_TEST
    assert "split_drawings" not in test
    assert "max_eval_drawings" not in usual.model.spec
    assert usual.evaluation["test"] == same.evaluation["test"]
    assert usual.text == whole.text
    assert "on 12\ndrawings that training never saw" in usual.card
    assert "+-" not in usual.card
    assert len({made.model.digest for made in (usual, same, whole)}) == 3


def test_evaluation_is_told_from_its_first_drawing_to_its_last(trained) -> None:
    _, train = trained
    told = train("max_eval_drawings=5").told
    assert told[0] == (0, 15, "5 of 48 train drawings")
    assert told[-1] == (15, 15, "5 of 12 test drawings")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_rows_are_those_of_the_dataset_whatever_the_seed(store, make_dataset, small_spec) -> None:
    dataset = make_dataset(store)
    specs = [small_spec(dataset, f"seed={seed}", "max_eval_drawings=100") for seed in (0, 1)]
    first, second = (evaluated_rows(spec, dataset, "test", 10_000) for spec in specs)
    assert np.array_equal(first, second)
    assert len(set(first)) == 100
    assert (np.diff(first) > 0).all()
    assert len(evaluated_rows(small_spec(dataset), dataset, "test", 1_000_000)) == 20_000
    assert len(evaluated_rows(small_spec(dataset), dataset, "train", 1_000_000)) == 2_048
