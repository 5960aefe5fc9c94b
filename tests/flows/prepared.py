"""A folder as TFDS prepares it, written without TFDS: shards of records and the files beside."""

import json
from pathlib import Path

import numpy as np

from pipelines.drawings.stored_png import encode_pngs
from pipelines.drawings.tfrecord import example, frame

CORE = "tensorflow_datasets.core.features."


NAMES = ("bee", "sun")


def features_of(label: dict, channels: int = 1) -> dict:
    pixels = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", str(channels)]}}
    image = {"pythonClassName": CORE + "image_feature.Image", "image": pixels}
    both = {"features": {"image": image, "label": label}}
    return {"pythonClassName": CORE + "features_dict.FeaturesDict", "featuresDict": both}


CLASS_LABEL = {
    "pythonClassName": CORE + "class_label_feature.ClassLabel",
    "classLabel": {"numClasses": "2"},
}


def write_tfds(
    folder: Path,
    pngs: list[bytes],
    labels: list[int],
    *,
    label: dict = CLASS_LABEL,
    names: tuple[str, ...] | None = NAMES,
    channels: int = 1,
    records: str = "tfrecord",
) -> Path:
    """Write the files that TFDS writes, two shards of one split."""
    folder.mkdir(parents=True)
    half = len(pngs) // 2
    parts = [(pngs[:half], labels[:half]), (pngs[half:], labels[half:])]
    split = {
        "name": "train",
        "numBytes": "1",
        "shardLengths": [str(len(part)) for part, _ in parts],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "mine", "version": "1.0.0", "fileFormat": records, "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(features_of(label, channels)))
    if names is not None:
        (folder / "label.labels.txt").write_text("".join(f"{name}\n" for name in names))
    for i, (pictures, numbers) in enumerate(parts):
        path = folder / f"mine-train.{records}-0000{i}-of-00002"
        write = write_array_records if records == "array_record" else write_records
        write(path, [example(png, n) for png, n in zip(pictures, numbers, strict=True)])
    return folder


def write_records(path: Path, examples: list[bytes]) -> None:
    path.write_bytes(frame(examples))


def write_array_records(path: Path, examples: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for content in examples:
        writer.write(content)
    writer.close()


def pngs_of(images: np.ndarray) -> list[bytes]:
    return [png.tobytes() for png in encode_pngs(images)]
