"""Parquet datasets of pictures and labels as a source: ours, and Hugging Face's way.

The pictures are a column `image` of {bytes, path} or of bytes; labels are whole numbers that the
schema's `huggingface` metadata names, or the names themselves.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings import METADATA_COLUMNS, Drawings
from pipelines.shards import read_images
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.files import content_digest, is_remote, local_path

IMAGE_COLUMNS = ("image", "img", "picture", "drawing")
LABEL_COLUMNS = ("label", "labels", "class", "word", "class_name")


def open_tables(directory: str, cache_dir: Path, *, name: str | None = None) -> Source:
    """Return the source of all Parquet files below a local directory, in the order of names.

    Raises BadFileError for a file that is damaged, has no such columns or no class names, or
    other class names than the first.
    """
    if is_remote(directory):
        raise ValueError(f"{directory}: Parquet datasets are read from a local directory")
    root = local_path(directory)
    paths = sorted(root.rglob("*.parquet"))
    described = [describe_table(path) for path in paths]
    class_names = _union([names for _, names, _ in described])
    files = [
        SourceFile(
            url=str(path),
            format="parquet",
            class_name=None,
            rows=rows,
            bytes=path.stat().st_size,
            digest=content_digest(str(path), cache_dir),
            layout={"labels": list(class_names)},
        )
        for path, (rows, _, _) in zip(paths, described, strict=True)
    ]
    return Source(
        name=name or directory,
        class_names=class_names,
        files=tuple(files),
        image_size=described[0][2],
    )


def describe_table(path: Path) -> tuple[int, tuple[str, ...], int]:
    """Return rows, class names and pixels a side of a Parquet file of pictures."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadFileError(f"{path} is not a Parquet file: {error}") from error
    schema = file.schema_arrow
    image, label = _pick(path, schema, IMAGE_COLUMNS), _pick(path, schema, LABEL_COLUMNS)
    names = _class_names(schema, label)
    if names is None:
        if not pa.types.is_string(schema.field(label).type):
            raise BadFileError(
                f"{path}: nothing names the numbers in the column {label!r}; expected Hugging "
                "Face's ClassLabel in the schema's metadata, or names as text"
            )
        names = sorted(set(file.read(columns=[label])[label].to_pylist()))
    first = next(file.iter_batches(1, columns=[image]), None)
    side = 28 if first is None else _side(path, read_images(first.column(0)))
    return file.metadata.num_rows, tuple(names), side


class TableReader:
    """Reads the drawings of one Parquet file, a row group at a time."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        self.names = {name: i for i, name in enumerate(file.layout["labels"])}
        self.parquet = pq.ParquetFile(file.url)
        schema = self.parquet.schema_arrow
        self.image = _pick(Path(file.url), schema, IMAGE_COLUMNS)
        self.label = _pick(Path(file.url), schema, LABEL_COLUMNS)
        self.own_names = _class_names(schema, self.label)
        self.columns = [name for name in METADATA_COLUMNS if name in schema.names]
        groups = range(self.parquet.num_row_groups)
        sizes = [self.parquet.metadata.row_group(i).num_rows for i in groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._group = functools.lru_cache(maxsize=1)(self._read_group)

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop); labels are positions in the source's names."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        parts = []
        for group in range(first, last):
            begin = int(self.starts[group])
            table = self._group(group)
            low, high = max(start - begin, 0), min(stop - begin, table.num_rows)
            parts.append(table.slice(low, high - low))
        table = pa.concat_tables(parts)
        images = read_images(table[self.image])
        if images.shape[1:] != (self.image_size, self.image_size):
            raise BadFileError(f"{self.file.url} has pictures of {images.shape[1:]} pixels")
        columns = {name: table[name].to_numpy() for name in self.columns}
        return Drawings(images=np.ascontiguousarray(images), label=self._labels(table), **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pictures are decoded once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("pictures are not read row by row")

    def _read_group(self, group: int) -> pa.Table:
        return self.parquet.read_row_group(group, columns=[self.image, self.label, *self.columns])

    def _labels(self, table: pa.Table) -> npt.NDArray[np.int64]:
        values = table[self.label].to_pylist()
        if self.own_names is not None:
            values = [self.own_names[value] for value in values]
        return np.array([self.names[value] for value in values], np.int64)


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names once, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _pick(path: Path, schema: pa.Schema, choices: Sequence[str]) -> str:
    for name in choices:
        if name in schema.names:
            return name
    raise BadFileError(f"{path} has no column {' or '.join(choices[:2])}; it has {schema.names}")


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None or pa.types.is_string(schema.field(label).type):
        return None
    return json.loads(content)["info"]["features"].get(label, {}).get("names")


def _side(path: Path, images: npt.NDArray[np.uint8]) -> int:
    height, width = images.shape[1:]
    if height != width:
        raise BadFileError(f"{path} has pictures of {height}x{width} pixels, expected squares")
    return height
