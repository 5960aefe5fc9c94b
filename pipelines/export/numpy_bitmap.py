"""Google's own layout: one .npy a class, (n, 784) uint8 behind a header of 80 bytes.

A class's drawings are spread over all shards, so the pixels are sorted twice: stage 0 writes
each range of rows to scratch in the order of its labels, stage 1 joins a class's slices. Every
pixel is read and written twice, whatever the number of classes, and a file is never in memory.
The drawings of a class keep their order: split after split, shard after shard.
"""

import csv
import io
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipelines.export.job import Format, Job, Piece, Record, Unit
from pipelines.export.names import bitmap_names
from pipelines.export.plan import range_units
from pipelines.export.rows import check_shape, read_rows
from pipelines.export.target import FileSink, Target, read_range
from pipelines.store import Store

# 103 MB of pixels of 28x28.
_ROWS_PER_GROUP = 131_072
_READ_BYTES = 16 << 20


class NumpyBitmap(Format):
    """The format's entry in the registry."""

    name = "numpy_bitmap"
    num_stages = 2

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan ranges to group by class, then one unit a class with drawings."""
        if stage == 0:
            rows = max(1, _ROWS_PER_GROUP * 784 // (job.image_shape[0] * job.image_shape[1]))
            path = "numpy_bitmap-group-{split}-{index:05d}-of-{count:05d}.bin"
            return range_units(job, format=self.name, task="group", rows_per_file=rows, path=path)
        counts = np.array([record.counts for record in records])
        paths = [f"{job.scratch}/{record.scratch_files[0].path}" for record in records]
        names = bitmap_names(job.class_names)
        return [
            _class_unit(job, label, names[label], paths, counts)
            for label in range(len(names))
            if counts[:, label].any()
        ]

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Group a range, or write a class."""
        if unit.task == "group":
            return _group(unit, job, source)
        with target.open(unit.outputs[0]) as sink:
            sink.write(npy_header(unit.rows, job.image_shape[0] * job.image_shape[1]))
            for path, start, length in unit.ranges:
                for begin in range(0, length, _READ_BYTES):
                    part = min(_READ_BYTES, length - begin)
                    sink.write(read_range(source, path, start + begin, part))
        return Record(name=unit.name, stage=1, files=(sink.entry(rows=unit.rows),))

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """List label, class and file: a file name need not be the class's."""
        rows = {entry.path: entry.rows for record in records for entry in record.files}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["label", "class_name", "file", "drawings"])
        for label, name in enumerate(bitmap_names(job.class_names)):
            path = f"numpy_bitmap/{name}.npy"
            writer.writerow([label, job.class_names[label], f"{name}.npy", rows.get(path, 0)])
        return {"numpy_bitmap-classes.csv": text.getvalue().encode()}


def npy_header(rows: int, pixels: int) -> bytes:
    """Return the header of format 1.0 as Google wrote it: 80 bytes, where NumPy takes 128.

    Longer than 80 bytes only if the row count has more than nine digits.
    """
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {pixels}), }}"
    total = -(-(10 + len(text) + 1) // 16) * 16
    padded = text.ljust(total - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode("ascii")


def _class_unit(
    job: Job, label: int, name: str, paths: Sequence[str], counts: npt.NDArray[np.int64]
) -> Unit:
    """Return the unit that joins the class's slice of every group."""
    pixels = job.image_shape[0] * job.image_shape[1]
    starts = counts[:, :label].sum(axis=1) * pixels
    lengths = counts[:, label] * pixels
    slices = zip(paths, starts.tolist(), lengths.tolist(), strict=True)
    return Unit(
        format="numpy_bitmap",
        stage=1,
        task="class",
        name=f"numpy_bitmap-class-{label:05d}",
        rows=int(counts[:, label].sum()),
        outputs=(f"numpy_bitmap/{name}.npy",),
        ranges=tuple((path, start, length) for path, start, length in slices if length),
    )


def _group(unit: Unit, job: Job, source: Store) -> Record:
    """Write the range's pixels to scratch, ordered by label; equal labels keep their order."""
    labels = _labels(source, job, unit.pieces)
    place = np.empty(len(labels), np.int64)
    place[np.argsort(labels, kind="stable")] = np.arange(len(labels))
    sorted_images = np.empty((len(labels), *job.image_shape), np.uint8)
    for batch in read_rows(source, job, unit.pieces, first_row=0, columns=["image", "label"]):
        rows = slice(batch.first_row, batch.first_row + len(batch))
        sorted_images[place[rows]] = check_shape(batch.images, job)
    name = unit.outputs[0]
    with FileSink(source, f"{job.scratch}/{name}", name) as sink:
        sink.write(sorted_images.reshape(-1).data)
    counts = np.bincount(labels, minlength=len(job.class_names))
    return Record(
        name=unit.name, stage=0, scratch_files=(sink.entry(),), counts=tuple(counts.tolist())
    )


def _labels(source: Store, job: Job, pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
    batches = read_rows(source, job, pieces, first_row=0, columns=["label"])
    return np.concatenate([batch.labels for batch in batches])
