"""A linked dataset, whose labels are TFDS ids, serves every stage as a packed one does."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from model.audit.measures import measure
from model.data import read_split
from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.parquet import open_shard, read_images
from pipelines.drawings.reading import class_positions
from pipelines.export.run import export_dataset
from pipelines.export.spec import FORMATS, ExportSpec
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest

CLASSES = ("sun", "bee", "sea turtle")


@pytest.fixture
def built(tmp_path) -> tuple[Store, Manifest, Manifest]:
    """A store with the same drawings in both layouts: (store, linked, packed)."""
    source_dir, store = tmp_path / "source", open_store(str(tmp_path / "store"))
    source_dir.mkdir()
    for name in CLASSES:
        rng = np.random.default_rng(list(name.encode()))
        images = rng.integers(1, 256, (120, 28, 28), np.uint8)
        images[rng.random(images.shape) < 0.7] = 0
        (source_dir / f"{name}.npy").write_bytes(google_npy(images))
    source = open_source(str(source_dir), CLASSES, tmp_path / "cache")
    linked, packed = (
        build_dataset(DatasetSpec(class_names=CLASSES, layout=layout), source, store, layout)
        for layout in ("linked", "packed")
    )
    return store, linked, packed


def as_set(images, labels) -> set[tuple[bytes, int]]:
    return {(np.asarray(i).tobytes(), int(n)) for i, n in zip(images, labels, strict=True)}


def drawings(store: Store, manifest: Manifest, split: str) -> set[tuple[bytes, int]]:
    parts = list(read_split(store, manifest, split=split))
    return set().union(*(as_set(images, labels) for images, labels in parts))


def test_training_reads_the_drawings_and_labels_of_the_packed_one(built):
    store, linked, packed = built
    for split in ("train", "validation", "test"):
        found = drawings(store, linked, split)
        assert found == drawings(store, packed, split), split
        assert {label for _, label in found} == {0, 1, 2}


def test_the_audit_counts_the_classes_of_the_packed_one(built):
    store, linked, packed = built
    for manifest in (linked, packed):
        measured = measure(manifest, store, split="train", keep_per_class=2)
        counts = np.bincount(measured.labels).tolist()
        expected = packed.summary["counts"]["train"]
        assert counts == [expected[name] for name in CLASSES], manifest.name


@pytest.mark.slow
def test_every_format_exports_the_drawings_of_the_packed_one(built, tmp_path):
    store, linked, packed = built
    spec = ExportSpec(formats=FORMATS)
    exports = [export_dataset(m, store, spec, name=m.name) for m in (linked, packed)]
    assert exports[0].summary["counts"] == exports[1].summary["counts"]
    root = store.local_path(exports[0].prefix)
    for split in ("train", "validation", "test"):
        expected = drawings(store, packed, split)
        table = open_shard(root / f"hf/data/{split}-00000-of-00001.parquet").read()
        assert as_set(read_images(table["image"]), table["label"].to_numpy()) == expected
        with (root / f"png/{split}/metadata.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert all(CLASSES[int(row["label"])] == row["class_name"] for row in rows)
    for index, name in enumerate(CLASSES):
        images = np.load(root / f"numpy_bitmap/{name}.npy").reshape(-1, 28, 28)
        of_class = {
            i for s in packed.summary["splits"] for i, n in drawings(store, packed, s) if n == index
        }
        assert {image.tobytes() for image in images} == of_class
    metadata = open_shard(root / "hf/data/train-00000-of-00001.parquet").schema_arrow.metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == list(CLASSES)


def test_a_label_that_is_no_class_of_the_dataset_is_none_at_all():
    labels = np.array([7, 26, 300, -5, 8])
    assert class_positions(labels, (26, 7)).tolist() == [1, 0, -1, -1, -1]
    assert class_positions(labels, None) is labels


@pytest.mark.slow
def test_datasets_opens_a_linked_dataset_and_its_export(built, tmp_path):
    import datasets

    store, linked, packed = built
    export = export_dataset(linked, store, ExportSpec(formats=("hf",)), name="linked")
    places = [store.local_path(linked.prefix), store.local_path(export.prefix) / "hf"]
    for index, place in enumerate(places):
        loaded = datasets.load_dataset(str(place), cache_dir=str(tmp_path / f"cache-{index}"))
        for split, rows in loaded.items():
            names = [rows.features["label"].names[label] for label in rows["label"]]
            positions = [CLASSES.index(name) for name in names]
            assert as_set(rows["image"], positions) == drawings(store, packed, split), place


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # its pandas calls
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # mlcroissant's own
@pytest.mark.parametrize("is_export", [False, True])
def test_croissant_says_what_the_labels_of_a_linked_dataset_are(built, is_export):
    import mlcroissant

    store, artifact, _ = built
    if is_export:
        artifact = export_dataset(artifact, store, ExportSpec(formats=("hf",)), name="linked")
    path: Path = store.local_path(artifact.prefix) / "croissant.json"
    read = mlcroissant.Dataset(path)
    assert not read.metadata.ctx.issues.errors
    *_, record_set = json.loads(path.read_text())["recordSet"]
    found = {record["drawings/label"] for record in read.records("drawings")}
    if is_export:
        assert record_set["description"].endswith("a position in: sun, bee, sea turtle")
        assert found == {0, 1, 2}
    else:
        ids = artifact.summary["label_ids"]
        said = [f"{number} {name}" for number, name in zip(ids, CLASSES, strict=True)]
        assert record_set["description"].endswith(": " + ", ".join(said))
        assert found == set(ids)
