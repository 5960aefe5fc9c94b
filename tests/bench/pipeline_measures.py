"""What bench_pipeline.py measures, ours and the peers', each in a process of its own.

A measurement takes the folder of bitmaps and, for slow peers, how many drawings to use. It returns
rows, wall and processor seconds, peak memory.
"""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.catalogue import SEED_CLASSES

BEAM_TABLE_ROWS = 2_500
# The first level below 285 bytes a drawing; at 1, the default, the pixels alone take 285.2, without
# a picture's frame, ids or labels. Level 10 takes four times as long.
DENSE_LEVEL = 10


def timed(rows: int, work: Callable[[], object]) -> dict:
    """Return rows, CPU and wall seconds of `work`, children included, and the peak memory."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    # Not RUSAGE_SELF: that begins at the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "rows": rows,
        "wall_sec": time.perf_counter() - wall,
        "cpu_sec": cpu_seconds() - cpu,
        "rss_mib": peak / 1024,
    }


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def build(directory: Path, workers: int = 1, **options: object) -> tuple[dict, object, object]:
    """Build a dataset of a directory and return the measurement, manifest and store."""
    from pipelines.dataset.build import build_dataset
    from pipelines.dataset.spec import DatasetSpec
    from pipelines.sources.registry import open_source
    from pipelines.store.artifacts import open_store

    with tempfile.TemporaryDirectory() as cache:
        source = open_source(str(directory), SEED_CLASSES, Path(cache))
    spec = DatasetSpec(class_names=SEED_CLASSES, duplicates="keep", **options)
    store = open_store(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    built = []
    result = timed(
        source.rows, lambda: built.append(build_dataset(spec, source, store, "x", workers=workers))
    )
    sizes = [entry.bytes for entry in built[0].files if entry.split]
    return result | {"bytes": sum(sizes) / source.rows}, built[0], store


def measure_build(directory: Path, _: int) -> dict:
    result, _, store = build(directory)
    shutil.rmtree(store.url)
    return result


def measure_build_dense(directory: Path, _: int) -> dict:
    result, _, store = build(directory, compression_level=DENSE_LEVEL)
    shutil.rmtree(store.url)
    return result


def measure_build_two(directory: Path, _: int) -> dict:
    result, _, store = build(directory, workers=2)
    shutil.rmtree(store.url)
    return result


def load(directory: Path, rows: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 28, 28) and labels of all classes, the first of each for `rows` in all."""
    each = rows // len(SEED_CLASSES) if rows else None
    images = [np.load(directory / f"{name}.npy")[:each] for name in SEED_CLASSES]
    labels = np.repeat(np.arange(len(images)), [len(part) for part in images])
    return np.concatenate(images).reshape(-1, 28, 28), labels


def tfds_builder(directory: Path, rows: int) -> tuple[object, int]:
    """Return TFDS's generator of the same drawings, as quickdraw_bitmap has it."""
    import tensorflow_datasets as tfds

    images, labels = load(directory, rows)

    class Sketches(tfds.core.GeneratorBasedBuilder):
        """quickdraw_bitmap of twenty classes."""

        VERSION = tfds.core.Version("3.0.0")
        pkg_dir_path = directory

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(names=list(SEED_CLASSES)),
            }
            described = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=described)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield f"x_{i}", {"image": image[..., None], "label": int(label)}

    return Sketches(data_dir=tempfile.mkdtemp()), len(images)


def measure_tfds(directory: Path, rows: int) -> dict:
    builder, count = tfds_builder(directory, rows)
    return timed(count, builder.download_and_prepare)


def measure_tfds_reader(directory: Path, rows: int) -> dict:
    builder, count = tfds_builder(directory, rows)
    builder.download_and_prepare()

    def read() -> None:
        for _ in builder.as_dataset(split="train").batch(256).as_numpy_iterator():
            pass

    return timed(count, read)


def measure_beam_batched(directory: Path, _: int) -> dict:
    import apache_beam as beam
    import pyarrow as pa
    from apache_beam.io.parquetio import WriteToParquetBatched
    from apache_beam.options.pipeline_options import PipelineOptions

    schema = pa.schema([("image", pa.binary(784)), ("label", pa.int64())])
    files = [np.load(directory / f"{name}.npy", mmap_mode="r") for name in SEED_CLASSES]
    paths = [str(directory / f"{name}.npy") for name in SEED_CLASSES]
    ranges = [
        (path, label, start)
        for label, path in enumerate(paths)
        for start in range(0, len(files[label]), BEAM_TABLE_ROWS)
    ]

    def table(element: tuple[str, int, int]) -> object:
        path, label, start = element
        images = np.load(path, mmap_mode="r")[start : start + BEAM_TABLE_ROWS]
        flat = pa.py_buffer(np.ascontiguousarray(images))
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(784), len(images), [None, flat])
        return pa.Table.from_arrays([column, pa.array([label] * len(images))], schema=schema)

    def run() -> None:
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            _ = (
                pipeline
                | beam.Create(ranges)
                | beam.Reshuffle()
                | beam.Map(table)
                | WriteToParquetBatched(
                    f"{tempfile.mkdtemp()}/x", schema=schema, codec="zstd", num_shards=8
                )
            )

    return timed(sum(map(len, files)), run)


def measure_tfrecord(directory: Path, _: int) -> dict:
    from pipelines.drawings.tfrecord import record_chunks

    images, labels = load(directory)

    def write() -> None:
        with (Path(tempfile.mkdtemp()) / "x").open("wb", buffering=0) as file:
            for piece in record_chunks(images, labels, "raw"):
                file.write(piece)

    return timed(len(images), write)


def measure_tf_writer(directory: Path, rows: int) -> dict:
    import tensorflow as tf

    images, labels = load(directory, rows)

    def write() -> None:
        with tf.io.TFRecordWriter(f"{tempfile.mkdtemp()}/x") as writer:
            for image, label in zip(images, labels.tolist(), strict=True):
                pixels = tf.train.BytesList(value=[image.tobytes()])
                number = tf.train.Int64List(value=[label])
                feature = {
                    "image": tf.train.Feature(bytes_list=pixels),
                    "label": tf.train.Feature(int64_list=number),
                }
                record = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(record.SerializeToString())

    return timed(len(images), write)


def measure_reader(directory: Path, _: int) -> dict:
    import torch

    from model.data import read_split
    from pipelines.drawings.stored_png import copy_pixels

    _, manifest, store = build(directory)
    total = manifest.summary["splits"]["train"]

    def read() -> None:
        for images, _ in read_split(store, manifest, split="train"):
            torch.from_numpy(copy_pixels(images))

    return timed(total, read)


def measure_hugging_face(directory: Path, rows: int) -> dict:
    import datasets

    _, manifest, store = build(directory, max_per_class=rows // len(SEED_CLASSES))
    root = str(store.local_path(manifest.prefix))
    loaded = datasets.load_dataset(root, split="train", cache_dir=tempfile.mkdtemp())
    loaded = loaded.with_format("torch", columns=["image", "label"])

    def read() -> None:
        for _ in loaded.iter(batch_size=256):
            pass

    return timed(len(loaded), read)


def measure_webdataset(directory: Path, rows: int) -> dict:
    import webdataset as wds

    images, labels = load(directory, rows)
    path = f"{tempfile.mkdtemp()}/x.tar"
    with wds.TarWriter(path) as writer:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            writer.write({"__key__": f"{i:08d}", "bin": image.tobytes(), "cls": int(label)})

    def read() -> None:
        stream = wds.WebDataset(path, shardshuffle=False).decode().to_tuple("bin", "cls")
        for _ in stream.batched(256):
            pass

    return timed(len(images), read)


MEASUREMENTS = {
    "build": measure_build,
    "build_dense": measure_build_dense,
    "build_two": measure_build_two,
    "tfds": measure_tfds,
    "tfds_reader": measure_tfds_reader,
    "beam_batched": measure_beam_batched,
    "tfrecord": measure_tfrecord,
    "tf_writer": measure_tf_writer,
    "reader": measure_reader,
    "hugging_face": measure_hugging_face,
    "webdataset": measure_webdataset,
}
