"""Bulk sampling: a standard dataset, the same bytes however it is made."""

import dataclasses
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import TINY

from model.data import open_split
from model.network.config import ConditionConfig
from model.sampling.shards import make_shards, publish_samples, sample_dataset
from model.sampling.spec import Arithmetic, SampleSpec, spec_to_json
from model.sampling.workers import Worker, WorkerError
from pipelines.drawings.grids import grid, to_png
from pipelines.drawings.parquet import open_shard, read_images
from pipelines.drawings.reading import split_shards
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

SPEC = SampleSpec(
    class_names=("cat", "ant"), per_class=(3, 5), seed=7, batch_size=2, rows_per_shard=3
)


def digests(manifest: Manifest) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files}


def table_of(store: Store, manifest: Manifest) -> dict[str, list]:
    columns: dict[str, list] = {}
    for entry in manifest.files:
        if entry.rows is None:
            continue
        table = open_shard(store.get(f"{manifest.prefix}/{entry.path}")).read()
        for name in table.column_names:
            if name != "image":
                columns[name] = columns.get(name, []) + table[name].to_pylist()
        columns["image"] = columns.get("image", []) + list(read_images(table["image"]))
    return columns


def test_samples_are_a_dataset_of_the_standard_layout(
    store: Store, model: Manifest, tmp_path: Path
) -> None:
    made = sample_dataset(SPEC, model, store, "new", processes=1)
    assert made.summary["counts"] == {"train": {"cat": 3, "ant": 5}}
    assert made.summary["is_synthetic"] is True
    assert [entry.rows for entry in split_shards(made, "train")] == [3, 3, 2]
    assert not store.damaged(made)
    drawings = open_split(store, made, split="train", cache_dir=tmp_path)
    assert drawings.class_names == ("cat", "ant")
    assert np.bincount(drawings.labels).tolist() == [3, 5]
    assert drawings.images.shape == (8, 4, 4)


def test_the_card_names_the_columns_that_the_shards_have(store: Store, model: Manifest) -> None:
    made = sample_dataset(SPEC, model, store, "new", processes=1)
    card = store.get(f"{made.prefix}/README.md").decode().split("---\n")[1]
    shard = split_shards(made, "train")[0]
    columns = open_shard(store.get(f"{made.prefix}/{shard.path}")).schema_arrow.names
    features = card.split("  features:\n")[1].split("  splits:")[0]
    assert re.findall(r"^  - name: (\w+)$", features, re.MULTILINE) == columns


def test_the_picture_has_the_first_drawings_of_each_class_of_all_shards(
    store: Store, model: Manifest
) -> None:
    made = sample_dataset(SPEC, model, store, "new", processes=1)  # of 3 cats, 5 ants; 3 a shard
    drawn = table_of(store, made)
    of_class = [
        [i for i, c in zip(drawn["image"], drawn["class_name"], strict=True) if c == name]
        for name in ("cat", "ant")
    ]
    assert [len(images) for images in of_class] == [3, 5]
    expected = to_png(grid([np.stack(images) for images in of_class], scale=2))
    assert store.read(made, "drawings.png") == expected


@pytest.mark.slow
def test_readers_of_datasets_open_the_samples(store: Store, model: Manifest, tmp_path) -> None:
    import datasets
    import duckdb
    import polars as pl

    made = sample_dataset(SPEC, model, store, "new", processes=1)
    root = store.local_path(made.prefix)
    loaded = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.features["label"].names == ["cat", "ant"]
    table = table_of(store, made)
    assert all(
        (np.asarray(a) == b).all() for a, b in zip(loaded["image"], table["image"], strict=True)
    )
    assert loaded["sample_index"] == table["sample_index"]
    pattern = str(root / "data" / "train-*.parquet")
    assert pl.read_parquet(pattern)["dataset"].unique().to_list() == ["0" * 64]
    counted = duckdb.sql(f"SELECT class_name, count(*) FROM '{pattern}' GROUP BY class_name")
    assert dict(counted.fetchall()) == {"cat": 3, "ant": 5}


def test_each_row_says_where_it_comes_from(store: Store, model: Manifest) -> None:
    table = table_of(store, sample_dataset(SPEC, model, store, "new", processes=1))
    assert table["label"] == [0, 1, 0, 1, 0, 1, 1, 1]
    assert table["sample_index"] == [0, 0, 1, 1, 2, 2, 3, 4]
    assert table["class_name"][:2] == ["cat", "ant"]
    assert set(table["seed"]) == {7}
    assert set(table["model"]) == {model.digest}
    assert set(table["dataset"]) == {model.inputs[0].digest} == {"0" * 64}


def test_bits_per_dim_is_that_of_the_finished_drawing(
    store: Store, model: Manifest, published_network
) -> None:
    table = table_of(store, sample_dataset(SPEC, model, store, "new", processes=1))
    images = torch.from_numpy(np.stack(table["image"]))[:, None]
    labels = torch.tensor([{"ant": 0, "cat": 2}[name] for name in table["class_name"]])
    with torch.no_grad():
        expected = published_network.bits_per_dim(images, labels)
    assert np.allclose(table["bits_per_dim"], expected.numpy(), rtol=1e-5)


def test_published_samples_are_not_drawn_again(store: Store, model: Manifest) -> None:
    made = sample_dataset(SPEC, model, store, "new", processes=1)
    seen: list[int] = []
    again = sample_dataset(
        SPEC, model, store, "new", processes=1, progress=lambda *event: seen.append(event[1])
    )
    assert again == made
    assert not seen


def test_only_missing_shards_are_made_and_in_any_order(store: Store, model: Manifest) -> None:
    expected = digests(sample_dataset(SPEC, model, store, "whole", processes=1))
    for shard in (2, 0):
        make_shards(SPEC, model, store, "parts", shards=[shard], processes=1)
    seen: list[tuple[int, int]] = []
    made = sample_dataset(
        SPEC, model, store, "parts", processes=1, progress=lambda *event: seen.append(event[1:3])
    )
    assert seen == [(0, 3), (2, 3), (3, 3)]
    del expected["README.md"]  # it has the artifact's name
    assert {path: digests(made)[path] for path in expected} == expected


@pytest.mark.parametrize("arithmetic", ["torch", "portable"])
def test_an_engine_draws_the_same_in_any_order_twice_and_after_a_pickle(
    store: Store, model: Manifest, arithmetic: Arithmetic
) -> None:
    spec = dataclasses.replace(SPEC, arithmetic=arithmetic)
    seen: list[tuple[int, dict[str, int]]] = []

    def engine(units, work, *, pending) -> None:
        sent = pickle.loads(pickle.dumps(work))
        seen.extend((unit, sent(unit, store)) for unit in [*reversed(units), units[0]])
        assert sum(pending.values()) == 8
        assert all(store.size(path) for path in pending)

    expected = digests(sample_dataset(spec, model, store, "here", processes=1))
    found = digests(sample_dataset(spec, model, store, "there", engine=engine))
    del expected["README.md"], found["README.md"]  # which have the artifact's name
    assert found == expected
    assert seen == [(n, {"drawings": (3, 3, 2)[n]}) for n in (2, 1, 0, 0)]


def test_a_missing_shard_cannot_be_published(store: Store, model: Manifest) -> None:
    make_shards(SPEC, model, store, "parts", shards=[1], processes=1)
    with pytest.raises(FileNotFoundError):
        publish_samples(SPEC, model, store, "parts")
    assert store.latest("samples", "parts") is None


def test_a_drawing_does_not_depend_on_what_else_is_drawn(store: Store, model: Manifest) -> None:
    # Products of other shapes round otherwise; in float64 by too little to change a level.
    spec = dataclasses.replace(SPEC, dtype="float64")
    first = table_of(store, sample_dataset(spec, model, store, "a", processes=1))
    other = SampleSpec(
        class_names=("bee", "cat"), per_class=4, seed=7, batch_size=5, dtype="float64"
    )
    second = table_of(store, sample_dataset(other, model, store, "b", processes=1))

    def cats(table: dict[str, list]) -> np.ndarray:
        rows = zip(table["class_name"], table["image"], strict=True)
        return np.stack([image for name, image in rows if name == "cat"])

    assert (cats(first) == cats(second)[:3]).all()


def test_unknown_class_is_named_with_the_nearest(store: Store, model: Manifest) -> None:
    spec = SampleSpec(class_names=("catt",), per_class=1)
    for processes in (1, 2):  # not as the last words of a process that died of it
        with pytest.raises(ValueError, match="no class 'catt'; did you mean cat"):
            sample_dataset(spec, model, store, "new", processes=processes)


def test_a_model_without_classes_draws_one_class(store: Store, publish_model) -> None:
    plain = dataclasses.replace(TINY, condition=ConditionConfig())
    model = publish_model(store, plain, name="plain")
    two = SampleSpec(class_names=("drawing", "other"), per_class=1)
    with pytest.raises(ValueError, match="unconditional, so it cannot sample 2 classes"):
        sample_dataset(two, model, store, "new", processes=1)
    one = SampleSpec(class_names=("drawing",), per_class=2)
    made = sample_dataset(one, model, store, "new", processes=1)
    assert made.summary["counts"] == {"train": {"drawing": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition": ConditionConfig(kind="spatial", shape=(8, 8, 1))}, "not on a class"),
        ({"image_shape": (8, 8, 3)}, "gray pictures of 8 bits"),
        ({"high": 256}, "gray pictures of 8 bits"),
    ],
)
def test_models_that_make_no_gray_classes_are_refused(
    store: Store, publish_model, change: dict, message: str
) -> None:
    config = dataclasses.replace(TINY, **{"condition": ConditionConfig()} | change)
    model = publish_model(store, config, name="other")
    with pytest.raises(ValueError, match=message):
        sample_dataset(SampleSpec(class_names=("ant",), per_class=1), model, store, "new")


@pytest.mark.slow
def test_ranks_make_the_same_bytes(store: Store, model: Manifest, tmp_path: Path) -> None:
    expected = digests(sample_dataset(SPEC, model, store, "whole", processes=1))
    spec_path = tmp_path / "spec.json"
    spec_path.write_text(json.dumps(spec_to_json(SPEC)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "model.sampling", "--store", store.url]
    command += ["--name", "ranks", "--model", f"tiny@{model.digest}", "--spec-json", str(spec_path)]
    subprocess.run(command, check=True, stderr=subprocess.PIPE)
    made = store.latest("samples", "ranks")
    assert made is not None
    del expected["README.md"]  # it has the artifact's name
    assert {path: digests(made)[path] for path in expected} == expected


@pytest.mark.slow
def test_a_failing_process_is_reported_as_one_that_draws_alone(
    store: Store, model: Manifest
) -> None:
    store.put(f"{model.prefix}/weights.safetensors", b"damaged")
    errors = []
    for processes in (1, 2):
        with pytest.raises(ValueError, match=r"weights\.safetensors") as caught:
            sample_dataset(SPEC, model, store, "new", processes=processes)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_a_killed_process_is_reported_with_its_exit_code(store: Store, model: Manifest) -> None:
    worker = Worker(SPEC, model, store)
    worker._process.kill()
    with pytest.raises(WorkerError, match="a sampling process ended with exit code -9"):
        worker.draw(slice(0, 2))
    worker.stop()


@pytest.mark.slow
def test_killed_run_continues_to_the_same_bytes(
    store: Store, model: Manifest, tmp_path: Path
) -> None:
    spec = dataclasses.replace(SPEC, per_class=60, rows_per_shard=20)
    expected = digests(sample_dataset(spec, model, store, "whole", processes=1))
    spec_path = tmp_path / "spec.json"
    spec_path.write_text(json.dumps(spec_to_json(spec)))
    command = [sys.executable, "-m", "model.sampling", "--store", store.url, "--name", "killed"]
    command += ["--model", f"tiny@{model.digest}", "--spec-json", str(spec_path)]
    command += ["--progress-json", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        while json.loads(child.stdout.readline())["done"] < 50:
            pass
        child.kill()
    done = [item.path for item in store.objects("samples/killed")]
    assert 1 <= len(done) < 6
    totals: list[int] = []
    made = sample_dataset(
        spec, model, store, "killed", processes=1, progress=lambda *event: totals.append(event[2])
    )
    assert totals[0] == 120 - 20 * len(done)
    del expected["README.md"]
    assert {path: digests(made)[path] for path in expected} == expected
