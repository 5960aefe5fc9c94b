"""Google's numpy_bitmap layout: one .npy per class, (n, 784) uint8 after an 80-byte header.

A class's drawings are spread over all shards, so the pixels are sorted twice: stage 0 writes
each range of rows to scratch in the order of its labels, stage 1 joins a class's slices. Every
pixel is read and written twice for any number of classes, and no file is held in memory.
The drawings of a class keep their order: split after split, shard after shard.
numpy_bitmap-classes.csv holds the number of drawings of each split beside the name of the file.

If the rows have more columns, numpy_bitmap-rows/CLASS.csv holds those: line i, behind the names,
describes drawing i of CLASS.npy, as line i of Google's .ndjson describes row i of the .npy.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.class_paths import class_table, path_names
from pipelines.export.formats.base import NAMES_AS_TEXT, Format, Loader
from pipelines.export.job import Job, Piece, Record, Unit, range_units
from pipelines.export.rows import check_shape, csv_lines, read_rows
from pipelines.export.target import FileSink, Target
from pipelines.store.artifacts import Store
from pipelines.store.manifest import FileEntry

# 103 MB of pixels of 28x28.
_ROWS_PER_GROUP = 131_072
_READ_BYTES = 16 << 20


class NumpyBitmap(Format):
    """The format's entry in the registry."""

    name = "numpy_bitmap"
    bytes_per_drawing = 784
    description = "NumPy array (drawings, pixels) uint8 of one class, split after split."
    num_stages = 2

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan ranges to group by class, then one unit a class with drawings."""
        if stage == 0:
            rows = max(1, _ROWS_PER_GROUP * 784 // _pixels(job))
            path = "numpy_bitmap-group-{split}-{index:05d}-of-{count:05d}.bin"
            return range_units(job, format=self.name, task="group", rows_per_file=rows, path=path)
        units = _join_units(job, records, "class", "numpy_bitmap/{}.npy")
        if job.provenance:
            units += _join_units(job, records, "rows", "numpy_bitmap-rows/{}.csv")
        return units

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Group a range, or write a class's pixels or lines."""
        if unit.task == "group":
            return _group(unit, job, source, target)
        header = npy_header(unit.rows, _pixels(job)) if unit.task == "class" else _names_line(job)
        with target.open(unit.outputs[0]) as sink:
            sink.write(header)
            for path, start, length in unit.ranges:
                for begin in range(0, length, _READ_BYTES):
                    part = min(_READ_BYTES, length - begin)
                    sink.write(target.store.get_range(path, start + begin, part))
        return Record(name=unit.name, stage=1, files=(sink.entry(rows=unit.rows),))

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """List of each class its file, its drawings, and how many of them are of each split."""
        counts = {split: np.zeros(len(job.class_names), np.int64) for split in job.splits}
        for record in records:
            for group in record.scratch_files[:1]:
                counts[str(group.split)] += record.counts
        columns: dict[str, Sequence[object]] = {
            "file": [f"{name}.npy" for name in path_names(job.class_names)],
            "drawings": np.sum(list(counts.values()), axis=0).tolist(),
        }
        columns |= {split: of_split.tolist() for split, of_split in counts.items()}
        return {"numpy_bitmap-classes.csv": class_table(job.class_names, columns)}

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format."""
        del records
        height, width = job.image_shape
        code = f"""import numpy
import pandas

table = pandas.read_csv("numpy_bitmap-classes.csv", {NAMES_AS_TEXT})
drawings = {{
    row.class_name: numpy.load("numpy_bitmap/" + row.file).reshape(-1, {height}, {width})
    for row in table[table.drawings > 0].itertuples()
}}"""
        note = (
            "A file has the drawings of all splits, split after split: `numpy_bitmap-classes.csv` "
            f"has the number of each ({', '.join(job.splits)}), and the file of each class."
        )
        return [Loader("numpy_bitmap", code, note)]

    def class_columns(self, job: Job) -> dict[str, Sequence[object]]:
        """Return the file of each class."""
        return {"file": [f"numpy_bitmap/{name}.npy" for name in path_names(job.class_names)]}


def npy_header(rows: int, pixels: int) -> bytes:
    """Return the header of format 1.0 as Google wrote it: 80 bytes, where NumPy takes 128.

    Longer than 80 bytes only if the row count has more than nine digits.
    """
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {pixels}), }}"
    total = -(-(10 + len(text) + 1) // 16) * 16
    padded = text.ljust(total - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode("ascii")


def _join_units(job: Job, records: Sequence[Record], task: str, path: str) -> list[Unit]:
    """Return a unit for each class with drawings: it joins the class's slice of every group."""
    counts = np.array([record.counts for record in records], np.int64)
    if task == "class":
        sizes, place = counts * _pixels(job), 0
    else:
        sizes, place = np.array([record.sizes for record in records], np.int64), 1
    starts = sizes.cumsum(axis=1) - sizes
    groups = [f"{job.scratch}/{record.scratch_files[place].path}" for record in records]
    units = []
    for label, name in enumerate(path_names(job.class_names)):
        slices = zip(groups, starts[:, label].tolist(), sizes[:, label].tolist(), strict=True)
        unit = Unit(
            format="numpy_bitmap",
            stage=1,
            task=task,
            name=f"numpy_bitmap-{task}-{label:05d}",
            rows=int(counts[:, label].sum()),
            outputs=(path.format(name),),
            ranges=tuple(piece for piece in slices if piece[2]),
        )
        if unit.rows:
            units.append(unit)
    return units


def _group(unit: Unit, job: Job, source: Store, target: Target) -> Record:
    """Write the range to scratch, ordered by label: pixels and lines; equal labels keep order."""
    labels = _labels(source, job, unit.pieces)
    order = np.argsort(labels, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    sorted_images = np.empty((len(labels), *job.image_shape), np.uint8)
    columns = ["image", "label", *job.provenance]
    tables = []
    for batch in read_rows(source, job, unit.pieces, first_row=0, columns=columns):
        rows = slice(batch.first_row, batch.first_row + len(batch))
        sorted_images[place[rows]] = check_shape(batch.images, job)
        tables.append(batch.table.drop_columns("image"))
    name = unit.outputs[0]
    with FileSink(target.store, f"{job.scratch}/{name}", name) as sink:
        sink.write(sorted_images.reshape(-1).data)
    files = [sink.entry(split=unit.split)]
    counts = np.bincount(labels, minlength=len(job.class_names)).tolist()
    sizes: list[int] = []
    if job.provenance:
        entry, sizes = _write_lines(
            pa.concat_tables(tables).take(pa.array(order)), unit, job, target, counts
        )
        files.append(entry)
    return Record(
        name=unit.name,
        stage=0,
        scratch_files=tuple(files),
        counts=tuple(counts),
        sizes=tuple(sizes),
    )


def _write_lines(
    table: pa.Table, unit: Unit, job: Job, target: Target, counts: Sequence[int]
) -> tuple[FileEntry, list[int]]:
    """Write the lines of a range ordered by label; return the file and its bytes by label."""
    sizes = []
    name = f"{unit.outputs[0]}.csv"
    with FileSink(target.store, f"{job.scratch}/{name}", name) as sink:
        start = 0
        for class_name, count in zip(job.class_names, counts, strict=True):
            part = table.slice(start, count)
            fields = {
                "split": pa.repeat(unit.split, count),
                "label": part["label"],
                "class_name": pa.repeat(class_name, count),
            }
            fields |= {name: part[name] for name in job.provenance}
            lines = csv_lines(pa.table(fields), header=False) if count else b""
            sink.write(lines)
            sizes.append(len(lines))
            start += count
    return sink.entry(), sizes


def _names_line(job: Job) -> bytes:
    names = ("split", "label", "class_name", *job.provenance)
    return csv_lines(pa.table({name: pa.array([], pa.string()) for name in names}), header=True)


def _pixels(job: Job) -> int:
    return job.image_shape[0] * job.image_shape[1]


def _labels(source: Store, job: Job, pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
    batches = read_rows(source, job, pieces, first_row=0, columns=["label"])
    return np.concatenate([batch.labels for batch in batches])
