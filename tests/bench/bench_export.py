"""Drawings/s of each export format against its usual writer, and the memory of an export.

The dataset is DRAWINGS generated drawings (one million by default) in eight classes. Ours is the
whole export: reading shards, hashing what is written, records, manifest, two processes and their
start. The usual writers get their drawings as arrays in memory, and only as many as a few
seconds allow: they write one sample after another, so their rate depends on the count only where
a disk falls behind.

Files of one picture are bounded by the file system, whose rate varies several times over, so there
is a second peer for them: two processes that do nothing but open, write and close as many. TMPDIR=/dev/shm puts everything into
memory, where the writers differ more than the disk lets them.

Run: make bench NAME=export      (DRAWINGS=100000 make bench NAME=export for a shorter one)
"""

import hashlib
import io
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from figures import print_figure

from pipelines.drawings.parquet import shard_name, shard_schema, write_shard
from pipelines.drawings.stored_png import png_bytes
from pipelines.export.run import ExportOptions, export_dataset
from pipelines.export.spec import ExportSpec
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import FileEntry, Manifest, artifact_digest, artifact_prefix

DRAWINGS = int(os.environ.get("DRAWINGS", "1000000"))
PEER_SEC = 6.0
NAMES = ("bee", "cactus", "frog", "sea turtle", "sun", "swan", "The Eiffel Tower", "tree")
SHARD_ROWS = 65_536


def walks(count: int, seed: int) -> np.ndarray:
    """Return drawings with the ink of real ones: random walks of 90 steps."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    place = rng.integers(4, 24, (count, 2))
    for _ in range(90):
        place = np.clip(place + rng.integers(-1, 2, place.shape), 0, 27)
        images[np.arange(count), place[:, 0], place[:, 1]] = rng.integers(60, 256, count)
    return images


def make_dataset(store: Store) -> Manifest:
    """Put a dataset of DRAWINGS drawings, a few thousand of them different."""
    pool = walks(SHARD_ROWS, 0)
    count = -(-DRAWINGS // SHARD_ROWS)
    digest = artifact_digest("datasets", {"drawings": DRAWINGS}, ())
    prefix = artifact_prefix("datasets", "bench", digest)
    entries, schema = [], shard_schema(NAMES)
    for index in range(count):
        rows = DRAWINGS * (index + 1) // count - DRAWINGS * index // count
        images = np.roll(pool, index, axis=0)[:rows]
        content = write_shard(images, {"label": np.arange(rows) % len(NAMES)}, schema)
        path = shard_name("train", index, count)
        store.put(f"{prefix}/{path}", content)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(
            FileEntry(path=path, bytes=len(content), sha256=sha256, rows=rows, split="train")
        )
    summary = {"class_names": list(NAMES), "image_shape": [28, 28]}
    return store.publish(
        Manifest(
            kind="datasets",
            name="bench",
            digest=digest,
            spec={},
            files=tuple(entries),
            summary=summary,
        )
    )


def our_rate(store: Store, dataset: Manifest, name: str, workers: int) -> float:
    """Return drawings/s of one export in a process of its own, and print its memory."""
    with tempfile.TemporaryDirectory(dir=store.url) as out:
        command = [sys.executable, __file__, store.url, dataset.digest, name, out, str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak_bytes = map(float, done.stdout.split())
    print_figure(f"export_{name}_peak_rss_{workers}", peak_bytes / 2**20, "MiB a process")
    return DRAWINGS / seconds


def export_once(url: str, digest: str, name: str, out: str, workers: str) -> None:
    """Be the process that exports; print seconds and the largest resident size of one process."""
    store = open_store(url)
    dataset = store.find("datasets", "bench", digest)
    options = ExportOptions(out=f"{out}/export", workers=int(workers))
    start = time.perf_counter()
    export_dataset(dataset, store, ExportSpec(formats=(name,)), name="bench", options=options)
    seconds = time.perf_counter() - start
    # Not RUSAGE_SELF: that begins at the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    own = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    workers_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(seconds, max(int(own), workers_kib) * 1024)


def rate_of(write: Callable[[np.ndarray, np.ndarray], None]) -> float:
    """Return drawings/s of a writer, given more drawings until it takes long enough."""
    count = 1_000
    while True:
        images, labels = walks(count, 1), np.arange(count) % len(NAMES)
        start = time.perf_counter()
        write(images, labels)
        seconds = time.perf_counter() - start
        if seconds > PEER_SEC / 4 or count >= 200_000:
            return count / seconds
        count = int(min(200_000, count * min(8, PEER_SEC / max(seconds, 0.01) / 2 + 1)))


def write_with_datasets(folder: Path) -> Callable:
    """Return `Dataset.to_parquet` of pictures and labels."""
    import datasets
    from PIL import Image

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )

    def write(images, labels):
        rows = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
        made = datasets.Dataset.from_dict(rows, features=features)
        made.to_parquet(folder / "peer.parquet")

    return write


def write_with_webdataset(folder: Path) -> Callable:
    """Return `webdataset.TarWriter`, which encodes the pictures with Pillow."""
    import webdataset

    def write(images, labels):
        with webdataset.TarWriter(str(folder / "peer.tar")) as sink:
            for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                sink.write({"__key__": f"{row:09d}", "png": image, "cls": label})

    return write


def write_with_tensorflow(folder: Path) -> Callable:
    """Return `tf.io.TFRecordWriter` of `tf.train.Example` with `tf.io.encode_png`."""
    import tensorflow as tf

    def write(images, labels):
        with tf.io.TFRecordWriter(str(folder / "peer.tfrecord")) as sink:
            for image, label in zip(images, labels.tolist(), strict=True):
                png = tf.io.encode_png(image[..., None]).numpy()
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                sink.write(example.SerializeToString())

    return write


def write_with_numpy(folder: Path) -> Callable:
    """Return `np.save` of each class."""

    def write(images, labels):
        for label, name in enumerate(NAMES):
            np.save(folder / f"{name}.npy", images[labels == label].reshape(-1, 784))

    return write


def write_idx(folder: Path) -> Callable:
    """Return `ndarray.tofile` behind a header: MNIST's layout has no writer of its own."""

    def write(images, labels):
        with (folder / "peer-idx3-ubyte").open("wb") as file:
            file.write(np.array([0x803, *images.shape], ">u4").tobytes())
            images.tofile(file)
        labels.astype(np.uint8).tofile(folder / "peer-idx1-ubyte")

    return write


def write_with_pillow(folder: Path) -> Callable:
    """Return `Image.save` into a directory a class."""
    from PIL import Image

    for name in NAMES:
        (folder / name).mkdir()

    def write(images, labels):
        for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG")
            (folder / NAMES[label] / f"{row:09d}.png").write_bytes(buffer.getvalue())

    return write


def bare_rate(folder: Path) -> float:
    """Return files/s of two processes that open, write and close files of a picture's size."""
    count, size = DRAWINGS // 2, png_bytes((28, 28))
    for worker in ("0", "1"):
        for name in NAMES:
            (folder / worker / name).mkdir(parents=True)
    start = time.perf_counter()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_bare, [f"{folder}/0", f"{folder}/1"], [count] * 2, [size] * 2))
    return 2 * count / (time.perf_counter() - start)


def write_bare(folder: str, count: int, size: int) -> None:
    """Write `count` files of `size` bytes."""
    content = os.urandom(size)
    for row in range(count):
        path = f"{folder}/{NAMES[row % len(NAMES)]}/{row:09d}.png"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(handle, content)
        os.close(handle)


PEERS: dict[str, tuple[str, Callable[[Path], Callable]]] = {
    "hf": ("datasets.Dataset.to_parquet", write_with_datasets),
    "webdataset": ("webdataset.TarWriter", write_with_webdataset),
    "tfds": ("tf.io.TFRecordWriter", write_with_tensorflow),
    "numpy_bitmap": ("numpy.save", write_with_numpy),
    "idx": ("numpy.ndarray.tofile", write_idx),
    "png": ("PIL.Image.save", write_with_pillow),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        dataset = make_dataset(store)
        for name, (peer, make_writer) in PEERS.items():
            with tempfile.TemporaryDirectory() as place:
                peer_rate = rate_of(make_writer(Path(place)))
            rate = our_rate(store, dataset, name, workers=2)
            print_figure(
                f"export_{name}",
                rate,
                "drawings/s",
                peer=peer,
                peer_value=peer_rate,
                ratio=rate / peer_rate,
            )
        with tempfile.TemporaryDirectory() as place:
            bare = bare_rate(Path(place))
        print_figure(
            "export_png_vs_bare_files",
            rate,
            "files/s",
            peer="open, write, close",
            peer_value=bare,
            ratio=rate / bare,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        export_once(*sys.argv[1:])
    else:
        main()
