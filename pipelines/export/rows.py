"""Reading planned rows: one batch a row group of the input, pictures viewed in Arrow's buffer.

No more than one row group (8,192 drawings, 7 MB) is held, whatever the size of a shard.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from pipelines.export.job import Job, Piece, Shard
from pipelines.labels import class_positions
from pipelines.objects import Content
from pipelines.shards import IMAGE_TYPE, open_shard, read_images
from pipelines.store import Store
from pipelines.stored_png import PIXELS_OFFSET, encode_pngs, png_bytes, png_header

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive rows: `table` has the columns asked for, `first_row` counts from the split's."""

    table: pa.Table
    first_row: int

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels (n,) int64."""
        return self.table["label"].to_numpy()

    @property
    def images(self) -> Images:
        """The pixels (n, h, w) uint8; a view where the shard has our layout."""
        return read_images(self.table["image"])

    def pngs(self, image_shape: tuple[int, int]) -> Images:
        """Return the stored PNGs (n, png_bytes) uint8, as they lie in the shard if they can."""
        if (stored := _stored_pngs(self.table["image"], image_shape)) is not None:
            return stored
        return encode_pngs(np.ascontiguousarray(self.images))


def read_rows(
    store: Store, job: Job, pieces: Sequence[Piece], *, first_row: int, columns: Sequence[str]
) -> Iterator[Batch]:
    """Yield the rows of the pieces in order, at most a row group at a time.

    `columns` has the label; labels are positions in the job's class_names, whatever the layout.
    Raises ValueError if labels or picture sizes are not the dataset's.
    """
    row = first_row
    for piece in pieces:
        for table in _piece_tables(store, piece, columns):
            batch = Batch(table=_with_positions(table, job), first_row=row)
            _check_labels(batch, job, piece.shard)
            yield batch
            row += len(batch)


def read_shard(store: Store, shard: Shard) -> Content:
    """Return a shard's content; raise StoreError if it is not what the dataset's manifest says.

    Units one after another that read the same shard have it checked once.
    """
    local = store.local_path(shard.path)
    stamp = local.stat() if local is not None and local.exists() else None
    changed = (stamp.st_mtime_ns, stamp.st_ino) if stamp else ()
    return _checked(store, shard.path, shard.bytes, shard.sha256, changed)


@functools.lru_cache(maxsize=2)
def _checked(store: Store, path: str, size: int, sha256: str, _changed: tuple[int, ...]) -> Content:
    return store.checked(path, size, sha256)


def count_labels(batch: Batch, job: Job) -> npt.NDArray[np.int64]:
    """Return the number of drawings of each class in a batch."""
    return np.bincount(batch.labels, minlength=len(job.class_names)).astype(np.int64)


def check_shape(images: Images, job: Job) -> Images:
    """Return the images; raise ValueError if they are not of the dataset's size."""
    if images.shape[1:] != job.image_shape:
        raise ValueError(f"expected drawings of {job.image_shape}, found {images.shape[1:]}")
    return images


def csv_lines(table: pa.Table, *, header: bool) -> bytes:
    """Return a line a row, behind a line of the names if asked for."""
    buffer = io.BytesIO()
    pa.csv.write_csv(table, buffer, pa.csv.WriteOptions(include_header=header))
    return buffer.getvalue()


def _piece_tables(store: Store, piece: Piece, columns: Sequence[str]) -> Iterator[pa.Table]:
    rows = _shard_rows(store, piece)
    with open_shard(read_shard(store, piece.shard)) as parquet:
        start = 0
        for index in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(index).num_rows
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
            if len(wanted):
                table = parquet.read_row_group(index, columns=list(columns), use_threads=False)
                yield _pick(table, wanted - start)
            start = stop
        if len(rows) and rows[-1] >= start:
            raise ValueError(
                f"{piece.shard.path} has {start} rows, its manifest says more: run verify"
            )


def _with_positions(table: pa.Table, job: Job) -> pa.Table:
    if not job.label_ids:
        return table
    labels = class_positions(table["label"].to_numpy(), job.label_ids)
    place = table.schema.get_field_index("label")
    return table.set_column(place, table.schema.field(place), pa.chunked_array([labels]))


def _shard_rows(store: Store, piece: Piece) -> npt.NDArray[np.int64]:
    """Return the positions in the shard's file of the piece's rows, ascending."""
    if piece.shard.kept is None:
        return np.arange(piece.start, piece.stop)
    kept = piece.shard.kept
    content = store.checked(kept.path, kept.bytes, kept.sha256)
    mask = np.load(io.BytesIO(content), allow_pickle=False)
    return np.flatnonzero(mask)[piece.start : piece.stop]


def _pick(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    if len(rows) == rows[-1] - rows[0] + 1:
        return table.slice(int(rows[0]), len(rows))
    return table.take(pa.array(rows))


def _check_labels(batch: Batch, job: Job, shard: Shard) -> None:
    labels = batch.labels
    if labels.min() < 0 or labels.max() >= len(job.class_names):
        raise ValueError(
            f"{shard.path} has labels {labels.min()} to {labels.max()}, the dataset has "
            f"{len(job.class_names)} classes: run verify"
        )


def _stored_pngs(column: pa.ChunkedArray, image_shape: tuple[int, int]) -> Images | None:
    """Return the column's bytes as (n, png_bytes), None if they are not stored PNGs of ours."""
    if column.num_chunks != 1 or column.type != IMAGE_TYPE or column.null_count:
        return None
    values = column.chunk(0).flatten()[0]
    _, offsets_buffer, content = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[values.offset :][: len(values) + 1]
    length = png_bytes(image_shape)
    if content is None or (np.diff(offsets) != length).any():
        return None
    pngs = np.frombuffer(content, np.uint8)[offsets[0] : offsets[-1]].reshape(-1, length)
    header = np.frombuffer(png_header(*image_shape), np.uint8)
    return pngs if (pngs[:, :PIXELS_OFFSET] == header).all() else None
