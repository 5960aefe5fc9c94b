"""Quotas are met exactly, rows are made again bit for bit, and a closed gate publishes nothing."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from published import publish_contents

from flows.cli import run_command_line
from flows.stages.sample import read_counts
from model.audit.filters import Filters
from model.audit.gate import GateError, gate_from
from model.audit.quota import QuotaError, QuotaSpec, Sources, fill_quotas, round_seed
from model.audit.reproduce import reproduce
from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.network.weights import model_files
from pipelines.drawings.parquet import (
    open_shard,
    read_images,
    shard_name,
    shard_schema,
    write_shard,
)
from pipelines.drawings.reading import split_shards
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import InputRef, Manifest
from pipelines.store.transfer import copy_artifact

NAMES = ("ant", "bee", "cat")
NETWORK = PixelCNNConfig(
    image_shape=(4, 4, 1),
    num_resnet=1,
    num_hierarchies=2,
    num_filters=2,
    num_logistic_mix=2,
    condition=ConditionConfig(kind="embedding", num_classes=3, embedding_dim=2, dropout_p=0.5),
)


def publish(store: Store, kind: str, files: dict, inputs: tuple = (), **summary) -> Manifest:
    return publish_contents(
        store,
        kind,
        files,
        name="tiny",
        spec={"files": sorted(files)},
        inputs=inputs,
        summary={"class_names": list(NAMES), "image_shape": [4, 4]} | summary,
    )


def publish_dataset(store: Store) -> Manifest:
    rng = np.random.default_rng(0)
    files = {}
    for split, rows in (("train", 60), ("test", 60)):
        images = rng.integers(0, 256, (rows, 4, 4), np.uint8)
        content = write_shard(images, {"label": np.arange(rows) % 3}, shard_schema(NAMES, (4, 4)))
        files[shard_name(split, 0, 1)] = (content, rows, split)
    source = InputRef(role="source", kind="source", name="noise", digest="3" * 64)
    counts = {split: dict.fromkeys(NAMES, 20) for split in ("train", "test")}
    return publish(store, "datasets", files, (source,), counts=counts)


def publish_model(store: Store, dataset: Manifest) -> Manifest:
    """Publish an untrained network with the files that sampling and the report read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PixelCNN(NETWORK).eval()
    by_class = {name: {"bits_per_dim": 7.0, "bits_per_dim_stderr": 0.1} for name in NAMES}
    test = {"bits_per_dim": 7.0, "bits_per_dim_stderr": 0.1, "classes": by_class}
    texts = model_files(network, class_names=NAMES, dataset_digest=dataset.digest)
    texts |= {
        "evaluation.json": json.dumps({"test": test}).encode(),
        "curve.jsonl": json.dumps({"nimg": 32, "loss_bpd": 7.5}).encode(),
    }
    ref = InputRef(role="dataset", kind="datasets", name="tiny", digest=dataset.digest)
    files = {path: (content, None, None) for path, content in texts.items()}
    return publish(store, "models", files, (ref,), attribution="Drawn by a friend, CC BY 4.0.")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def sources(store) -> Sources:
    dataset = publish_dataset(store)
    return Sources(model=publish_model(store, dataset), dataset=dataset)


def read(store: Store, samples: Manifest):
    [shard] = split_shards(samples, "train")
    return open_shard(store.get(f"{samples.prefix}/{shard.path}")).read()


@pytest.fixture
def spec() -> QuotaSpec:
    counts = {"cat": 9, "ant": 5}
    filters = Filters(min_ink=14, drop_duplicates=True)
    return QuotaSpec(counts=counts, filters=filters, guidance=1.0)


def test_every_class_has_exactly_its_accepted_drawings(store, sources, spec):
    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    table = read(store, made)
    images = read_images(table["image"])
    assert (np.count_nonzero(images.reshape(len(images), -1), axis=1) >= 14).all()
    assert np.bincount(table["label"].to_numpy()).tolist() == [9, 5]
    assert table["class_name"].to_pylist().count("cat") == 9
    drawn, rejected = made.summary["drawn"], made.summary["rejected"]
    for name, count in spec.counts.items():
        assert drawn[name] == count + sum(rejected[name].values()), name
    assert any(reasons.get("too_little_ink") for reasons in rejected.values())
    assert len(made.summary["rounds"]) > 1
    assert {each["spec"]["guidance"] for each in made.summary["rounds"]} == {1.0}
    assert fill_quotas(spec, sources, store, "wanted") == made
    assert store.damaged(made) == []


@pytest.mark.slow
def test_every_row_is_drawn_again_bit_for_bit(store, sources, spec):
    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    for row in range(14):
        found = reproduce(made, store, row=row)
        assert found.is_equal, row
        assert found.recipe.model == sources.model.digest
    changed = dataclasses.replace(found, image=found.image ^ 1)
    assert not changed.is_equal
    with pytest.raises(ValueError, match="rows 0 to 13, there is no row 14"):
        reproduce(made, store, row=14)


def forget_rounds(store: Store, samples: Manifest) -> None:
    """Delete the rounds and their audits as gc does."""
    assert samples.summary["rounds"]
    for each in samples.summary["rounds"]:
        shutil.rmtree(store.local_path(f"samples/{each['name']}"))
        shutil.rmtree(store.local_path(f"reports/{each['name']}-audit"))


@pytest.mark.slow
def test_rows_are_drawn_again_from_the_model_alone(store, sources, spec, tmp_path):
    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    assert len(made.summary["rounds"]) > 1
    forget_rounds(store, made)
    assert all(reproduce(made, store, row=row).is_equal for row in (0, 13))
    other = open_store(str(tmp_path / "other"))
    copy_artifact(made, store, other)
    shutil.rmtree(store.local_path("samples"))
    there = other.latest("samples", "wanted")
    assert all(reproduce(there, other, row=row).is_equal for row in (0, 13))


def test_a_quota_of_an_earlier_version_says_that_it_has_no_recipe(store, sources, spec):
    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    rounds = [{k: v for k, v in each.items() if k != "spec"} for each in made.summary["rounds"]]
    old = dataclasses.replace(made, summary={**made.summary, "rounds": rounds})
    with pytest.raises(ValueError, match="run sketchmill quota again"):
        reproduce(old, store, row=0)


def test_a_quota_says_of_itself_what_other_samples_say(store, sources, spec):
    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    summary = made.summary
    assert summary["attribution"] == "Drawn by a friend, CC BY 4.0."
    assert summary["splits"] == {"train": 14}
    assert summary["counts"] == {"train": {"cat": 9, "ant": 5}}
    assert summary["model"] == sources.model.digest
    table = read(store, made)
    bits = table["bits_per_dim"].to_numpy()
    cats = np.array(table["class_name"].to_pylist()) == "cat"
    assert np.isclose(summary["bits_per_dim_by_class"]["cat"], bits[cats].mean())
    card = store.get(f"{made.prefix}/README.md").decode()
    assert "Drawn by a friend" in card
    assert '"min_ink": 14' in card
    assert f"num_examples: {len(table)}" in card


@pytest.mark.slow
def test_hugging_face_opens_a_quota(store, sources, spec, tmp_path):
    import datasets

    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    root = str(store.local_path(made.prefix))
    loaded = datasets.load_dataset(root, cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.features["label"].names == ["cat", "ant"]
    assert loaded["class_name"] == read(store, made)["class_name"].to_pylist()


@pytest.mark.slow
def test_no_accepted_drawing_is_near_one_of_another_round(store, sources):
    filters = Filters(min_twin_distance=1.2)
    spec = QuotaSpec(counts={"ant": 12, "cat": 12}, filters=filters, batch_size=8)
    made = fill_quotas(spec, sources, store, "wanted", processes=1)
    assert len(made.summary["rounds"]) > 1
    table = read(store, made)
    for label in (0, 1):
        images = read_images(table["image"])[table["label"].to_numpy() == label]
        flat = images.reshape(12, -1) / 255.0
        distance = np.linalg.norm(flat[:, None] - flat[None], axis=2)
        assert distance[~np.eye(12, dtype=bool)].min() >= 1.2


def test_a_closed_gate_publishes_no_quota(store, sources, spec):
    closed = gate_from({"class": {"min": {"ink_mean": 100}}}, source="gate")
    with pytest.raises(GateError, match=r"ink_mean of ant is .*; ink_mean of cat is"):
        fill_quotas(spec, sources, store, "wanted", gate=closed, processes=1)
    assert store.latest("samples", "wanted") is None
    opened = gate_from({"class": {"min": {"ink_mean": 14}}}, source="gate")
    made = fill_quotas(spec, sources, store, "wanted", gate=opened, processes=1)
    with pytest.raises(GateError):
        fill_quotas(spec, sources, store, "wanted", gate=closed, processes=1)
    assert store.latest("samples", "wanted") == made


def test_a_quota_that_cannot_be_filled_says_how_far_it_came(store, sources, monkeypatch):
    monkeypatch.setattr("model.audit.quota.MAX_ROUNDS", 2)
    spec = QuotaSpec(counts={"bee": 3}, filters=Filters(min_ink=17))
    with pytest.raises(QuotaError, match=r"after 2 rounds .* bee: 0 of 3"):
        fill_quotas(spec, sources, store, "wanted", processes=1)
    assert store.latest("samples", "wanted") is None


def test_rounds_have_seeds_of_their_own():
    seeds = [round_seed(seed, number) for seed in range(20) for number in range(5)]
    assert len(set(seeds)) == 100
    assert max(seeds) < 1 << 63


def run(capsys, *arguments: str) -> dict:
    code = run_command_line([*arguments, "--json", "--quiet"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])


@pytest.mark.slow
def test_the_commands_lead_from_counts_to_a_gated_export(store, sources, tmp_path, capsys):
    counts, filters, gate = (tmp_path / name for name in ("n.csv", "filters.toml", "gate.toml"))
    counts.write_text("class,count\nant,6\ncat,4\n")
    filters.write_text("min_ink = 12\n")
    at = ("--store", store.url)
    quota = run(
        capsys, "quota", "--model", "tiny", "--counts", str(counts), "--filters", str(filters),
        "--name", "made", "--processes", "1", *at,
    )  # fmt: skip
    assert quota["accepted"] == 10
    assert quota["drawn"] == 10 + sum(quota["rejected"].values())
    assert run(capsys, "reproduce", "made", "--row", "3", *at)["is_equal"]

    gate.write_text("[max]\nexact_copy_rate = 0.0\n")
    arguments = ("export", "samples/made", "--format", "hf,idx,png", "--gate", str(gate), *at)
    assert run(capsys, *arguments, "--dry-run")["drawings"] == {"train": 10}
    made = run(capsys, *arguments)
    root = Path(made["path"])
    assert made["drawings"] == 10
    assert {"audit.json", "gate.json", "report.html", "provenance.json", "idx", "hf", "png"} <= {
        path.name for path in root.iterdir()
    }
    assert "<h3>Gate</h3>" in (root / "report.html").read_text()

    gate.write_text("[min]\ncopy_distance_ratio = 100\n")
    exports = sorted(path for path in store.local_path("exports").rglob("manifest.json"))
    assert run_command_line([*arguments, "--quiet"]) == 1
    assert "copy_distance_ratio is" in capsys.readouterr().err
    assert sorted(store.local_path("exports").rglob("manifest.json")) == exports


@pytest.mark.slow
def test_an_export_with_filters_holds_the_accepted_rows(store, sources, tmp_path, capsys):
    at = ("--store", store.url)
    run(capsys, "sample", "--model", "tiny", "--samples-per-class", "12", "--processes", "1", *at)
    filters = tmp_path / "filters.toml"
    filters.write_text("min_ink = 14\n")
    gate = tmp_path / "gate.toml"
    gate.write_text("[class.min]\nink_low = 14\n")
    arguments = ("export", "samples/tiny", "--format", "idx", "--gate", str(gate), *at)
    assert run_command_line([*arguments, "--quiet"]) == 1  # all drawings do not keep to it
    assert "ink_low of ant is" in capsys.readouterr().err
    made = run(capsys, *arguments, "--filters", str(filters))
    audit = json.loads((Path(made["path"]) / "audit.json").read_text())
    assert made["drawings"] == audit["accepted"] == audit["num_drawings"]
    page = (Path(made["path"]) / "report.html").read_text()
    assert f"<b>{made['drawings']}</b><span>drawings accepted of 36 generated" in page
    assert "Gate passed." in page
    assert 0 < made["drawings"] < 36
    pixels = np.fromfile(Path(made["path"]) / "idx" / "train-images-idx3-ubyte", np.uint8)[16:]
    assert (np.count_nonzero(pixels.reshape(-1, 16), axis=1) >= 14).all()


def test_a_dataset_takes_no_gate(store, sources, tmp_path, capsys):
    gate = tmp_path / "gate.toml"
    gate.write_text("[max]\nx = 1\n")
    arguments = ["export", "datasets/tiny", "--gate", str(gate), "--store", store.url, "--quiet"]
    assert run_command_line(arguments) == 2
    assert "filters and gates are for samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant,5\nbee,x\n", "line 2: expected class,count, found bee,x"),
        ("ant,5\nant,6\n", "line 2: class 'ant' is counted twice"),
        ("ant,-5\n", "line 1: expected"),
        ("class,count\n", "counts no class"),
    ],
)
def test_a_count_file_with_a_mistake_says_which_line(tmp_path, text, message):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_counts(path)
