"""Figures of the data pipeline against its peers, on the same drawings.

Run: make bench NAME=pipeline (QUICKDRAW_SAMPLE gives real drawings, else doodles serve)
     make bench NAME=pipeline ARGS=--quick leaves 2 and 10 million drawings out

Every measurement runs in a process of its own. Rates of one process are drawings a CPU second,
which a neighbor disturbs less than wall time; the gain of a second process is wall time, over
enough drawings that starting Beam's processes is a part of it as small as in a real build.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import print_figure

from pipelines.catalogue import SEED_CLASSES

# Enough for the peers' start not to count, few enough to wait for: TFDS makes 4,000 a second.
PEER_ROWS = 40_000
BEAM_TABLE_ROWS = 2_500
SIZES = (200_000, 2_000_000, 10_000_000)
# What two processes are measured on, two fifths of all there is: 16 GB of files. Beam starts its
# processes twice, 2 s each time, which 10 million drawings notice (1.67 times as fast).
PAIR_ROWS = 20_000_000
# The first level below 285 bytes a drawing; at 1, the default, the pixels alone take 285.2, without
# a picture's frame, ids or labels. Level 10 takes four times as long.
DENSE_LEVEL = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure")
    parser.add_argument("--source")
    parser.add_argument("--rows", type=int, default=0)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(MEASUREMENTS[args.measure](Path(args.source), args.rows)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        report(Path(scratch), quick=args.quick)


def report(scratch: Path, *, quick: bool) -> None:
    """Print all figures."""
    source = original(scratch)
    # Many times the drawings, so that Beam's start is a small part of ours as of the peers'.
    large = repeated(source, scratch / "large", 2_000_000)
    ours = measure("build", large)
    tfds = measure("tfds", source, PEER_ROWS)
    batched = measure("beam_batched", large)
    versus("build_vs_tfds", ours, "TFDS 4.9.10 builder", tfds)
    versus("build_vs_beam_batched", ours, "Beam 2.77 WriteToParquetBatched", batched)
    shutil.rmtree(large)
    print_figure("parquet_bytes", measure("build", source)["bytes"], "bytes/drawing")
    dense = measure("build_dense", source)["bytes"]
    print_figure(f"parquet_bytes_level_{DENSE_LEVEL}", dense, "bytes/drawing")
    record = measure("tfrecord", source)
    versus("tfrecord_vs_tf", record, "tf.io.TFRecordWriter", measure("tf_writer", source, 20_000))
    reader = measure("reader", source)
    versus("reader_vs_tfds", reader, "TFDS as_dataset", measure("tfds_reader", source, PEER_ROWS))
    for peer in ("webdataset", "hugging_face"):
        versus(f"reader_vs_{peer}", reader, peer, measure(peer, source, PEER_ROWS))
    if not quick:
        pair(source, scratch)
        growth(source, scratch)


def pair(source: Path, scratch: Path) -> None:
    """Print what a second process gains."""
    directory = repeated(source, scratch / "pair", PAIR_ROWS)
    results = [measure(name, directory) for name in ("build_two", "build")]
    shutil.rmtree(directory)
    rates = [result["rows"] / result["wall_sec"] for result in results]
    print_figure(
        "build_two_processes", rates[0], "drawings/s", peer="one process", peer_value=rates[1],
        ratio=rates[0] / rates[1],
    )  # fmt: skip


def growth(source: Path, scratch: Path) -> None:
    """Print memory and cost per drawing at growing sizes, and that of each further drawing.

    The last is without Beam's start, which is a third of a build of the smallest size.
    """
    before = {"rows": 0, "cpu_sec": 0.0}
    for rows in SIZES:
        directory = repeated(source, scratch / f"rows-{rows}", rows)
        result = measure("build", directory)
        shutil.rmtree(directory)
        print_figure(f"rss_{rows}", result["rss_mib"], "MiB")
        print_figure(f"cpu_usec_{rows}", 1e6 * result["cpu_sec"] / result["rows"], "us/drawing")
        if before["rows"]:
            further = {key: result[key] - before[key] for key in before}
            cost = 1e6 * further["cpu_sec"] / further["rows"]
            print_figure(f"cpu_usec_further_{rows}", cost, "us/drawing")
        before = result


def versus(name: str, ours: dict, peer: str, theirs: dict) -> None:
    """Print our rate and the peer's, in drawings a CPU second."""
    rates = [result["rows"] / result["cpu_sec"] for result in (ours, theirs)]
    print_figure(
        name, rates[0], "drawings/cpu s", peer=peer, peer_value=rates[1], ratio=rates[0] / rates[1]
    )


def measure(name: str, source: Path, rows: int = 0) -> dict:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--source", str(source)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--rows", str(rows)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def original(scratch: Path) -> Path:
    """Return a directory of the twenty classes' bitmaps."""
    sample = os.environ.get("QUICKDRAW_SAMPLE")
    if sample:
        return Path(sample) / "rendered" / "numpy_bitmap"
    from pipelines.doodles import write_doodles

    return write_doodles(scratch) / "numpy_bitmap"


def repeated(source: Path, target: Path, rows: int) -> Path:
    """Write files that repeat the drawings of `source` until there are about `rows`."""
    target.mkdir()
    classes = {name: np.load(source / f"{name}.npy") for name in SEED_CLASSES}
    times = max(1, round(rows / sum(map(len, classes.values()))))
    for name, images in classes.items():
        shape = (len(images) * times, 784)
        out = np.lib.format.open_memmap(target / f"{name}.npy", "w+", np.uint8, shape)
        for index in range(times):
            out[index * len(images) : (index + 1) * len(images)] = images
        out.flush()
    return target


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
    from pipelines.build import build_dataset
    from pipelines.sources.opening import open_source
    from pipelines.spec import DatasetSpec
    from pipelines.store import open_store

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
    from pipelines.tfrecord import record_chunks

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
    from pipelines.stored_png import copy_pixels

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

if __name__ == "__main__":
    main()
