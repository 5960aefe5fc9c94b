"""Figures of the data pipeline against its peers, on the same drawings.

Run: make bench NAME=pipeline (QUICKDRAW_SAMPLE gives real drawings, else doodles serve)
     make bench NAME=pipeline ARGS=--quick leaves 2 and 10 million drawings out

Every measurement runs in a process of its own. Rates of one process are drawings a CPU second,
which a neighbor disturbs less than wall time; the gain of a second process is wall time, over
enough drawings that starting Beam's processes is a part of it as small as in a real build.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from figures import print_figure
from pipeline_measures import DENSE_LEVEL, MEASUREMENTS

from pipelines.catalogue import SEED_CLASSES

# Enough for the peers' start not to count, few enough to wait for: TFDS makes 4,000 a second.
PEER_ROWS = 40_000
SIZES = (200_000, 2_000_000, 10_000_000)
# What two processes are measured on, two fifths of all there is: 16 GB of files. Beam starts its
# processes twice, 2 s each time, which 10 million drawings notice (1.67 times as fast).
PAIR_ROWS = 20_000_000


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
    results = []
    for rows in SIZES:
        directory = repeated(source, scratch / f"rows-{rows}", rows)
        result = measure("build", directory)
        shutil.rmtree(directory)
        print_figure(f"rss_{rows}", result["rss_mib"], "MiB")
        print_figure(f"cpu_usec_{rows}", 1e6 * result["cpu_sec"] / result["rows"], "us/drawing")
        results.append(result)
    for rows, (less, more) in zip(SIZES[1:], itertools.pairwise(results), strict=True):
        cost = 1e6 * (more["cpu_sec"] - less["cpu_sec"]) / (more["rows"] - less["rows"])
        print_figure(f"cpu_usec_further_{rows}", cost, "us/drawing")


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
    from pipelines.sources.doodles.make import write_doodles

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


if __name__ == "__main__":
    main()
