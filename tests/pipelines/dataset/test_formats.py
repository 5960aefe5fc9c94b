"""What is written is opened with the libraries that people use, not with our own reader."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.reading import read_shard
from pipelines.drawings.tfrecord import example, fixed_records, frame, read_records, write_records
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest

CLASSES = ("bee", "sea turtle", "The Eiffel Tower")

# The libraries that open our files use each other's deprecated calls.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def some_drawings(count: int, seed: int = 0, ink: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) > ink] = 0
    return images


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Manifest, Store]:
    root = tmp_path_factory.mktemp("formats")
    (root / "source").mkdir()
    for index, name in enumerate(CLASSES):
        content = google_npy(some_drawings(200 + index, index))
        (root / "source" / f"{name}.npy").write_bytes(content)
    source = open_source(str(root / "source"), CLASSES, root / "cache")
    spec = DatasetSpec(class_names=CLASSES, formats=("parquet", "tfrecord"), rows_per_shard=150)
    store = open_store(str(root / "store"))
    return build_dataset(spec, source, store, "three-classes"), store


def drawings_of(built, suffix: str, split: str) -> set[tuple[bytes, int]]:
    manifest, store = built
    found = set()
    for entry in manifest.files:
        if entry.split == split and suffix in entry.path:
            for images, labels, _ in read_shard(manifest, entry, store):
                pairs = zip(images, labels, strict=True)
                found |= {(image.tobytes(), int(label)) for image, label in pairs}
    return found


def test_both_formats_hold_the_same_drawings(built):
    for split in ("train", "validation", "test"):
        assert drawings_of(built, ".parquet", split) == drawings_of(built, ".tfrecord", split)


@pytest.mark.slow
def test_hugging_face_loads_pictures_names_and_counts(built, tmp_path):
    import datasets

    manifest, store = built
    root = store.local_path(manifest.prefix)
    loaded = datasets.load_dataset(str(root), cache_dir=str(tmp_path))
    assert {name: len(split) for name, split in loaded.items()} == manifest.summary["splits"]
    assert loaded["train"].features["label"].names == list(CLASSES)
    found = {(np.asarray(row["image"]).tobytes(), row["label"]) for row in loaded["train"]}
    assert found == drawings_of(built, ".parquet", "train")
    stream = datasets.load_dataset(str(root), split="test", streaming=True)
    assert sum(1 for _ in stream) == manifest.summary["splits"]["test"]


def test_polars_duckdb_and_pandas_read_the_shards(built):
    import duckdb
    import pandas as pd
    import polars as pl

    manifest, store = built
    pattern = str(store.local_path(manifest.prefix) / "data" / "train-*.parquet")
    expected = sorted(manifest.summary["counts"]["train"].values())
    frame_ = pl.read_parquet(pattern)
    assert sorted(frame_.group_by("label").len()["len"].to_list()) == expected
    rows = duckdb.sql(
        f"SELECT label, count(*), min(octet_length(image.bytes)) FROM '{pattern}' GROUP BY label"
    ).fetchall()
    assert sorted(count for _, count, _ in rows) == expected
    assert {size for _, _, size in rows} == {880}
    paths = sorted(Path(pattern).parent.glob("train-*.parquet"))
    table = pd.concat([pd.read_parquet(path) for path in paths])
    assert sorted(table["label"].value_counts().tolist()) == expected
    assert table["tfds_id"].isin([26, 254, 309]).mean() > 0


def test_the_tfds_id_is_kept_beside_the_label(built):
    from pipelines.catalogue import class_entry
    from pipelines.drawings.parquet import open_shard

    manifest, store = built
    entry = next(e for e in manifest.files if e.split == "train" and ".parquet" in e.path)
    table = open_shard(store.get(f"{manifest.prefix}/{entry.path}")).read()
    ids = [class_entry(CLASSES[label]).tfds_id for label in table["label"].to_pylist()]
    assert table["tfds_id"].to_pylist() == ids


@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # its pandas calls
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # mlcroissant's own
def test_croissant_metadata_are_valid_and_lead_to_the_drawings(built):
    import mlcroissant

    manifest, store = built
    path = store.local_path(f"{manifest.prefix}/croissant.json")
    read = mlcroissant.Dataset(jsonld=str(path))
    assert read.metadata.issues.errors == set()
    labels = Counter(record["drawings/label"] for record in read.records("drawings"))
    counts = manifest.summary["counts"].values()
    assert labels == {i: sum(c[name] for c in counts) for i, name in enumerate(CLASSES)}


@pytest.mark.slow
def test_tfds_opens_the_records_in_both_ways(built):
    tfds = pytest.importorskip("tensorflow_datasets")
    manifest, store = built
    root = store.local_path(f"{manifest.prefix}/tfrecord")
    builder = tfds.builder_from_directory(str(root / "three_classes" / "1.0.0"))
    assert builder.info.features["label"].names == list(CLASSES)
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert sizes == manifest.summary["splits"]
    loaded = tfds.load("three_classes", data_dir=str(root), split="train", as_supervised=True)
    found = {(image.tobytes(), int(label)) for image, label in loaded.as_numpy_iterator()}
    assert found == drawings_of(built, ".parquet", "train")
    part = tfds.load("three_classes", data_dir=str(root), split="train[:10%]")
    assert len(part) == round(manifest.summary["splits"]["train"] * 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_records_are_the_bytes_that_tensorflow_writes(tmp_path, encoding):
    tf = pytest.importorskip("tensorflow")
    images = some_drawings(300)
    labels = np.arange(300) * 7 % 345  # labels of one and of two bytes, mixed
    pictures, _ = read_records(write_records(images, labels, encoding))
    with tf.io.TFRecordWriter(str(tmp_path / "x")) as writer:
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            record = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(record.SerializeToString(deterministic=True))
    assert write_records(images, labels, encoding) == (tmp_path / "x").read_bytes()
    assert tf.io.decode_png(write_pngs(images)[0])[..., 0].numpy().tobytes() == images[0].tobytes()


def write_pngs(images: np.ndarray) -> list[bytes]:
    return read_records(write_records(images, np.zeros(len(images), np.int64), "png"))[0]


@pytest.mark.parametrize("labels", [[0], [127, 128], [3, 200, 5, 16_384, 0], list(range(130))])
def test_the_template_equals_one_record_after_the_other(labels):
    images = some_drawings(len(labels))
    one_by_one = frame(
        [example(image.tobytes(), label) for image, label in zip(images, labels, strict=True)]
    )
    flat = images.reshape(len(labels), -1)
    assert fixed_records(flat, np.array(labels)) == one_by_one
    pictures, found = read_records(one_by_one)
    assert pictures == [image.tobytes() for image in images]
    assert found.tolist() == labels


def test_a_damaged_record_is_found():
    content = bytearray(write_records(some_drawings(2), np.array([0, 1]), "raw"))
    content[900] ^= 1
    with pytest.raises(ValueError, match="TFRecord is damaged near byte 838"):
        read_records(bytes(content))


class FakeBucket:
    """Stands in for Google's bucket when TFDS downloads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def download(self, urls):
        return {label: str(self.directory / f"{label}.npy") for label in urls}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path]:
    """A dataset that TFDS's own generator made of three files: (TFDS directory, source)."""
    tfds = pytest.importorskip("tensorflow_datasets")
    import tensorflow as tf

    root = tmp_path_factory.mktemp("tfds")
    (root / "source").mkdir()
    for index, name in enumerate(CLASSES):
        images = some_drawings(300, index)
        (root / "source" / f"{name}.npy").write_bytes(google_npy(images))

    class Sketches(tfds.core.GeneratorBasedBuilder):
        """quickdraw_bitmap of three classes."""

        VERSION = tfds.core.Version("3.0.0")
        pkg_dir_path = root

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(names=list(CLASSES)),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(FakeBucket(root / "source"))}

        def _generate_examples(self, bucket):
            for label, path in bucket.download(CLASSES).items():
                with tf.io.gfile.GFile(path, "rb") as file:
                    for i, image in enumerate(np.load(file)):
                        record = {"image": image.reshape(28, 28, 1), "label": label}
                        yield f"{label}_{i}", record

    Sketches(data_dir=str(root / "data")).download_and_prepare()
    return root / "data" / "sketches" / "3.0.0", root / "source"


@pytest.mark.slow
def test_our_records_are_tfds_own_file_byte_for_byte(prepared):
    import hashlib

    import tensorflow as tf

    directory, source = prepared
    keyed = []
    for label, name in enumerate(CLASSES):
        for i, image in enumerate(np.load(source / f"{name}.npy").reshape(-1, 28, 28, 1)):
            key = int(hashlib.md5(f"train{name}_{i}".encode()).hexdigest(), 16)
            keyed.append((key, tf.io.encode_png(image).numpy(), label))
    ours = frame([example(picture, label) for _, picture, label in sorted(keyed)])
    theirs = next(directory.glob("*.tfrecord-*")).read_bytes()
    if theirs.index(b"label") < theirs.index(b"image"):
        # Protobuf orders the two entries by a seed of the process: in half of all processes TFDS
        # writes the label first. Ours is the order of its deterministic mode.
        records = tf.data.TFRecordDataset(str(next(directory.glob("*.tfrecord-*"))))
        parsed = [tf.train.Example.FromString(r) for r in records.as_numpy_iterator()]
        theirs = frame([example_.SerializeToString(deterministic=True) for example_ in parsed])
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("text", ["train[:250]", "train[10%:20%]", "train[-33:]", "train"])
def test_a_slice_selects_what_tfds_selects(prepared, tmp_path, text):
    import tensorflow_datasets as tfds

    directory, source_dir = prepared
    theirs = tfds.builder_from_directory(str(directory)).as_dataset(split=text)
    expected = {(e["image"].tobytes(), int(e["label"])) for e in theirs.as_numpy_iterator()}
    source = open_source(str(source_dir), CLASSES, tmp_path / "cache")
    spec = DatasetSpec(class_names=CLASSES, tfds_slice=text, splits=(("train", 1.0),))
    store = open_store(str(tmp_path / "store"))
    manifest = build_dataset(spec, source, store, "slice")
    assert drawings_of((manifest, store), ".parquet", "train") == expected


@pytest.mark.slow
def test_a_prepared_tfds_directory_is_a_source(prepared, tmp_path):
    directory, source_dir = prepared
    spec = DatasetSpec(class_names=("sea turtle", "bee"))
    store = open_store(str(tmp_path / "store"))
    through = open_source(str(directory), spec.class_names, tmp_path / "cache")
    direct = open_source(str(source_dir), spec.class_names, tmp_path / "cache")
    one = build_dataset(spec, through, store, "through-tfds")
    two = build_dataset(spec, direct, store, "direct")
    assert one.summary["content_digest"] == two.summary["content_digest"]
