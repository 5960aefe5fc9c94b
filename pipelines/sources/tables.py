"""Parquet datasets of pictures and labels as a source: ours, and Hugging Face's way.

The pictures are a column `image` of {bytes, path} or of bytes; labels are whole numbers that the
schema's `huggingface` metadata names, or the names themselves.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings import METADATA_COLUMNS, Drawings
from pipelines.shards import read_images
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.files import (
    DANGLING,
    RangeFile,
    RemoteError,
    content_digest,
    file_size,
    file_version,
    first_line,
    is_remote,
    join_url,
    list_tree,
    local_path,
    why_absent,
)

IMAGE_COLUMNS = ("image", "img", "picture", "drawing")
LABEL_COLUMNS = ("label", "labels", "class", "word", "class_name")


def open_tables(
    directory: str,
    cache_dir: Path,
    *,
    name: str | None = None,
    skip_bad_files: bool = False,
) -> Source:
    """Return the source of all Parquet files below a directory, or of one, in order of names.

    Raises BadFileError for a file that is damaged, has no such columns or no class names; if
    such files are skipped, only if no other is left.
    """
    described, bad = [], []
    for url, size in _addresses(directory):
        try:
            described.append((url, size, *describe_table(url, size)))
        except BadFileError as error:
            bad.append((url, error))
    if bad and not (skip_bad_files and described):
        raise bad[0][1]
    class_names = _union([names for _, _, _, names, _ in described])
    files = [
        SourceFile(
            url=url,
            format="parquet",
            class_name=None,
            rows=rows,
            bytes=size,
            version=file_version(url),
            digest=content_digest(url, cache_dir),
            layout={"labels": list(class_names)},
        )
        for url, size, rows, _, _ in described
    ]
    return Source(
        name=name or directory,
        class_names=class_names,
        files=tuple(files),
        image_size=described[0][4],
        bad_files=tuple((url, str(error)) for url, error in bad),
    )


def table_names(directory: str) -> tuple[str, ...]:
    """Return the class names of all Parquet files below a directory that can be read."""
    found = []
    for url, size in _addresses(directory):
        with contextlib.suppress(BadFileError):
            found.append(describe_table(url, size)[1])
    return _union(found)


def describe_table(url: str, size: int) -> tuple[int, tuple[str, ...], int]:
    """Return rows, class names and pixels a side of a Parquet file of pictures."""
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    with _reading(url):
        file = _open(url, size)
        schema = file.schema_arrow
        image, label = _pick(url, schema, IMAGE_COLUMNS), _pick(url, schema, LABEL_COLUMNS)
        names = _class_names(url, schema, label)
        if names is None:
            if not _is_text(schema.field(label).type):
                raise BadFileError(
                    f"{url}: nothing names the numbers in the column {label!r}; expected Hugging "
                    "Face's ClassLabel in the schema's metadata, or names as text"
                )
            found = set(file.read(columns=[label])[label].to_pylist())
            names = sorted(name for name in found if name is not None)
        first = next(file.iter_batches(1, columns=[image]), None)
        side = 28 if first is None else _side(url, read_images(first.column(0)))
    return file.metadata.num_rows, tuple(names), side


class TableReader:
    """Reads the drawings of one Parquet file, a row group at a time."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        self.names = {name: i for i, name in enumerate(file.layout["labels"])}
        with _reading(file.url):
            self.parquet = _open(file.url, file.bytes)
            schema = self.parquet.schema_arrow
            self.image = _pick(file.url, schema, IMAGE_COLUMNS)
            self.label = _pick(file.url, schema, LABEL_COLUMNS)
            self.own_names = _class_names(file.url, schema, self.label)
        self.columns = [name for name in METADATA_COLUMNS if name in schema.names]
        groups = range(self.parquet.num_row_groups)
        sizes = [self.parquet.metadata.row_group(i).num_rows for i in groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._group = functools.lru_cache(maxsize=1)(self._read_group)

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop); labels are positions in the source's names.

        Raises BadFileError for a damaged row group, a picture that cannot be decoded or has
        another size, a label that names no class, a column of metadata with nulls.
        """
        with _reading(f"{self.file.url} from row {start}"):
            table = self._rows(start, stop)
            images = read_images(table[self.image])
        if images.shape[1:] != (self.image_size, self.image_size):
            raise BadFileError(f"{self.file.url} has pictures of {images.shape[1:]} pixels")
        columns = {name: self._values(table, name, start) for name in self.columns}
        labels = self._labels(table, start)
        return Drawings(images=np.ascontiguousarray(images), label=labels, **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pictures are decoded once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("pictures are not read row by row")

    def _rows(self, start: int, stop: int) -> pa.Table:
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        parts = []
        for group in range(first, last):
            begin = int(self.starts[group])
            table = self._group(group)
            low, high = max(start - begin, 0), min(stop - begin, table.num_rows)
            parts.append(table.slice(low, high - low))
        return pa.concat_tables(parts)

    def _read_group(self, group: int) -> pa.Table:
        return self.parquet.read_row_group(group, columns=[self.image, self.label, *self.columns])

    def _values(self, table: pa.Table, name: str, start: int) -> npt.NDArray[Any]:
        """Return a column's values; points in time are seconds, as Google's are."""
        column = table[name]
        if column.null_count:
            raise BadFileError(
                f"{self.file.url} from row {start}: {column.null_count} nulls in the column "
                f"{name!r}, expected a value in every row"
            )
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        return column.to_numpy()

    def _labels(self, table: pa.Table, start: int) -> npt.NDArray[np.int64]:
        """Return the labels; a number that names nothing, such as -1, must not name the last."""
        values = table[self.label].to_pylist()
        names = self.own_names
        if names is not None:
            known = range(len(names))
            values = [names[value] if value in known else value for value in values]
        for row, value in enumerate(values, start):
            if value not in self.names:
                wanted = "a class name" if names is None else f"0 to {len(names) - 1}"
                raise BadFileError(
                    f"{self.file.url}: row {row} has the label {value!r}, expected {wanted}"
                )
        return np.array([self.names[value] for value in values], np.int64)


def _addresses(directory: str) -> list[tuple[str, int]]:
    """Return address and size of each Parquet file: of the one named, or of all below."""
    if directory.endswith(".parquet") and (size := file_size(directory)) is not None:
        return [(directory, size)]
    found = list_tree(directory, ".parquet")
    return [(join_url(directory, name), size) for name, size in found.items()]


def _open(url: str, size: int) -> pq.ParquetFile:
    if not is_remote(url):
        return pq.ParquetFile(local_path(url))
    return pq.ParquetFile(pa.PythonFile(RangeFile(url, size), mode="r"), pre_buffer=True)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what Arrow and the decoders of pictures raise into an error that names the file."""
    try:
        yield
    except (BadFileError, RemoteError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadFileError(
            f"{where} is not a readable Parquet file of pictures: {first_line(error)}"
        ) from error


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names once, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _pick(url: str, schema: pa.Schema, choices: Sequence[str]) -> str:
    for name in choices:
        if name in schema.names:
            return name
    raise BadFileError(f"{url} has no column {' or '.join(choices[:2])}; it has {schema.names}")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _class_names(url: str, schema: pa.Schema, label: str) -> list[str] | None:
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None or _is_text(schema.field(label).type):
        return None
    try:
        return json.loads(content)["info"]["features"].get(label, {}).get("names")
    except (KeyError, TypeError, AttributeError) as error:
        raise BadFileError(f"{url}: the schema's `huggingface` metadata are damaged") from error


def _side(url: str, images: npt.NDArray[np.uint8]) -> int:
    height, width = images.shape[1:]
    if height != width:
        raise BadFileError(f"{url} has pictures of {height}x{width} pixels, expected squares")
    return height
