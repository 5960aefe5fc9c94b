"""Read planned rows in batches of one row group, with pictures viewed in Arrow's buffer.

At most one row group (8,192 drawings, 7 MB) is held in memory, for shards of any size.

Formats of tiny samples are written as records of equal length, rows of one array. A writer of
single samples spends microseconds of Python on each drawing; here the bytes that all records share
are laid down once, and the few that differ (digits of a key, pixels, sums) are columns.
"""

import functools
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.drawings.parquet import IMAGE_TYPE, open_shard, read_images
from pipelines.drawings.reading import class_positions
from pipelines.drawings.stored_png import PIXELS_OFFSET, encode_pngs, png_bytes, png_header
from pipelines.export.job import Job, Piece, Shard
from pipelines.store.artifacts import Store
from pipelines.store.objects import Content

Uint8Array = npt.NDArray[np.uint8]

ASCII_ZERO = 48


Images = npt.NDArray[np.uint8]
_KEY_DIGITS = 9


def decimal_digits(values: npt.NDArray[np.int64], width: int) -> Uint8Array:
    """Return the decimal digits of each value as ASCII, filled with zeros: (n, width).

    >>> decimal_digits(np.array([7, 120]), 4).tobytes()
    b'00070120'
    """
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (values[:, None] // powers % 10 + ASCII_ZERO).astype(np.uint8)


def octal_digits(values: npt.NDArray[np.int64], width: int) -> Uint8Array:
    """Return the octal digits of each value as ASCII, filled with zeros: (n, width).

    >>> octal_digits(np.array([8]), 3).tobytes()
    b'010'
    """
    shifts = 3 * np.arange(width - 1, -1, -1, dtype=np.int64)
    return ((values[:, None] >> shifts & 7) + ASCII_ZERO).astype(np.uint8)


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

    `columns` has the label; labels are positions in the job's class_names, in both layouts.
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


def json_objects(columns: dict[str, pa.ChunkedArray | pa.Array]) -> list[bytes]:
    """Return one JSON object a row, keys in the order given; what is not finite is null.

    >>> json_objects({"seed": pa.array([1, None]), "name": pa.array(["a b", '"'])})
    [b'{"seed":1,"name":"a b"}', b'{"seed":null,"name":"\\\\""}']
    """
    parts: list[pa.Array | str] = ["{"]
    for index, (name, column) in enumerate(columns.items()):
        parts += ["," * bool(index) + json.dumps(name) + ":", _json_values(_whole(column))]
    parts += ["}"]
    return [text.encode() for text in _join(*parts).to_pylist()]


def file_names(directories: Sequence[str], labels: pa.Array, first_row: int) -> pa.Array:
    """Return `<directory of the label>/<row, 9 digits>.png` for consecutive rows."""
    rows = np.arange(first_row, first_row + len(labels))
    digits = pa.py_buffer(decimal_digits(rows, _KEY_DIGITS))
    offsets = pa.py_buffer(np.arange(len(labels) + 1, dtype=np.int32) * np.int32(_KEY_DIGITS))
    stems = pa.StringArray.from_buffers(len(labels), offsets, digits)
    return _join(pa.array(list(directories), pa.string()).take(labels), "/", stems, ".png")


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _join(*parts: pa.Array | str) -> pa.Array:
    """Return the parts joined row by row; a string stands in every row."""
    texts = [pa.scalar(part, pa.string()) if isinstance(part, str) else part for part in parts]
    return pc.call_function("binary_join_element_wise", [*texts, pa.scalar("", pa.string())])


def _json_values(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_floating(kind):
        finite = pc.call_function("is_finite", [column])
        column = pc.call_function("if_else", [finite, column, pa.scalar(None, kind)])
        text = column.cast(pa.string())
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        text = column.cast(pa.string())
    else:
        text = _quoted(column.cast(pa.string()))
    return pc.fill_null(text, "null")


def _quoted(column: pa.Array) -> pa.Array:
    """Escape each different text once: most columns of text repeat a few."""
    encoded = column.dictionary_encode()
    words = [None if word is None else json.dumps(word) for word in encoded.dictionary.to_pylist()]
    return pa.array(words, pa.string()).take(encoded.indices)
