"""TensorFlow Datasets format: TFRecord files and the three metadata files that TFDS reads.

The pictures are stored PNGs, so all records of a file are one template. TFDS decodes them like
its own; they take 918 bytes a drawing where compressed ones take 450. If the rows have more than
a TFDS id (Google's columns, or seed, index and digests of samples), each is a feature, and the
class's name too; such records are made one by one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.drawings.tfds_files import tfds_directory, tfds_files
from pipelines.drawings.tfrecord import example_of, fixed_records, frame, tfds_name
from pipelines.export.formats.base import Format, Loader
from pipelines.export.job import Job, Record, Unit, range_units
from pipelines.export.rows import Batch, count_labels, read_rows
from pipelines.export.target import Target
from pipelines.store.artifacts import Store

# 60 MB a file, TFDS's own lower bound.
ROWS_PER_FILE = 65_536
_TEMPLATE_ROWS = 1_024
_FLOATS = ("halffloat", "float", "double")


class Tfds(Format):
    """The format's entry in the registry."""

    name = "tfds"
    bytes_per_drawing = 918
    description = "TFRecord of TensorFlow Datasets: tf.train.Example of image, a PNG, and label."

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan files of equal size."""
        del stage, records
        rows = job.spec.rows_per_file or ROWS_PER_FILE
        name = tfds_name(job.name)
        path = f"tfds/{tfds_directory(job.name)}/{name}"
        path += "-{split}.tfrecord-{index:05d}-of-{count:05d}"
        return range_units(job, format=self.name, task="records", rows_per_file=rows, path=path)

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Write one TFRecord file."""
        counts = np.zeros(len(job.class_names), np.int64)
        columns = ["image", "label", *job.provenance]
        with target.open(unit.outputs[0]) as sink:
            for batch in read_rows(source, job, unit.pieces, first_row=0, columns=columns):
                counts += count_labels(batch, job)
                for start in range(0, len(batch), _TEMPLATE_ROWS):
                    sink.write(_records(batch, slice(start, start + _TEMPLATE_ROWS), job))
        entry = sink.entry(rows=unit.rows, split=unit.split)
        return Record(name=unit.name, stage=0, files=(entry,), counts=tuple(counts.tolist()))

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """Describe splits and features, and name the classes."""
        entries = sorted((e for each in records for e in each.files), key=lambda e: e.path)
        texts = tfds_files(
            job.name,
            job.class_names,
            job.image_shape,
            job.credit,
            {split: [e for e in entries if e.split == split] for split in job.splits},
            columns={"class_name": "string"} | job.provenance if job.provenance else {},
        )
        folder = f"tfds/{tfds_directory(job.name)}"
        return {f"{folder}/{name}": text.encode() for name, text in texts.items()}

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format."""
        del records
        code = (
            "import tensorflow_datasets as tfds\n\n"
            f'builder = tfds.builder_from_directory("tfds/{tfds_directory(job.name)}")\n'
            f'drawings = builder.as_dataset(split="{job.splits[0]}")'
        )
        note = "`tfds.load` takes a name, which may be one of TensorFlow Datasets' own."
        return [Loader("tfds", code, note)]


def _records(batch: Batch, part: slice, job: Job) -> bytes:
    pngs, labels = batch.pngs(job.image_shape)[part], batch.labels[part]
    if not job.provenance:
        return fixed_records(pngs, labels)
    table = batch.table.slice(part.start, len(labels))
    columns = [_values(table[name], kind) for name, kind in job.provenance.items()]
    rows = zip(pngs, labels.tolist(), zip(*columns, strict=True), strict=True)
    return frame(
        [
            example_of(
                png.tobytes(),
                label,
                {"class_name": job.class_names[label]}
                | dict(zip(job.provenance, values, strict=True)),
            )
            for png, label, values in rows
        ]
    )


def _values(column: pa.ChunkedArray, kind: str) -> list[Any]:
    """Return a column's values; TFDS knows no missing ones: those are 0, not a number or ""."""
    missing = {"string": "", "bool": False}.get(kind, math.nan if kind in _FLOATS else 0)
    return [missing if value is None else value for value in column.to_pylist()]
