"""Parquet datasets of pictures and labels as a source, such as those of Hugging Face.

The pictures are a column `image` of {bytes, path} or of bytes; table_labels.py finds their classes.
Files whose name or folder begins with "_" are no part of a dataset, nor are hidden ones and copies
"x-checkpoint.parquet" beside the original. A file without rows is ignored, with columns of any
type.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.batch import Drawings, joined
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.drawings.parquet import read_images, read_pictures
from pipelines.sources.base import (
    BITMAP_SIZE,
    BadFileError,
    FileFormat,
    Names,
    Place,
    Reader,
    Request,
    Source,
    SourceFile,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.files import (
    DANGLING,
    content_digest,
    file_version,
    find_below,
    hashing,
    list_tree,
    why_absent,
)
from pipelines.sources.metadata import COLUMN_NAMES, parse_column
from pipelines.sources.table_files import (
    check_groups,
    find_image,
    largest_dictionary,
    open_table,
    splits_of,
    table_addresses,
    with_dictionaries,
)
from pipelines.sources.table_labels import find_labels, labels_of_rows, names_in
from pipelines.store.errors import reading

_WHAT = "Parquet of pictures"
# Rows that are decoded at once; fewer where one value of a dictionary stands for many.
_BATCH_ROWS, _BATCH_BYTES = 1_024, 1 << 26
_SEARCHED_ROWS = 1_024
# As deep as exports of this program have tables: hf/data.
_NEAR = ("*/*.parquet", "*/*/*.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A Parquet file of pictures.

    names       of its classes
    class_name  of all its drawings, if the path names it
    side        pixels a side of its first picture that is a drawing, None if there is none
    """

    url: str
    bytes: int
    version: str
    rows: int = 0
    names: tuple[str, ...] = ()
    class_name: str | None = None
    side: int | None = None


def _source_files(
    found: Sequence[Table], digests: Sequence[str], class_names: Sequence[str]
) -> Iterator[SourceFile]:
    splits = splits_of([table.url for table in found])
    for table, split, digest in zip(found, splits, digests, strict=True):
        yield SourceFile(
            url=table.url,
            format="parquet",
            class_name=table.class_name,
            rows=table.rows,
            bytes=table.bytes,
            version=table.version,
            digest=digest,
            layout=({} if table.class_name else {"labels": list(class_names)}) | split,
        )


@functools.lru_cache(maxsize=1_024)
def describe_table(url: str, size: int, version: str, limits: Limits = DEFAULT) -> Table:
    """Return what a Parquet file of pictures holds; remembered for each `version`.

    Raises BadFileError if it is damaged or holds something else.
    """
    with reading(url, _WHAT):
        file = open_table(url, size, limits)
        try:
            return _describe(file, url, size, version, limits)
        except BadFileError:
            if file.metadata.num_rows:
                raise
            return Table(url=url, bytes=size, version=version)


def _table_at(url: str, size: int, limits: Limits) -> Table:
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    return describe_table(url, size, file_version(url), limits)


def _describe(file: pq.ParquetFile, url: str, size: int, version: str, limits: Limits) -> Table:
    schema = file.schema_arrow
    image, labels = find_image(url, schema), find_labels(url, schema)
    check_groups(url, size, file, [image, *labels.columns], limits)
    file = with_dictionaries(url, size, file, labels)
    return Table(
        url=url,
        bytes=size,
        version=version,
        rows=file.metadata.num_rows,
        names=tuple(names_in(labels, url, file.read(columns=labels.naming, use_threads=False))),
        class_name=labels.path if labels.column is None else None,
        side=_first_side(file, image),
    )


class TableReader(Reader):
    """Reads the drawings of one Parquet file, some rows at a time."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        names = file.layout.get("labels", [file.class_name])
        self.positions = {name: i for i, name in enumerate(names)}
        with reading(file.url, _WHAT):
            parquet = open_table(file.url, file.bytes, file.limits)
            schema = parquet.schema_arrow
            self.image = find_image(file.url, schema)
            self.labels = find_labels(file.url, schema)
            self.parquet = with_dictionaries(file.url, file.bytes, parquet, self.labels)
        self.columns = {
            name: found
            for name in file.columns
            if (found := next((n for n in COLUMN_NAMES[name] if n in schema.names), None))
        }
        self.batch_rows = self._batch_rows([self.image, *self.columns.values()])
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
        with reading(f"{self.file.url} from row {start}", _WHAT):
            parts = [self._drawings(table) for table in self._rows(start, stop)]
        return parts[0] if len(parts) == 1 else joined(parts)

    def _drawings(self, table: pa.Table) -> Drawings:
        images, picture_problems, repairs = read_pictures(
            table[self.image], self.image_size, self.file.limits
        )
        label, problems = labels_of_rows(self.labels, table, self.positions)
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, column in self.columns.items():
            columns[name], found = parse_column(name, column, table[column])
            problems |= found
        if picture_problems is not None:
            problems |= self._picture_problems(table, picture_problems)
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
        columns = [self.image, *self.labels.columns, *self.columns.values()]
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
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, most)))

    def _picture_problems(
        self, table: pa.Table, problems: npt.NDArray[np.object_]
    ) -> dict[int, str]:
        found = {row: str(text) for row, text in enumerate(problems) if text is not None}
        for row in found:
            picture = table[self.image][row].as_py()
            path = picture.get("path") if isinstance(picture, dict) else None
            if path is not None and picture["bytes"] is None:
                found[row] = (
                    f"{self.image} has a path, {path!r}, but no picture: put it in the file"
                )
        return found


class Tables(SourceKind):
    """All Parquet files of pictures below a directory, or one, in order of names."""

    endings = (".parquet",)
    formats: Mapping[str, FileFormat] = {"parquet": FileFormat(read=TableReader, per_sec=10_000)}

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the directory if Parquet lies in it or below."""
        del image_size
        is_here = any(name.endswith(".parquet") for name in names)
        if is_here or (
            find_below(directory, _NEAR) if is_known else list_tree(directory, ".parquet")
        ):
            return [Place(kind="parquet", directory=directory)]
        return []

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the class names of all files that can be read.

        Raises BadFileError if these have none.
        """
        found = []
        for url, size in table_addresses(place.directory):
            with contextlib.suppress(BadFileError):
                found.append(_table_at(url, size, options.limits).names)
        if found and not any(found):
            raise BadFileError(
                f"{place.directory}: its Parquet files have no row that names a class"
            )
        return _union(found)

    def open(self, place: Place, request: Request) -> Source:
        """Return all files, of all classes.

        Raises BadFileError for a file that is damaged, has no such columns, no class names or
        pictures of another size than the first; if such files are skipped, only if no other is
        left.
        """
        found, bad = [], []
        for url, size in table_addresses(place.directory):
            try:
                table = _table_at(url, size, request.options.limits)
                _check_side(table, found)
                found.append(table)
            except BadFileError as error:
                bad.append((url, error))
        if bad and not (request.options.skip_bad_files and found):
            raise bad[0][1]
        with hashing({table.url: table.bytes for table in found}, place.directory):
            digests = [content_digest(table.url, request.cache_dir) for table in found]
        class_names = _union([table.names for table in found])
        return Source(
            class_names=class_names,
            files=tuple(_source_files(found, digests, class_names)),
            image_size=next((table.side for table in found if table.side is not None), BITMAP_SIZE),
            bad_files=tuple((url, str(error)) for url, error in bad),
        )


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names once, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _first_side(file: pq.ParquetFile, image: str) -> int | None:
    """Return the pixels a side of the first picture that is a square drawing, if it comes soon."""
    for batch in itertools.islice(
        file.iter_batches(1, columns=[image], use_threads=False), _SEARCHED_ROWS
    ):
        with contextlib.suppress(ValueError):
            height, width = read_images(batch.column(0)).shape[1:]
            if height == width:
                return height
    return None


def _check_side(table: Table, others: Sequence[Table]) -> None:
    first = next((other for other in others if other.side is not None), table)
    if table.side is not None and table.side != first.side:
        raise BadFileError(
            f"{table.url} has pictures of {table.side}x{table.side} pixels, {first.url} of "
            f"{first.side}x{first.side}: a source has one size"
        )
