"""MNIST's layout, LeCun et al. 1998: one file of images and one of labels a split, big-endian.

    images   00 00 08 03 | n, height, width as uint32 | n * height * width pixels
    labels   00 00 08 01 | n as uint32 | n labels of one byte

`test` is named t10k, as everywhere. Above 256 classes a label has two bytes: type 0B, and the name
ends in idx1-short, so that readers written for MNIST alone do not find what they would misread.
label_map.csv says what the labels mean. If the rows have more columns, train-rows.csv holds those,
a line a drawing in the same order.
"""

import contextlib
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipelines.drawings.class_paths import class_table
from pipelines.drawings.stored_png import copy_pixels
from pipelines.export.formats.base import NAMES_AS_TEXT, Format, Loader
from pipelines.export.job import Job, Record, Unit, cut_rows
from pipelines.export.rows import Batch, check_shape, count_labels, csv_lines, read_rows
from pipelines.export.target import Target
from pipelines.store.artifacts import Store

_PREFIXES = {"test": "t10k"}
_UINT8, _INT16 = 0x08, 0x0B
_MAX_UINT8_CLASSES = 256


class Idx(Format):
    """The format's entry in the registry."""

    name = "idx"
    bytes_per_drawing = 785
    description = "IDX, the format of MNIST: sizes as big-endian uint32, then pixels or labels."

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan one unit a split: a file of this format is one sequence, and nothing is encoded."""
        del stage, records
        return [_split_unit(job, split) for split in job.splits]

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Write a split's images and labels side by side."""
        counts = np.zeros(len(job.class_names), np.int64)
        code, dtype = label_type(len(job.class_names))
        columns = ["image", "label", *job.provenance]
        with contextlib.ExitStack() as stack:
            images, labels, *rest = (
                stack.enter_context(target.open(path)) for path in unit.outputs
            )
            images.write(struct.pack(">BBBBIII", 0, 0, _UINT8, 3, unit.rows, *job.image_shape))
            labels.write(struct.pack(">BBBBI", 0, 0, code, 1, unit.rows))
            for batch in read_rows(source, job, unit.pieces, first_row=0, columns=columns):
                counts += count_labels(batch, job)
                pixels = copy_pixels(check_shape(batch.images, job))
                images.write(pixels.reshape(-1).data)
                labels.write(batch.labels.astype(dtype).tobytes())
                for sink in rest:
                    sink.write(_csv_lines(batch, job))
        sinks = (images, labels, *rest)
        files = tuple(sink.entry(rows=unit.rows, split=unit.split) for sink in sinks)
        return Record(name=unit.name, stage=0, files=files, counts=tuple(counts.tolist()))

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """Write the label map."""
        del records
        return {"idx/label_map.csv": class_table(job.class_names, {})}

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format."""
        del records
        height, width = job.image_shape
        images, labels = idx_paths(job, job.splits[0])
        kind = label_type(len(job.class_names))[1].str.lstrip("|")
        code = f'''import numpy
import pandas

images = numpy.fromfile("{images}", "u1", offset=16).reshape(-1, {height}, {width})
labels = numpy.fromfile("{labels}", "{kind}", offset=8)
names = list(pandas.read_csv("idx/label_map.csv", {NAMES_AS_TEXT}).class_name)'''
        return [Loader("idx", code)]


def _csv_lines(batch: Batch, job: Job) -> bytes:
    """Return a line a drawing: row, label, class_name, then all other columns."""
    labels = batch.table["label"].combine_chunks()
    fields = {
        "row": pa.array(np.arange(batch.first_row, batch.first_row + len(batch))),
        "label": labels,
        "class_name": pa.array(list(job.class_names), pa.string()).take(labels),
    }
    fields |= {name: batch.table[name] for name in job.provenance}
    return csv_lines(pa.table(fields), header=batch.first_row == 0)


def label_type(num_classes: int) -> tuple[int, np.dtype]:
    """Return IDX's type code and NumPy's type of a label."""
    if num_classes <= _MAX_UINT8_CLASSES:
        return _UINT8, np.dtype(np.uint8)
    return _INT16, np.dtype(">i2")


def idx_paths(job: Job, split: str) -> tuple[str, str]:
    """Return the paths of a split's images and labels."""
    prefix = f"idx/{_PREFIXES.get(split, split)}"
    kind = "ubyte" if label_type(len(job.class_names))[0] == _UINT8 else "short"
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-{kind}"


def _split_unit(job: Job, split: str) -> Unit:
    shards = [shard for shard in job.shards if shard.split == split]
    rows = (f"idx/{_PREFIXES.get(split, split)}-rows.csv",) if job.provenance else ()
    return Unit(
        format="idx",
        stage=0,
        task="split",
        name=f"idx-{split}",
        split=split,
        rows=job.rows(split),
        pieces=cut_rows(shards, 0, job.rows(split)),
        outputs=(*idx_paths(job, split), *rows),
    )
