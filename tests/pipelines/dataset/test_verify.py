"""Verify finds every lie of a manifest and of the files beside the shards."""

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pytest

from flows.cli import run_command_line
from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.verify import verify_dataset
from pipelines.drawings.parquet import open_shard, read_images, write_shard
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import open_store

CLASSES = ("bee", "sun")


@pytest.fixture
def built(tmp_path):
    (tmp_path / "source").mkdir()
    for name in CLASSES:
        rng = np.random.default_rng(list(name.encode()))
        images = rng.integers(1, 256, (120, 28, 28), np.uint8)
        images[rng.random(images.shape) < 0.7] = 0
        images[:2] = 0
        (tmp_path / "source" / f"{name}.npy").write_bytes(google_npy(images))
    source = open_source(str(tmp_path / "source"), CLASSES, tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    spec = DatasetSpec(class_names=CLASSES, formats=("parquet", "tfrecord"))
    return store, build_dataset(spec, source, store, "x")


def with_file(store, manifest, path, content):
    """Replace a file, and its entry: it is as published, yet says what is not so."""
    store.put(f"{manifest.prefix}/{path}", content)
    digest = hashlib.sha256(content).hexdigest()
    files = tuple(
        dataclasses.replace(entry, bytes=len(content), sha256=digest)
        if entry.path == path
        else entry
        for entry in manifest.files
    )
    return dataclasses.replace(manifest, files=files)


def test_a_dataset_as_it_was_built_holds(built):
    store, manifest = built
    assert verify_dataset(manifest, store) == []


def test_a_spec_that_does_not_give_the_digest_is_found(built):
    store, manifest = built
    lying = dataclasses.replace(manifest, spec={**manifest.spec, "seed": 7})
    assert verify_dataset(lying, store) == ["manifest.json: spec and inputs do not give its digest"]


@pytest.mark.parametrize(
    ("field", "found"),
    [("ink", "sun: the ink histogram is"), ("dropped", "sun: 118 kept and 1 dropped drawings")],
)
def test_a_lie_of_the_summary_is_found(built, field, found):
    store, manifest = built
    summary = dict(manifest.summary)
    if field == "ink":
        histogram = dict(summary["statistics"]["ink_histogram"])
        histogram["sun"] = histogram["sun"][::-1]
        summary["statistics"] = summary["statistics"] | {"ink_histogram": histogram}
    else:
        summary["dropped"] = {"blank": {"bee": 2, "sun": 1}}
    problems = verify_dataset(dataclasses.replace(manifest, summary=summary), store)
    assert len(problems) == (2 if field == "ink" else 1)  # of both formats
    assert all(found in problem for problem in problems)


def test_a_card_with_other_numbers_is_found(built):
    store, manifest = built
    card = store.read(manifest, "README.md").decode()
    rows = manifest.summary["splits"]["train"]
    said = card.replace(f"num_examples: {rows}", f"num_examples: {rows + 1}")
    (problem,) = verify_dataset(with_file(store, manifest, "README.md", said.encode()), store)
    assert problem.startswith("README.md: train has (bytes, drawings)")


def test_a_wrong_shard_length_for_tfds_is_found(built):
    store, manifest = built
    path = "tfrecord/x/1.0.0/dataset_info.json"
    text = (
        store.read(manifest, path)
        .decode()
        .replace('shardLengths": [\n    "', 'shardLengths": [\n    "1', 1)
    )
    (problem,) = verify_dataset(with_file(store, manifest, path, text.encode()), store)
    assert problem.startswith(f"{path}: train has shards of")


LINKED = ("build", "--layout", "linked", "--classes", "bee,sun", "--name", "pair", "--quiet")


@pytest.fixture
def linked(built, tmp_path):
    """A store that has a linked dataset, its two datasets of one class, and a packed one."""
    given = ("--source", str(tmp_path / "source"), "--store", built[0].url)
    assert run_command_line([*LINKED, *given]) == 0
    return built[0]


def verify(store, capsys) -> tuple[int, dict[str, str]]:
    capsys.readouterr()
    code = run_command_line(["verify", "--store", store.url])
    lines = capsys.readouterr().out.splitlines()
    return code, {line.split("@")[0]: line.split(maxsplit=1)[1] for line in lines}


def test_a_linked_dataset_and_those_of_its_classes_hold(linked, capsys):
    code, said = verify(linked, capsys)
    names = ("class-bee", "class-sun", "pair", "x")
    assert (code, said) == (0, {f"datasets/{name}": "holds" for name in names})


@pytest.mark.parametrize("name", ["pair", "class-sun"])
def test_damage_of_a_linked_dataset_is_found(linked, name, capsys):
    manifest = linked.resolve("datasets", name)
    entry = next(entry for entry in manifest.files if entry.split == "train")
    content = bytearray(linked.read(manifest, entry.path))
    content[100] ^= 1
    linked.put(f"{manifest.prefix}/{entry.path}", bytes(content))  # its copies stay as they are
    code, said = verify(linked, capsys)
    assert code == 1
    assert said.pop(f"datasets/{name}") == f"{entry.path}: content does not match its SHA-256"
    assert set(said.values()) == {"holds"}


@pytest.mark.parametrize(("name", "label"), [("x", 400), ("class-sun", 26)])  # 26 is the bee's
def test_a_label_of_no_class_is_found(linked, name, label):
    manifest = linked.resolve("datasets", name)
    entry = next(e for e in manifest.files if e.path.endswith(".parquet"))
    table = open_shard(linked.read(manifest, entry.path)).read()
    columns = {"label": pa.array([label] * len(table)), "tfds_id": table["tfds_id"]}
    images = np.ascontiguousarray(read_images(table["image"]))
    content = write_shard(images, columns, table.schema)
    problems = verify_dataset(with_file(linked, manifest, entry.path, content), linked)
    assert f"parquet: {entry.path}: {len(table)} labels are of no class" in problems


@pytest.mark.parametrize("fault", ["id", "column"])
def test_a_wrong_tfds_id_and_a_wrong_column_are_found(built, fault):
    store, manifest = built
    entry = next(e for e in manifest.files if e.path.endswith(".parquet"))
    table = open_shard(store.read(manifest, entry.path)).read()
    images = np.ascontiguousarray(read_images(table["image"]))
    columns = {"label": table["label"], "tfds_id": table["tfds_id"]}
    schema = table.schema
    if fault == "id":
        columns["tfds_id"] = pa.array([3, *table["tfds_id"].to_pylist()[1:]], pa.int16())
    else:
        schema = schema.append(pa.field("key_id", pa.int64()))
        columns["key_id"] = pa.array(range(len(images)), pa.int64())
    lying = with_file(store, manifest, entry.path, write_shard(images, columns, schema))
    found = [text for text in verify_dataset(lying, store) if text.startswith("parquet")]
    expected = "1 rows have the tfds_id of another class" if fault == "id" else "has the columns"
    assert len(found) == 1
    assert expected in found[0]
