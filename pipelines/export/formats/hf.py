"""Hugging Face format: Parquet files with pictures and class names, and a dataset card.

A shard of the dataset already has the right layout: it is copied byte for byte, after a check
against its SHA-256. Only shards too small or too large, of the linked layout, or of which rows
were filtered out are cut anew; the pictures then pass as they are, without being decoded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.croissant import field, file_set, from_set, record_set
from pipelines.drawings.huggingface import card_yaml
from pipelines.drawings.parquet import (
    ROWS_PER_GROUP,
    open_shard,
    shard_name,
    shard_schema,
    shard_writer,
)
from pipelines.export.formats.base import Format, Loader, about
from pipelines.export.job import Job, Piece, Record, Shard, Unit, range_units
from pipelines.export.rows import count_labels, read_rows, read_shard
from pipelines.export.target import Target
from pipelines.store.artifacts import Store

ROWS_PER_FILE = 65_536
_FILES = "parquet-files"
# Shards of a size between these are copied.
_MIN_MEAN_ROWS, _MAX_ROWS = 8_192, 262_144


class HuggingFace(Format):
    """The format's entry in the registry."""

    name = "hf"
    bytes_per_drawing = 298

    def units(self, job: Job, stage: int, records: Sequence[Record]) -> list[Unit]:
        """Plan a copy of each shard where all of a split fit, files of equal size elsewhere."""
        del stage, records
        rows = job.spec.rows_per_file or ROWS_PER_FILE
        path = "hf/data/{split}-{index:05d}-of-{count:05d}.parquet"
        cut = range_units(job, format=self.name, task="cut", rows_per_file=rows, path=path)
        copied = {split for split in job.splits if _can_copy(job, split)}
        units = [unit for unit in cut if unit.split not in copied]
        return units + [
            unit for split in job.splits if split in copied for unit in _copies(job, split)
        ]

    def make(self, unit: Unit, job: Job, source: Store, target: Target) -> Record:
        """Copy or cut one file."""
        if unit.task == "copy":
            return _copy(unit, job, source, target)
        return _cut(unit, job, source, target)

    def closing_files(self, job: Job, records: Sequence[Record]) -> Mapping[str, bytes]:
        """Write the dataset card."""
        return {"hf/README.md": _card(job, records)}

    def loaders(self, job: Job, records: Sequence[Record]) -> list[Loader]:
        """Return what opens the format."""
        del records
        code = f'import datasets\n\ndrawings = datasets.load_dataset("hf")["{job.splits[0]}"]'
        return [Loader("hf", code)]

    def file_sets(self) -> list[dict[str, Any]]:
        """Return Croissant's set of the Parquet files."""
        return [file_set(_FILES, "application/x-parquet", "hf/data/*.parquet")]

    def record_sets(self, job: Job) -> list[dict[str, Any]]:
        """Return the columns image and label."""
        fields = [
            field(
                "drawings/image",
                "sc:ImageObject",
                from_set(_FILES, {"column": "image"}, jsonPath="bytes"),
            ),
            field("drawings/label", "sc:Integer", from_set(_FILES, {"column": "label"})),
        ]
        text = "A label is a position in: " + ", ".join(job.class_names)
        return [record_set("drawings", text, fields)]


def _can_copy(job: Job, split: str) -> bool:
    shards = [shard for shard in job.shards if shard.split == split]
    if job.spec.rows_per_file is not None or any(shard.kept for shard in shards):
        return False
    if job.label_ids:  # their labels are no positions in the export's class names
        return False
    fits = max(shard.rows for shard in shards) <= _MAX_ROWS
    return fits and (len(shards) == 1 or job.rows(split) >= len(shards) * _MIN_MEAN_ROWS)


def _copies(job: Job, split: str) -> list[Unit]:
    shards = [shard for shard in job.shards if shard.split == split]
    return [
        Unit(
            format="hf",
            stage=0,
            task="copy",
            name=f"hf-copy-{split}-{index:05d}-of-{len(shards):05d}",
            split=split,
            rows=shard.rows,
            pieces=(Piece(shard, 0, shard.rows),),
            outputs=(f"hf/{shard_name(split, index, len(shards))}",),
        )
        for index, shard in enumerate(shards)
    ]


def _copy(unit: Unit, job: Job, source: Store, target: Target) -> Record:
    shard = unit.pieces[0].shard
    with target.open(unit.outputs[0]) as sink:
        sink.write(memoryview(read_shard(source, shard)))
    counts = np.zeros(len(job.class_names), np.int64)
    for batch in read_rows(source, job, unit.pieces, first_row=0, columns=["label"]):
        counts += count_labels(batch, job)
    return _record(unit, sink.entry(rows=unit.rows, split=unit.split), counts)


def _cut(unit: Unit, job: Job, source: Store, target: Target) -> Record:
    """Write one file, one row group at a time, so memory does not depend on its size."""
    schema = _schema(source, unit.pieces[0].shard, job)
    columns = ["image", "label", *job.columns]
    counts = np.zeros(len(job.class_names), np.int64)
    group: list[pa.Table] = []
    with (
        target.open(unit.outputs[0]) as sink,
        pa.PythonFile(sink, mode="w") as file,
        shard_writer(file, schema) as writer,
    ):
        for batch in read_rows(source, job, unit.pieces, first_row=0, columns=columns):
            counts += count_labels(batch, job)
            group.append(batch.table.select(schema.names))
            group = _write_groups(writer, group, schema, ROWS_PER_GROUP)
        _write_groups(writer, group, schema, 1)
    return _record(unit, sink.entry(rows=unit.rows, split=unit.split), counts)


def _write_groups(
    writer: pq.ParquetWriter, tables: list[pa.Table], schema: pa.Schema, least_rows: int
) -> list[pa.Table]:
    """Write as many row groups as are full, `least_rows` and more; return what is left."""
    if sum(table.num_rows for table in tables) < least_rows:
        return tables
    joined = pa.concat_tables(tables).combine_chunks()
    joined = joined.replace_schema_metadata(schema.metadata)
    start = 0
    while joined.num_rows - start >= least_rows:
        writer.write_table(joined.slice(start, ROWS_PER_GROUP), row_group_size=ROWS_PER_GROUP)
        start += ROWS_PER_GROUP
    return [joined.slice(start)] if start < joined.num_rows else []


def _schema(source: Store, shard: Shard, job: Job) -> pa.Schema:
    """Return the shards' schema; its class names are the job's, also where shards know more."""
    with open_shard(read_shard(source, shard)) as parquet:
        schema = parquet.schema_arrow
    metadata = dict(schema.metadata or {})
    if job.label_ids and b"huggingface" in metadata:
        features = json.loads(metadata[b"huggingface"])
        features["info"]["features"]["label"]["names"] = list(job.class_names)
        metadata[b"huggingface"] = json.dumps(features).encode()
    return schema.with_metadata(metadata)


def _record(unit: Unit, entry, counts) -> Record:
    return Record(name=unit.name, stage=0, files=(entry,), counts=tuple(counts.tolist()))


def _card(job: Job, records: Sequence[Record]) -> bytes:
    """Return hf/README.md: YAML, then a page for people with exact sizes."""
    table = "\n".join(
        ["| split | drawings | files | bytes |", "|---|---|---|---|", *_rows(job, records)]
    )
    return f"{_yaml(job, records)}\n# {job.name}\n\n{about(job)}{table}\n".encode()


def _yaml(job: Job, records: Sequence[Record]) -> str:
    kinds = zip(job.columns, job.column_types, strict=True)
    extra = {name: pa.type_for_alias(kind) for name, kind in kinds}
    schema = shard_schema(job.class_names, job.image_shape, extra)
    entries = [entry for record in records for entry in record.files]
    splits = {split: [e for e in entries if e.split == split] for split in job.splits}
    return card_yaml(job.credit, schema, splits, is_synthetic=job.is_synthetic)


def _rows(job: Job, records: Sequence[Record]) -> Iterator[str]:
    entries = [entry for record in records for entry in record.files]
    for split in job.splits:
        files = [entry for entry in entries if entry.split == split]
        rows, size = sum(e.rows or 0 for e in files), sum(e.bytes for e in files)
        yield f"| {split} | {rows:,} | {len(files)} | {size:,} |"
