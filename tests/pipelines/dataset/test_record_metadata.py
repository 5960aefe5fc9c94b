"""TFRecords carry Google's columns and the TFDS id where they are asked for."""

import json

import numpy as np
import pytest

from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.verify import verify_dataset
from pipelines.drawings.batch import METADATA_COLUMNS
from pipelines.drawings.parquet import open_shard
from pipelines.drawings.tfrecord import read_records, write_records
from pipelines.sources.base import SourceOptions
from pipelines.sources.doodles.make import write_doodles
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import open_store

CLASSES = ("sun", "bee")
METADATA = ("tfds_id", "key_id", "country_code", "recognized", "timestamp")


@pytest.fixture(params=["png", "raw"])
def built(tmp_path, request):
    strokes = write_doodles(tmp_path / "doodles", CLASSES, per_class=20) / "simplified"
    source = open_source(
        str(strokes), CLASSES, tmp_path / "cache", SourceOptions(columns=METADATA_COLUMNS)
    )
    store = open_store(str(tmp_path / "store"))
    spec = DatasetSpec(
        class_names=CLASSES,
        formats=("parquet", "tfrecord"),
        tfrecord_images=request.param,
        with_metadata=True,
    )
    return store, build_dataset(spec, source, store, "x")


def parquet_rows(store, manifest) -> list[dict]:
    (entry,) = (e for e in manifest.files if e.split == "train" and e.path.endswith(".parquet"))
    return open_shard(store.read(manifest, entry.path)).read().to_pylist()


def test_features_name_every_column_and_verify_reads_the_records(built):
    store, manifest = built
    path = "tfrecord/x/1.0.0/features.json"
    features = json.loads(store.read(manifest, path))["featuresDict"]["features"]
    assert list(features) == ["image", "label", *METADATA]
    assert verify_dataset(manifest, store) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated:DeprecationWarning")  # TFDS's own
def test_tfds_reads_the_columns_of_each_drawing(built):
    import tensorflow_datasets as tfds

    store, manifest = built
    root = store.local_path(f"{manifest.prefix}/tfrecord")
    builder = tfds.builder_from_directory(str(root / "x" / "1.0.0"))
    read = tfds.ReadConfig(interleave_cycle_length=1)
    rows = list(tfds.as_numpy(builder.as_dataset(split="train", read_config=read)))
    expected = parquet_rows(store, manifest)
    assert len(rows) == len(expected) > 0
    for row, values in zip(rows, expected, strict=True):
        found = {name: row[name] for name in METADATA}
        found["country_code"] = found["country_code"].decode()
        assert found == {name: values[name] for name in METADATA}


@pytest.mark.slow
def test_the_bytes_are_those_that_protobuf_writes_in_the_order_of_names():
    import tensorflow as tf

    images = np.arange(784, dtype=np.uint8).reshape(1, 28, 28)
    columns = {"key_id": [2**62], "country_code": ["DE"], "recognized": [False], "tfds_id": [-1]}
    content = write_records(images, np.array([300]), "raw", columns)
    (picture,), labels = read_records(content)
    assert (picture, labels.tolist()) == (images.tobytes(), [300])
    example = tf.train.Example.FromString(content[12:-4])
    values = example.features.feature
    assert list(values["key_id"].int64_list.value) == [2**62]
    assert list(values["country_code"].bytes_list.value) == [b"DE"]
    assert list(values["recognized"].int64_list.value) == [0]
    assert list(values["tfds_id"].int64_list.value) == [-1]
    assert example.SerializeToString(deterministic=True) == content[12:-4]
