"""Read the rows of a Parquet file of drawings: pictures, pixels or strokes, labels and metadata."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.batch import Drawings, joined
from pipelines.drawings.fitting import Fit
from pipelines.drawings.parquet import read_pictures
from pipelines.sources.base import BadFileError, Reader, SourceFile
from pipelines.sources.metadata import COLUMN_NAMES, parse_column
from pipelines.sources.strokes.simplify import Reading
from pipelines.sources.tables.columns import PICTURES, PIXELS, find_column
from pipelines.sources.tables.files import (
    largest_dictionary,
    mean_values,
    open_table,
    with_dictionaries,
)
from pipelines.sources.tables.labels import find_labels, labels_of_rows
from pipelines.sources.tables.pixels import Decoded, read_pixels
from pipelines.sources.tables.strokes import draw_strokes
from pipelines.store.errors import reading

WHAT = "Parquet of drawings"
# Rows that are decoded at once; fewer where one value of a dictionary stands for many, or where
# lists are long.
_BATCH_ROWS, _BATCH_BYTES, _BATCH_VALUES = 1_024, 1 << 26, 1 << 22


def how_of(fit: Fit, label_names: Sequence[str]) -> dict[str, str]:
    """Return the layout's entry of what, beside a file's content, decides its drawings."""
    given = {"fit": fit} if fit else {}
    said = given | ({"label_names": list(label_names)} if label_names else {})
    return {"how": json.dumps(said, sort_keys=True)} if said else {}


class TableReader(Reader):
    """Reads the drawings of one Parquet file, some rows at a time."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file = file
        how = json.loads(file.layout.get("how", "{}"))
        names = file.layout.get("labels", [file.class_name])
        self.positions = {name: i for i, name in enumerate(names)}
        with reading(file.url, WHAT):
            parquet = open_table(file.url, file.bytes, file.limits)
            schema = parquet.schema_arrow
            self.drawing = find_column(file.url, schema).name
            self.labels = find_labels(file.url, schema, how.get("label_names", ()))
            self.parquet = with_dictionaries(file.url, file.bytes, parquet, self.labels)
        self.decode = _decoder(file, image_size, how.get("fit", ""))
        self.columns = {
            name: found
            for name in file.columns
            if (found := next((n for n in COLUMN_NAMES[name] if n in schema.names), None))
        }
        self.batch_rows = self._batch_rows([self.drawing, *self.columns.values()])
        groups = range(self.parquet.num_row_groups)
        sizes = [self.parquet.metadata.row_group(i).num_rows for i in groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        # Reading begins where a row group does: batches are taken one after the other.
        self._batches: Iterator[pa.Table] = iter(())
        self._next, self._left = -1, None

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop); labels are positions in the source's names.

        A picture that is no drawing or has another size, a label that names no class and a bad
        value of metadata are problems of their rows. Raises BadFileError for a damaged row group.
        """
        with reading(f"{self.file.url} from row {start}", WHAT):
            parts = [self._drawings(table) for table in self._rows(start, stop)]
        return parts[0] if len(parts) == 1 else joined(parts)

    def _drawings(self, table: pa.Table) -> Drawings:
        images, drawing_problems, repairs = self.decode(table[self.drawing])
        label, problems = labels_of_rows(self.labels, table, self.positions)
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, column in self.columns.items():
            columns[name], found = parse_column(name, column, table[column])
            problems |= found
        if drawing_problems is not None:
            problems |= self._drawing_problems(table, drawing_problems)
        problem = np.full(len(images), None, object) if problems else None
        if problem is not None:
            rows = list(problems)
            problem[rows] = list(problems.values())
            images = np.array(images)
            images[rows] = 0
        return Drawings(
            images=np.ascontiguousarray(images),
            label=label,
            problem=problem,
            repair=repairs,
            **columns,
        )

    def _rows(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows [start, stop) in parts that fit in memory when they are decoded."""
        if start != self._next:
            self._batches, self._left = self._batches_from(start), None
        self._next = -1
        while start < stop:
            table = next(self._batches) if self._left is None else self._left
            taken = min(stop - start, table.num_rows)
            self._left = table.slice(taken) if taken < table.num_rows else None
            start += taken
            yield table.slice(0, taken)
        self._next = stop

    def _batches_from(self, row: int) -> Iterator[pa.Table]:
        first = int(np.searchsorted(self.starts, row, side="right")) - 1
        skip = row - int(self.starts[first])
        columns = [self.drawing, *self.labels.columns, *self.columns.values()]
        groups = range(first, self.parquet.num_row_groups)
        for batch in self.parquet.iter_batches(
            self.batch_rows,
            groups,
            columns,
            use_threads=False,  # Arrow waits forever if none can start
        ):
            if skip < batch.num_rows:
                yield pa.Table.from_batches([batch.slice(skip)])
            skip = max(0, skip - batch.num_rows)
        raise BadFileError(f"{self.file.url} has fewer rows than it says: fetch it again")

    def _batch_rows(self, columns: Sequence[str]) -> int:
        """Return how many rows to decode at once: each may be the longest value of a dictionary."""
        most = largest_dictionary(self.file.url, self.parquet, columns)
        values = mean_values(self.parquet, columns)
        rows = min(_BATCH_ROWS, _BATCH_BYTES // max(1, most), _BATCH_VALUES // max(1, values))
        return max(1, rows)

    def _drawing_problems(
        self, table: pa.Table, problems: npt.NDArray[np.object_]
    ) -> dict[int, str]:
        found = {row: str(text) for row, text in enumerate(problems) if text is not None}
        for row in found if self.file.format == PICTURES else ():
            picture = table[self.drawing][row].as_py()
            path = picture.get("path") if isinstance(picture, dict) else None
            if path is not None and picture["bytes"] is None:
                found[row] = (
                    f"{self.drawing} has a path, {path!r}, but no picture: put it in the file"
                )
        return found


def _decoder(file: SourceFile, size: int, fit: Fit) -> Callable[[pa.ChunkedArray], Decoded]:
    """Return what decodes a column of a file's format."""
    if file.format == PICTURES:
        return functools.partial(read_pictures, side=size, limits=file.limits, fit=fit)
    if file.format == PIXELS:
        return functools.partial(read_pixels, side=size, limits=file.limits, fit=fit)
    read = Reading(**file.layout["reading"])
    return functools.partial(draw_strokes, file.url, size=size, reading=read, limits=file.limits)
