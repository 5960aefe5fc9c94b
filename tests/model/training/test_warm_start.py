"""Training that starts from a model: classes by name, exact, refused for an unequal network."""

import dataclasses

import numpy as np
import pytest
import torch

from model import shipped
from model.data import open_split
from model.network.config import ConditionConfig
from model.network.pixelcnn import PixelCNN
from model.network.weights import read_model
from model.options import RunOptions
from model.ranks import Interrupted, Ranks, StopSignal
from model.shipped.__main__ import main
from model.training.optimizer import make_optimizers, set_learning_rate
from model.training.run import Run
from model.training.spec import fit_to_dataset, run_digest
from model.training.train import train_model
from model.training.warm_start import check_network, matched_classes, warm_weights
from pipelines.store.artifacts import open_store

OPTIONS = RunOptions(num_threads=1, tensorboard=False, num_grids=0)
# Another order, a name written in another way, and a class that is new.
RENAMED = ("Ring", "post", "bar")


@pytest.fixture
def known(store, make_dataset, small_spec):
    dataset = make_dataset(store)
    return train_model(small_spec(dataset), dataset, store, "known", options=OPTIONS)


def warm_run(store, dataset, spec, init, tmp_path) -> Run:
    drawings = open_split(store, dataset, split="train", cache_dir=tmp_path)
    return Run(
        spec,
        drawings,
        dataset_digest=dataset.digest,
        ranks=Ranks(),
        options=OPTIONS,
        init=read_model(store, init),
    )


def test_classes_keep_their_codes_under_another_order_and_the_new_one_has_the_mean(
    store, make_dataset, small_spec, known, tmp_path
) -> None:
    dataset = make_dataset(store, class_names=RENAMED)
    run = warm_run(store, dataset, small_spec(dataset), known, tmp_path)
    learned = read_model(store, known).model.state_dict()
    own = run.network.state_dict()
    table = learned["encoder.table"]  # bar, dot, ring
    assert torch.equal(own["encoder.table"][0], table[2])
    assert torch.equal(own["encoder.table"][2], table[0])
    torch.testing.assert_close(own["encoder.table"][1], table.mean(0))
    shared = own.keys() - {"encoder.table"}
    assert shared
    assert all(torch.equal(own[name], learned[name]) for name in shared)


@pytest.mark.parametrize("kind", ["embedding_map", "one_hot", "multi_label"])
def test_a_known_class_has_the_likelihood_that_it_had(kind: str, small_spec, store, make_dataset):
    network = small_spec(make_dataset(store)).network
    condition = ConditionConfig(kind=kind, num_classes=3, embedding_dim=4)
    network = dataclasses.replace(network, dropout_p=0.0, condition=condition)
    torch.manual_seed(0)
    old = PixelCNN(network).eval()
    new = PixelCNN(
        dataclasses.replace(network, condition=dataclasses.replace(condition, num_classes=4))
    ).eval()
    new.load_state_dict(warm_weights(old.state_dict(), [2, None, 0, 1], kind))
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)

    def labels(*given: int, classes: int) -> torch.Tensor:
        found = torch.tensor(given)
        is_many = kind == "multi_label"
        return torch.nn.functional.one_hot(found, classes).float() if is_many else found

    with torch.no_grad():
        expected = old(images, labels(2, 0, 1, classes=3))
        assert torch.equal(new(images, labels(0, 2, 3, classes=4)), expected)


def test_manifest_and_card_say_what_was_inherited(store, make_dataset, small_spec, known) -> None:
    dataset = make_dataset(store, class_names=RENAMED)
    spec = small_spec(dataset, "guidance=1.5")
    model = train_model(spec, dataset, store, "warm", init=known, options=OPTIONS)
    assert [(ref.role, ref.digest) for ref in model.inputs] == [
        ("dataset", dataset.digest),
        ("init", known.digest),
    ]
    assert model.digest == run_digest(spec, dataset, known) != run_digest(spec, dataset)
    assert model.summary["inherited_classes"] == ["Ring", "bar"]
    assert model.summary["new_classes"] == ["post"]
    assert model.summary["guidance"] == 1.5
    card = store.read(model, "README.md").decode()
    assert f"| started from | known@{known.digest[:12]}; classes new to it: post |" in card
    assert store.damaged(model) == []


def test_attribution_of_both_goes_along(store, make_dataset, small_spec, known) -> None:
    stated = {"license": "CC-BY-4.0", "attribution": "Drawn by Ada."}
    first = dataclasses.replace(known, summary={**known.summary, **stated})
    dataset = make_dataset(store, class_names=RENAMED)
    model = train_model(small_spec(dataset), dataset, store, "warm", init=first, options=OPTIONS)
    assert {name: model.summary[name] for name in stated} == stated
    assert "Drawn by Ada." in store.read(model, "README.md").decode()


def test_stopped_and_resumed_ends_in_the_same_bytes(
    store, make_dataset, small_spec, known, monkeypatch
) -> None:
    dataset = make_dataset(store, class_names=RENAMED)
    spec = small_spec(dataset)
    whole = train_model(spec, dataset, store, "whole", init=known, options=OPTIONS)
    steps = []
    advance = Run.advance

    def stopping(self: Run, *, signal: StopSignal | None = None, save: bool = False):
        steps.append(self.step)
        if signal is not None and len(steps) == 3:
            signal.number = 15
        return advance(self, signal=signal, save=save)

    monkeypatch.setattr(Run, "advance", stopping)
    with pytest.raises(Interrupted):
        train_model(spec, dataset, store, "again", init=known, options=OPTIONS)
    again = train_model(spec, dataset, store, "again", init=known, options=OPTIONS)
    assert steps == list(range(6))
    assert store.read(again, "weights.safetensors") == store.read(whole, "weights.safetensors")


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        ("num_filters=8", "num_filters 4 instead of 8"),
        ("condition.kind=embedding_map", "condition.kind embedding instead of embedding_map"),
        ("condition.embedding_dim=2", "condition.embedding_dim 4 instead of 2"),
        ("use_weight_norm=false", "use_weight_norm True instead of False"),
    ],
)
def test_another_network_is_refused_with_the_field(
    store, make_dataset, small_spec, known, assignment: str, field: str
) -> None:
    dataset = make_dataset(store)
    spec = fit_to_dataset(small_spec(dataset, assignment), dataset)
    with pytest.raises(ValueError, match=f"whose network differs: {field}"):
        train_model(spec, dataset, store, "m", init=known, options=OPTIONS)


def test_dropout_and_the_number_of_classes_may_differ(
    store, make_dataset, small_spec, known
) -> None:
    dataset = make_dataset(store, class_names=("bar", "post"))
    spec = small_spec(dataset, "dropout_p=0", "condition.dropout_p=0.2")
    check_network(spec.network, known)


def test_names_match_exactly_before_they_match_loosely() -> None:
    assert matched_classes(["Bee", "bee"], ["bee", "Bee"]) == [1, 0]
    assert matched_classes(["sea-turtle"], ["bee", "Sea_Turtle"]) == [1]


def test_splits_of_another_seed_are_told(store, make_dataset, small_spec, known, caplog) -> None:
    dataset = make_dataset(store, seed=1)
    train_model(small_spec(dataset), dataset, store, "warm", init=known, options=OPTIONS)
    assert "may have learned from drawings of this dataset's test split" in caplog.text
    assert "split by seed 0, this one by seed 1" in caplog.text
    caplog.clear()
    same = make_dataset(store, class_names=RENAMED)
    train_model(small_spec(same), same, store, "warm", init=known, options=OPTIONS)
    assert not caplog.text


def test_table_of_the_codes_follows_a_rate_of_its_own(store, make_dataset, small_spec) -> None:
    spec = small_spec(make_dataset(store), "table_learning_rate=0.05")
    network = PixelCNN(spec.network)
    optimizers = make_optimizers(spec, network)
    set_learning_rate(spec, optimizers, spec.learning_rate / 2)
    rates = {
        id(parameter): group["lr"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates.keys() == {id(parameter) for parameter in network.parameters()}
    assert rates[id(network.encoder.table)] == 0.025
    assert sorted(set(rates.values())) == [0.005, 0.025]
    assert rates[id(network.network.output.bias)] == 0.005


def test_drawings_of_new_classes_come_as_often_as_the_spec_says(
    store, make_dataset, small_spec, known, tmp_path
) -> None:
    dataset = make_dataset(store, class_names=RENAMED)  # 16 drawings of each class
    run = warm_run(store, dataset, small_spec(dataset, "new_class_weight=3"), known, tmp_path)
    rows = []
    for run.step in range(40):
        batch = run.next_rows()
        assert len(batch) == 8
        rows.append(batch)
    counts = np.bincount(np.concatenate(rows), minlength=48)
    of_class = np.bincount(run.drawings.labels, counts)
    assert of_class.tolist() == pytest.approx([64, 192, 64], abs=8)
    assert of_class[1] == 192
    assert set(counts[run.drawings.labels == 1]) == {12}, "an order without repeats in an epoch"


def test_order_is_the_usual_one_without_a_new_class(
    store, make_dataset, small_spec, known, tmp_path
) -> None:
    dataset = make_dataset(store)
    plain = warm_run(store, dataset, small_spec(dataset), known, tmp_path)
    run = warm_run(store, dataset, small_spec(dataset, "new_class_weight=3"), known, tmp_path)
    assert run.next_rows().tolist() == plain.next_rows().tolist()


def test_packed_model_is_the_artifact_with_attribution_guidance_and_text(
    store, known, tmp_path, monkeypatch
) -> None:
    (tmp_path / "card.md").write_text("## What it draws\n")
    packed = ["--store", store.url, "--model", "known", "--guidance", "1.5", "--out", str(tmp_path)]
    assert main([*packed, "--card", str(tmp_path / "card.md")]) == 0
    monkeypatch.setattr(shipped, "_root", lambda: tmp_path)
    other = open_store(str(tmp_path / "other"))
    model = shipped.publish_shipped("known", other)
    assert model.digest == known.digest
    assert model.summary["license"] == "CC-BY-4.0"
    assert model.summary["guidance"] == 1.5
    assert model.summary["split_rule"] == {"seed": 0, "splits": None}
    assert other.damaged(model) == []
    card = other.read(model, "README.md").decode()
    assert "made available by Google" in card
    assert card.endswith("## What it draws\n")
    assert other.read(model, "weights.safetensors") == store.read(known, "weights.safetensors")
