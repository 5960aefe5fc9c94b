"""WebDataset format: tar files of `<key>.png`, `<key>.cls` and `<key>.json` for more columns.

A key is the row's position in its split, nine digits. All records of a batch have one length,
so a tar is a template with a few columns of bytes changed: byte for byte what Python's tarfile
writes (ustar, no owner, no time), two orders of magnitude faster.

    512 header | 880 PNG, filled to 1,024 | 512 header | label, filled to 512 | 512 header | JSON
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.stored_png import png_bytes
from pipelines.export.formats.base import Format, Loader
from pipelines.export.job import Job, Record, Unit, range_units
from pipelines.export.rows import (
    ASCII_ZERO,
    Batch,
    Uint8Array,
    count_labels,
    decimal_digits,
    json_objects,
    octal_digits,
    read_rows,
)
from pipelines.export.target import Target
from pipelines.store.artifacts import Store

# 42 MB a file: large enough for an object store, small enough to shuffle by file.
ROWS_PER_FILE = 16_384
KEY_DIGITS = 9
BLOCK_BYTES = 512
# tarfile fills an archive to whole records of 20 blocks.
RECORD_BYTES = 20 * BLOCK_BYTES

_CHECKSUM = slice(148, 154)
# So many records (1.3 MB) stay in the second-level cache and reuse the allocator's memory.
_TEMPLATE_ROWS = 512


class WebDataset(Format):
    """The format's entry in the registry."""

    name = "webdataset"
    bytes_per_drawing = 2_560
    description = "WebDataset: <key>.png and <key>.cls, the label, of each drawing."

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan tar files of equal size."""
        del stage, records
        rows = job.spec.rows_per_file or ROWS_PER_FILE
        path = "webdataset/{split}-{index:06d}.tar"
        return range_units(job, format=self.name, task="tar", rows_per_file=rows, path=path)

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Write one tar."""
        counts = np.zeros(len(job.class_names), np.int64)
        columns = ["image", "label", *job.columns]
        length = 0
        with target.open(unit.outputs[0]) as sink:
            for batch in read_rows(
                source, job, unit.pieces, first_row=unit.first_row, columns=columns
            ):
                counts += count_labels(batch, job)
                for records in tar_records(batch, job):
                    sink.write(records)
                    length += records.nbytes
            sink.write(bytes(2 * BLOCK_BYTES + -(length + 2 * BLOCK_BYTES) % RECORD_BYTES))
        entry = sink.entry(rows=unit.rows, split=unit.split)
        return Record(name=unit.name, stage=0, files=(entry,), counts=tuple(counts.tolist()))

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """Describe the tars: classes, splits, members of a sample."""
        splits: dict[str, list[dict[str, object]]] = {split: [] for split in job.splits}
        for record in records:
            for entry in record.files:
                url = entry.path.removeprefix("webdataset/")
                splits[str(entry.split)].append({"url": url, "nsamples": entry.rows})
        description = {
            "class_names": list(job.class_names),
            "image_shape": list(job.image_shape),
            "members": ["png", "cls"] + ["json"] * bool(job.columns),
            "splits": splits,
        }
        content = json.dumps(description, indent=1, sort_keys=True).encode() + b"\n"
        return {"webdataset/dataset.json": content}

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format."""
        start = f"webdataset/{job.splits[0]}-"
        tars = [e for record in records for e in record.files if e.path.startswith(start)]
        code = (
            "import webdataset\n\n"
            f'tars = "{start}{{000000..{len(tars) - 1:06d}}}.tar"\n'
            'drawings = webdataset.WebDataset(tars, shardshuffle=False).decode("l8")'
        )
        return [Loader("webdataset", code, "`webdataset/dataset.json` names the labels.")]


def tar_records(batch: Batch, job: Job) -> Iterator[memoryview]:
    """Yield the tar members of a batch, a few hundred samples a piece."""
    pngs, labels = batch.pngs(job.image_shape), batch.labels
    texts = _texts(batch, job)
    template = TarTemplate(job, 0 if texts is None else texts.shape[1])
    rows = np.arange(batch.first_row, batch.first_row + len(batch))
    for start in range(0, len(batch), _TEMPLATE_ROWS):
        part = slice(start, start + _TEMPLATE_ROWS)
        text = None if texts is None else texts[part]
        yield template.fill(pngs[part], labels[part], rows[part], text)


class TarTemplate:
    """The bytes that all samples share, and where they differ."""

    def __init__(self, job: Job, json_bytes: int) -> None:
        """Lay out a sample whose JSON member has `json_bytes` bytes, 0 for none."""
        self.png_bytes = png_bytes(job.image_shape)
        png = _member(".png", bytes(self.png_bytes))
        self.cls_offset = len(png)
        # The length of a label is in its header, so each class has its own member.
        classes = [_member(".cls", str(label).encode()) for label in range(len(job.class_names))]
        self.cls_members = np.frombuffer(b"".join(classes), np.uint8).reshape(len(classes), -1)
        self.json_offset = self.cls_offset + self.cls_members.shape[1]
        text = _member(".json", bytes(json_bytes)) if json_bytes else b""
        self.record = np.frombuffer(png + classes[0] + text, np.uint8)
        self.headers = [0, self.cls_offset] + [self.json_offset] * bool(json_bytes)

    def fill(
        self,
        pngs: Uint8Array,
        labels: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        texts: Uint8Array | None,
    ) -> memoryview:
        """Return the samples' members as bytes."""
        records = np.empty((len(rows), len(self.record)), np.uint8)
        records[:] = self.record
        records[:, BLOCK_BYTES : BLOCK_BYTES + self.png_bytes] = pngs
        records[:, self.cls_offset : self.json_offset] = self.cls_members[labels]
        if texts is not None:
            start = self.json_offset + BLOCK_BYTES
            records[:, start : start + texts.shape[1]] = texts
        keys = decimal_digits(rows, KEY_DIGITS)
        added = keys.sum(axis=1, dtype=np.int64) - KEY_DIGITS * ASCII_ZERO
        for offset in self.headers:
            _patch_header(records[:, offset : offset + BLOCK_BYTES], keys, added)
        return records.reshape(-1).data


def _patch_header(headers: Uint8Array, keys: Uint8Array, added: npt.NDArray[np.int64]) -> None:
    """Put the keys into headers (n, 512) made for key 000000000 and set their checksums."""
    octal = headers[:, _CHECKSUM].astype(np.int64) - ASCII_ZERO
    sums = octal @ (8 ** np.arange(5, -1, -1)) + added
    headers[:, :KEY_DIGITS] = keys
    headers[:, _CHECKSUM] = octal_digits(sums, 6)


def _member(suffix: str, content: bytes) -> bytes:
    """Return header and content of a member of the key 000000000, filled to whole blocks."""
    member = tarfile.TarInfo("0" * KEY_DIGITS + suffix)
    member.size = len(content)
    header = member.tobuf(tarfile.USTAR_FORMAT)
    return header + content + bytes(-len(content) % BLOCK_BYTES)


def _texts(batch: Batch, job: Job) -> Uint8Array | None:
    """Return the other columns as JSON, filled with blanks to one length: (n, bytes).

    The length is a whole number of blocks, so that no member needs filling of its own.
    """
    if not job.columns:
        return None
    labels = batch.table["label"]
    names = pa.array(list(job.class_names), pa.string()).take(labels)
    columns = {"label": labels, "class_name": names}
    columns |= {name: batch.table[name] for name in job.columns}
    texts = json_objects(columns)
    width = -(-max(map(len, texts)) // BLOCK_BYTES) * BLOCK_BYTES
    joined = b"".join([text.ljust(width) for text in texts])
    return np.frombuffer(joined, np.uint8).reshape(len(texts), width)
