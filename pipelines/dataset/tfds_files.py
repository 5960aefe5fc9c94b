"""TFDS metadata files for a directory of TFRecord shards, written without TFDS."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.dataset.shards import ShardRecord, dataset_schema
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.credit import credit_of
from pipelines.drawings.tfrecord import TFDS_VERSION, TFRECORD_DIR, tfds_name

_CORE = "tensorflow_datasets.core.features."


def tfds_files(
    spec: DatasetSpec, name: str, summary: Mapping[str, Any], records: Sequence[ShardRecord]
) -> dict[str, str]:
    """Return path and text of dataset_info.json, features.json and label.labels.txt.

    `tfds.load(name, data_dir="<dataset>/tfrecord")` and `tfds.builder_from_directory` read them.
    """
    directory = f"{TFRECORD_DIR}/{tfds_name(name)}/{TFDS_VERSION}"
    return {
        f"{directory}/dataset_info.json": _dataset_info(spec, name, summary, records),
        f"{directory}/features.json": _features(spec),
        f"{directory}/label.labels.txt": "\n".join(spec.class_names) + "\n",
    }


def _dataset_info(
    spec: DatasetSpec, name: str, summary: Mapping[str, Any], records: Sequence[ShardRecord]
) -> str:
    splits = []
    for split in spec.split_names:
        shards = [record for record in records if record.split == split]
        if not shards:
            continue
        sizes = [e.bytes for record in shards for e in record.files if ".tfrecord" in e.path]
        splits.append(
            {
                "name": split,
                "numBytes": str(sum(sizes)),
                "shardLengths": [str(record.rows) for record in shards],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    content = {
        "name": tfds_name(name),
        "version": TFDS_VERSION,
        "fileFormat": "tfrecord",
        "description": f"Drawings of {len(spec.class_names)} classes.",
        **credit_of(summary).tfds(),
        "splits": splits,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    return json.dumps(content, indent=1) + "\n"


def _features(spec: DatasetSpec) -> str:
    height, width = spec.image_shape
    pixels = {"dtype": "uint8", "shape": {"dimensions": [str(height), str(width), "1"]}}
    if spec.tfrecord_images == "raw":
        image = {
            "pythonClassName": _CORE + "tensor_feature.Tensor",
            "tensor": pixels | {"encoding": "bytes"},
        }
    else:
        image = {"pythonClassName": _CORE + "image_feature.Image", "image": pixels}
    label = {
        "pythonClassName": _CORE + "class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(spec.class_names))},
    }
    features = {
        "pythonClassName": _CORE + "features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": label} | _more_features(spec)},
    }
    return json.dumps(features, indent=1) + "\n"


def _more_features(spec: DatasetSpec) -> dict[str, object]:
    """Return the features of the columns that records have with metadata."""
    if not spec.with_metadata:
        return {}
    columns = list(dataset_schema(spec))[2:]
    return {column.name: scalar_feature(str(column.type)) for column in columns}


def scalar_feature(kind: str) -> dict[str, object]:
    """Return TFDS's feature of one value a drawing, by its Arrow type."""
    if kind == "string":
        return {"pythonClassName": _CORE + "text_feature.Text", "text": {}}
    # An Example has integers of 64 bits and floats of 32.
    dtype = {"bool": "bool", "halffloat": "float32", "float": "float32", "double": "float32"}
    tensor = {"shape": {}, "dtype": dtype.get(kind, "int64"), "encoding": "none"}
    return {"pythonClassName": _CORE + "scalar.Scalar", "tensor": tensor}
