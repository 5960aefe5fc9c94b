"""The second pass: build one shard from its planned rows and put it under its final key.

Reads the rows, orders them by hash, encodes, puts the files, then their record
(pipelines/store/scratch.py): a run that was killed builds only the shards that are not done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.catalogue import catalogue, tfds_id
from pipelines.dataset.attributes import column, read_table_rows
from pipelines.dataset.packing import BLOCKS, Shard, pieces
from pipelines.dataset.scan import ScanUnit, pixels_file
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.batch import METADATA_COLUMNS, Drawings
from pipelines.drawings.hashing import add_sums, order_rows, pixel_hashes, sum_rows
from pipelines.drawings.parquet import shard_name, shard_schema, write_shard
from pipelines.drawings.tfrecord import TFRECORD_DIR, record_file_name, write_records
from pipelines.sources.registry import open_reader
from pipelines.store.artifacts import Store
from pipelines.store.manifest import file_entry
from pipelines.store.scratch import UnitRecord, checksum, damaged, do_unit, holds_all

METADATA_TYPES: Mapping[str, pa.DataType] = {
    "key_id": pa.int64(),
    "country_code": pa.string(),
    "recognized": pa.bool_(),
    "timestamp": pa.int64(),
}
# So many pixels squared still add up exactly in float32: 256 * 255**2 < 2**24.
_EXACT_PIXELS = 256
_STATISTICS_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord(UnitRecord):
    """What is known of a finished shard, which has one file a format.

    content           128-bit sum over its drawings, 32 hexadecimal characters
    pixel_sum, pixel_square_sum  over all pixels, exact
    """

    split: str
    rows: int
    content: str
    pixel_sum: int
    pixel_square_sum: int


@dataclass(frozen=True, slots=True)
class ShardUnit:
    """A shard to build, which of the run's works builds it, and where its plan is.

    path                     an object with the plans of all shards: an array of BLOCKS
    first_block, num_blocks  which of them are the shard's
    checksum                 of these

    The plan is not part of the unit: Beam pickles and compresses what a graph starts with several
    times (5 s for 10 million drawings), and some services take 10 MB of it at most.
    """

    shard: Shard
    work: int
    path: str
    first_block: int
    num_blocks: int
    checksum: str

    def blocks(self, store: Store) -> npt.NDArray[np.void]:
        """Read the shard's plan; raise ScratchError if it is not the one that was put."""
        size = BLOCKS.itemsize
        content = store.get_range(self.path, self.first_block * size, self.num_blocks * size)
        if checksum(content) != self.checksum:
            raise damaged(self.path)
        return np.frombuffer(content, BLOCKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedUnit:
    """Rows that the plan drops, by reason: nothing to do but to count them where Beam counts."""

    rows: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildWork:
    """The work of one shard.

    units         ranges that a plan's blocks refer to; here, as it is pickled once and not for
                  every shard
    prefix        the dataset's directory in the store
    scratch       where the records go
    dataset_name  names the TFRecord files
    class_names   of the source's labels, for files that mix classes
    """

    spec: DatasetSpec
    units: tuple[ScanUnit, ...]
    prefix: str
    scratch: str
    dataset_name: str
    class_names: tuple[str, ...]

    def __call__(self, unit: ShardUnit, store: Store) -> dict[str, int]:
        """Build and put the shard unless it is done; count its rows and bytes."""
        record, counted = do_unit(
            store,
            record_path(self.scratch, unit.shard),
            ShardRecord,
            is_whole=lambda record: holds_all(store, self.prefix, record.files),
            make=lambda: self._make(unit, store),
        )
        counted["rows_kept"] = record.rows
        if "made_units" in counted:
            counted["bytes_read"] = record.rows * self.spec.image_size**2
            counted["rows_written"] = record.rows
            counted["bytes_written"] = sum(entry.bytes for entry in record.files)
        return counted

    def _make(self, unit: ShardUnit, store: Store) -> ShardRecord:
        drawings, shard = self._gather(unit, store), unit.shard
        hashes = pixel_hashes(drawings.images)
        order = order_rows(hashes, self.spec.seed)
        drawings, hashes = drawings.take(order), hashes[order]
        files = []
        for path, content in self._encode(shard, drawings):
            store.put(f"{self.prefix}/{path}", content)
            files.append(file_entry(path, content, rows=shard.rows, split=shard.split))
        pixel_sum, square_sum = pixel_sums(drawings.images)
        return ShardRecord(
            files=tuple(files),
            split=shard.split,
            rows=shard.rows,
            content=f"{content_sum(self.spec, shard.split, drawings.label, hashes):032x}",
            pixel_sum=pixel_sum,
            pixel_square_sum=square_sum,
        )

    def _gather(self, unit: ShardUnit, store: Store) -> Drawings:
        """Return the planned rows, unit after unit; labels are positions in the spec's classes."""
        size = self.spec.image_size
        images = np.empty((unit.shard.rows, size, size), np.uint8)
        parts: dict[str, list[npt.NDArray[Any]]] = {"label": []}
        start = 0
        for piece in pieces(unit.blocks(store)):
            scan_unit, rows = self.units[piece.unit_index], piece.rows()
            file, first = pixels_file(scan_unit, store, size)
            images[start : start + len(rows)] = open_reader(file, size).read_rows(rows + first)
            start += len(rows)
            for name, values in self._columns(scan_unit, rows, store).items():
                parts.setdefault(name, []).append(values)
        assert start == unit.shard.rows
        return Drawings(images=images, **{k: np.concatenate(v) for k, v in parts.items()})

    def _columns(
        self, unit: ScanUnit, rows: npt.NDArray[np.int64], store: Store
    ) -> dict[str, npt.NDArray[Any]]:
        class_name = unit.file.class_name
        if class_name is not None and not self.spec.with_metadata:
            return {"label": np.full(len(rows), self.spec.class_names.index(class_name))}
        table = read_table_rows(store, unit.path, rows)
        if class_name is not None:
            columns = {"label": np.full(len(rows), self.spec.class_names.index(class_name))}
        else:
            positions = {name: i for i, name in enumerate(self.spec.class_names)}
            lookup = np.array([positions.get(name, -1) for name in self.class_names])
            columns = {"label": lookup[column(table, "label")]}
        if self.spec.with_metadata:
            columns |= {name: column(table, name) for name in METADATA_COLUMNS}
        return columns

    def _encode(self, shard: Shard, drawings: Drawings) -> list[tuple[str, bytes]]:
        files = []
        if "parquet" in self.spec.formats:
            path = shard_name(shard.split, shard.index, shard.count)
            columns = shard_columns(self.spec, drawings)
            content = write_shard(
                drawings.images,
                columns,
                dataset_schema(self.spec),
                compression_level=self.spec.compression_level,
            )
            files.append((path, content))
        if "tfrecord" in self.spec.formats:
            name = record_file_name(self.dataset_name, shard.split, shard.index, shard.count)
            path = f"{TFRECORD_DIR}/{name}"
            content = write_records(
                drawings.images,
                drawings.label,
                self.spec.tfrecord_images,
                record_columns(self.spec, drawings),
            )
            files.append((path, content))
        return files


@dataclass(frozen=True, slots=True)
class BuildWorks:
    """The work of shards of several datasets in one graph."""

    works: tuple[BuildWork, ...]

    def __call__(self, unit: ShardUnit | DroppedUnit, store: Store) -> dict[str, int]:
        """Build and put the shard, or count what is dropped."""
        if isinstance(unit, DroppedUnit):
            return {f"rows_dropped_{reason}": rows for reason, rows in unit.rows.items()}
        return self.works[unit.work](unit, store)


def record_path(scratch: str, shard: Shard) -> str:
    """Return where a shard's record is kept."""
    return f"{scratch}/{shard.split}-{shard.index:05d}-of-{shard.count:05d}.json"


def dataset_schema(spec: DatasetSpec) -> pa.Schema:
    """Return the columns of a dataset: image, label, tfds_id, and Google's if asked for."""
    extra: dict[str, pa.DataType] = {"tfds_id": pa.int16()}
    if spec.with_metadata:
        extra |= METADATA_TYPES
    return shard_schema(label_names(spec), spec.image_shape, extra)


def label_names(spec: DatasetSpec) -> tuple[str, ...]:
    """Return what the numbers in the column `label` mean.

    Shards of one class serve every list of classes, so their labels are TFDS ids and the names
    all 345; the manifest's `label_ids` says which of them a dataset has.
    """
    if spec.layout == "linked":
        return tuple(entry.name for entry in catalogue())
    return spec.class_names


def shard_columns(spec: DatasetSpec, drawings: Drawings) -> dict[str, Any]:
    """Return the values of all columns but the image."""
    ids = np.array([tfds_id(name) for name in spec.class_names], np.int16)
    labels = ids[drawings.label] if spec.layout == "linked" else drawings.label
    columns: dict[str, Any] = {"label": labels, "tfds_id": ids[drawings.label]}
    return columns | (drawings.metadata() if spec.with_metadata else {})


def record_columns(spec: DatasetSpec, drawings: Drawings) -> dict[str, Any]:
    """Return what TFRecords hold beside picture and label: all of Parquet's, with metadata.

    Without it they are TFDS's own, which have no more; the tfds_id follows from the label.
    """
    if not spec.with_metadata:
        return {}
    columns = shard_columns(spec, drawings)
    return {name: values.tolist() for name, values in columns.items() if name != "label"}


def content_sum(
    spec: DatasetSpec,
    split: str,
    labels: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
) -> int:
    """Return the 128-bit sum of drawings as members of their classes and this split."""
    order = np.argsort(labels, kind="stable")
    ordered, hashes = labels[order], hashes[order]
    edges = np.flatnonzero(np.diff(ordered)) + 1
    groups = zip(np.split(ordered, edges), np.split(hashes, edges), strict=True)
    return add_sums(
        *(sum_rows(part, spec.class_names[label[0]], split) for label, part in groups if len(label))
    )


def count_labels(class_names: tuple[str, ...], labels: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return the number of drawings of each class that has any."""
    numbers = np.bincount(labels, minlength=len(class_names)).tolist()
    return {name: number for name, number in zip(class_names, numbers, strict=True) if number}


def pixel_sums(images: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return the exact sum of all pixels and of their squares, independent of the order."""
    total = square_total = 0
    for start in range(0, len(images), _STATISTICS_ROWS):
        flat = images[start : start + _STATISTICS_ROWS].reshape(-1)
        padded = np.zeros(-(-flat.size // _EXACT_PIXELS) * _EXACT_PIXELS, np.float32)
        padded[: flat.size] = flat
        lanes = padded.reshape(-1, _EXACT_PIXELS)
        total += int(lanes.sum(axis=1).sum(dtype=np.float64))
        square_total += int(np.einsum("ij,ij->i", lanes, lanes).sum(dtype=np.float64))
    return total, square_total
