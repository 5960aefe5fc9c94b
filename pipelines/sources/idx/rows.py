"""Metadata beside IDX files: train-rows.csv, a line a drawing, as exports of this program have it.

The table is parsed once into Parquet in the cache, of which rows are read in place.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.drawings.batch import METADATA_COLUMNS
from pipelines.processes.progress import doing
from pipelines.sources.base import BadFileError, SourceFile
from pipelines.sources.files import content_digest, file_version
from pipelines.sources.metadata import COLUMN_NAMES
from pipelines.sources.pieces import RangeFile
from pipelines.store.errors import reading

_WHAT = "a table of rows"
_GROUP_ROWS = 8_192
# Also the most that a line may have.
_BLOCK_BYTES = 1 << 20


def open_rows(url: str, size: int, rows: int, wanted: Sequence[str], cache_dir: Path) -> SourceFile:
    """Return the table as a file of a source, parsed into the cache.

    Raises BadFileError if it has another number of rows, no labels, or lacks a column.
    """
    digest = content_digest(url, cache_dir)
    target = cache_dir / "idx" / f"{digest.replace(':', '-')}.parquet"
    if not target.is_file():
        with reading(url, _WHAT), doing("index", url.rpartition("/")[2]):
            _parse(url, size, target)
    table = pq.ParquetFile(target)
    names = table.schema_arrow.names
    if lacking := [name for name in wanted if not set(COLUMN_NAMES[name]) & set(names)]:
        raise BadFileError(f"{url} has no column {', '.join(lacking)}; it has {', '.join(names)}")
    if table.metadata.num_rows != rows:
        raise BadFileError(
            f"{url} has {table.metadata.num_rows} rows for {rows} drawings: copy both again"
        )
    return SourceFile(
        url=url,
        format="idx",
        class_name=None,
        rows=rows,
        bytes=size,
        digest=digest,
        version=file_version(url),
        layout={"table": str(target)},
    )


class RowTable:
    """Rows of a parsed table, a group at a time."""

    def __init__(self, path: str) -> None:
        self.table = pq.ParquetFile(path)
        groups = range(self.table.num_row_groups)
        sizes = [self.table.metadata.row_group(group).num_rows for group in groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self._group, self._rows = -1, pa.table({})

    def read(self, start: int, stop: int) -> pa.Table:
        """Return the rows [start, stop), all columns as text."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        parts = []
        for group in range(first, last):
            if group != self._group:
                self._group, self._rows = group, self.table.read_row_group(group, use_threads=False)
            begin = max(start - int(self.starts[group]), 0)
            parts.append(self._rows.slice(begin, stop - int(self.starts[group]) - begin))
        return pa.concat_tables(parts)


def _parse(url: str, size: int, target: Path) -> None:
    """Write the columns that may be asked for, and the labels, as Parquet."""
    options = pa.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    quoted = pa.csv.ParseOptions(newlines_in_values=True)
    source = pa.PythonFile(RangeFile(url, size), mode="r")
    with pa.csv.open_csv(source, options, quoted) as first:
        names = first.schema.names
    known = {name for column in METADATA_COLUMNS for name in COLUMN_NAMES[column]}
    kept = [name for name in names if name in {*known, "label"}]
    if "label" not in kept:
        raise BadFileError(f"{url} has no column label; it has {', '.join(names)}")
    as_text = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=kept,
        strings_can_be_null=False,
    )
    source = pa.PythonFile(RangeFile(url, size), mode="r")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(folder) / "rows.parquet"
        with (
            pa.csv.open_csv(source, options, quoted, as_text) as batches,
            pq.ParquetWriter(path, batches.schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch, row_group_size=_GROUP_ROWS)
        path.replace(target)
