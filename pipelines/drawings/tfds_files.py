"""TFDS metadata files for a directory of TFRecord shards, written without TFDS."""

import json
from collections.abc import Mapping, Sequence

from pipelines.drawings.credit import Credit
from pipelines.drawings.tfrecord import TFDS_VERSION, tfds_name
from pipelines.store.manifest import FileEntry

_CORE = "tensorflow_datasets.core.features."


def tfds_directory(dataset_name: str) -> str:
    """Return the directory, below `tfds.load`'s data_dir, of a dataset's files."""
    return f"{tfds_name(dataset_name)}/{TFDS_VERSION}"


def tfds_files(
    name: str,
    class_names: Sequence[str],
    image_shape: tuple[int, int],
    credit: Credit,
    splits: Mapping[str, Sequence[FileEntry]],
    *,
    columns: Mapping[str, str],
    is_raw: bool = False,
) -> dict[str, str]:
    """Return name and text of dataset_info.json, features.json and label.labels.txt.

    splits   the TFRecord files of each split that has any, in order
    columns  what records have beside image and label, by name: the Arrow type
    is_raw   whether the pictures are pixels, not PNG
    """
    features = {
        "image": _image_feature(image_shape, is_raw=is_raw),
        "label": {
            "pythonClassName": _CORE + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(class_names))},
        },
    } | {column: _scalar_feature(kind) for column, kind in columns.items()}
    content = {
        "pythonClassName": _CORE + "features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    info = {
        "name": tfds_name(name),
        "version": TFDS_VERSION,
        "fileFormat": "tfrecord",
        "description": f"Drawings of {len(class_names)} classes.",
        **credit.tfds(),
        "splits": [_split(split, files) for split, files in splits.items()],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
    return {
        "dataset_info.json": json.dumps(info, indent=1) + "\n",
        "features.json": json.dumps(content, indent=1) + "\n",
        "label.labels.txt": "\n".join(class_names) + "\n",
    }


def _split(name: str, files: Sequence[FileEntry]) -> dict[str, object]:
    return {
        "name": name,
        "numBytes": str(sum(entry.bytes for entry in files)),
        "shardLengths": [str(entry.rows) for entry in files],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }


def _image_feature(image_shape: tuple[int, int], *, is_raw: bool) -> dict[str, object]:
    height, width = image_shape
    pixels = {"dtype": "uint8", "shape": {"dimensions": [str(height), str(width), "1"]}}
    if is_raw:
        raw = pixels | {"encoding": "bytes"}
        return {"pythonClassName": _CORE + "tensor_feature.Tensor", "tensor": raw}
    return {"pythonClassName": _CORE + "image_feature.Image", "image": pixels}


def _scalar_feature(kind: str) -> dict[str, object]:
    """Return TFDS's feature of one value a drawing, by its Arrow type."""
    if kind == "string":
        return {"pythonClassName": _CORE + "text_feature.Text", "text": {}}
    # An Example has integers of 64 bits and floats of 32.
    dtype = {"bool": "bool", "halffloat": "float32", "float": "float32", "double": "float32"}
    tensor = {"shape": {}, "dtype": dtype.get(kind, "int64"), "encoding": "none"}
    return {"pythonClassName": _CORE + "scalar.Scalar", "tensor": tensor}
