"""Parquet datasets of drawings and labels as a source, such as those of Hugging Face.

The drawings are encoded pictures, lists of pixels or strokes (columns.py); labels.py
finds their classes, places.py their files. Hidden files are no part of a dataset. A file
without rows is ignored, with columns of any type.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.fitting import Fit
from pipelines.drawings.parquet import read_images
from pipelines.sources.base import (
    BITMAP_SIZE,
    BadFileError,
    FileFormat,
    Names,
    Place,
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
from pipelines.sources.strokes.reader import FIRST_LINES
from pipelines.sources.strokes.simplify import Reading
from pipelines.sources.tables.columns import PICTURES, PIXELS, STROKES, DrawingColumn, find_column
from pipelines.sources.tables.files import check_groups, open_table, with_dictionaries
from pipelines.sources.tables.labels import find_labels, names_in
from pipelines.sources.tables.pixels import raw_side, shape_of
from pipelines.sources.tables.places import TableFile, looked_at, splits_of, table_files
from pipelines.sources.tables.reader import WHAT, TableReader, how_of
from pipelines.sources.tables.strokes import find_reading
from pipelines.store.errors import reading

_SEARCHED_ROWS = 1_024
# As deep as exports of this program have tables: hf/data.
_NEAR = ("*/*.parquet", "*/*/*.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A Parquet file of drawings.

    names       of its classes
    class_name  of all its drawings, if the path names it
    format      PICTURES, PIXELS or STROKES
    side        pixels a side of its first picture that is a drawing, None if there is none
    reading     how strokes are read
    is_named    whether the user named the classes
    """

    file: TableFile
    version: str = ""
    rows: int = 0
    names: tuple[str, ...] = ()
    class_name: str | None = None
    format: str = PICTURES
    side: int | None = None
    reading: Reading | None = None
    is_named: bool = False


def _source_files(
    found: Sequence[Table],
    digests: Sequence[str],
    class_names: Sequence[str],
    options: SourceOptions,
) -> Iterator[SourceFile]:
    splits = splits_of([table.file.url for table in found])
    for table, split, digest in zip(found, splits, digests, strict=True):
        labels = {} if table.class_name else {"labels": list(class_names)}
        read = {"reading": dataclasses.asdict(table.reading)} if table.reading else {}
        fit: Fit = None if table.format == STROKES else options.fit
        how = how_of(fit, options.label_names if table.is_named else ())
        yield SourceFile(
            url=table.file.url,
            format=table.format,
            class_name=table.class_name,
            rows=table.rows,
            bytes=table.file.bytes,
            version=table.version,
            digest=digest,
            layout=labels | split | read | how,
        )


@functools.lru_cache(maxsize=1_024)
def describe_table(file: TableFile, version: str, options: SourceOptions) -> Table:
    """Return what a Parquet file of drawings holds; remembered for each `version`.

    Raises BadFileError if it is damaged or holds something else.
    """
    with reading(file.url, WHAT):
        parquet = open_table(file.url, file.bytes, options.limits)
        try:
            return dataclasses.replace(_describe(parquet, file, options), version=version)
        except BadFileError:
            if parquet.metadata.num_rows:
                raise
            return Table(file=file, version=version)


def _table_at(file: TableFile, options: SourceOptions) -> Table:
    if file.bytes == DANGLING:
        raise BadFileError(f"{file.url}: {why_absent(file.url)}")
    # What has a digest already is of one commit, and never another file.
    return describe_table(file, "" if file.digest else file_version(file.url), options)


def _describe(parquet: pq.ParquetFile, file: TableFile, options: SourceOptions) -> Table:
    url, schema = file.url, parquet.schema_arrow
    column = find_column(url, schema)
    labels = find_labels(url, schema, options.label_names)
    check_groups(url, file.bytes, parquet, [column.name, *labels.columns], options.limits)
    parquet = with_dictionaries(url, file.bytes, parquet, labels)
    named = parquet.read(columns=labels.naming, use_threads=False)
    return Table(
        file=file,
        rows=parquet.metadata.num_rows,
        names=tuple(names_in(labels, url, named)),
        class_name=labels.path if labels.column is None else None,
        is_named=labels.stated,
        **_look_at_drawings(parquet, url, column, options),
    )


def _look_at_drawings(
    parquet: pq.ParquetFile, url: str, column: DrawingColumn, options: SourceOptions
) -> dict[str, Any]:
    """Return format, side and reading of a file by its first rows."""
    first = itertools.islice(
        (
            batch.column(0)
            for batch in parquet.iter_batches(1, columns=[column.name], use_threads=False)
        ),
        _SEARCHED_ROWS,
    )
    if column.format == STROKES:
        values = [*itertools.islice(first, FIRST_LINES)]
        rows = pa.chunked_array(values, parquet.schema_arrow.field(column.name).type)
        return {"format": STROKES, "reading": find_reading(url, column.name, rows, options.limits)}
    if column.format == PIXELS:
        shapes = (shape_of(value, f"{url}: the column {column.name!r}") for value in first)
        height, width = next(filter(None, shapes), (None, None))
        return {"format": PIXELS, "side": height if height == width else None}
    return _look_at_pictures(first)


def _look_at_pictures(values: Iterator[pa.Array]) -> dict[str, Any]:
    """Return format and side of a column of bytes: of its first picture that is a square drawing."""
    others = []
    for value in values:
        with contextlib.suppress(ValueError):
            height, width = read_images(value).shape[1:]
            if height == width:
                return {"side": height}
        others.append(value)
    side = raw_side(others)
    return {} if side is None else {"format": PIXELS, "side": side}


class Tables(SourceKind):
    """All Parquet files of pictures below a directory, or one, in order of names."""

    endings = (".parquet",)
    formats: Mapping[str, FileFormat] = {
        PICTURES: FileFormat(read=TableReader, per_sec=10_000),
        PIXELS: FileFormat(read=TableReader, per_sec=30_000),
        STROKES: FileFormat(read=TableReader, per_sec=3_000, is_drawn=True),
    }

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
        for file in looked_at(place.directory, self.files(place)):
            with contextlib.suppress(BadFileError):
                found.append(_table_at(file, _only_needed(options)).names)
        if found and not any(found):
            raise BadFileError(
                f"{place.directory}: its Parquet files have no row that names a class"
            )
        return _union(found)

    def files(self, place: Place) -> list[TableFile]:
        """Return the files of a source, in order of names; raise BadFileError if there are none."""
        return table_files(place.directory)

    def open(self, place: Place, request: Request) -> Source:
        """Return all files, of all classes.

        Raises BadFileError for a file that is damaged, has no such columns, no class names or
        pictures of another size than the first; if such files are skipped, only if no other is
        left.
        """
        options = request.options
        found, bad = [], []
        for file in looked_at(place.directory, self.files(place)):
            try:
                table = _table_at(file, _only_needed(options))
                if not options.fit:
                    _check_side(table, found)
                found.append(table)
            except BadFileError as error:
                bad.append((file.url, error))
        if bad and not (options.skip_bad_files and found):
            raise bad[0][1]
        class_names = _union([table.names for table in found])
        digests = _digests([table.file for table in found], place, request)
        return Source(
            class_names=class_names,
            files=tuple(_source_files(found, digests, class_names, options)),
            image_size=_image_size(found, options),
            bad_files=tuple((url, str(error)) for url, error in bad),
        )


def _only_needed(options: SourceOptions) -> SourceOptions:
    """Return the options that decide what a table is described as."""
    return SourceOptions(limits=options.limits, label_names=options.label_names)


def _digests(files: Sequence[TableFile], place: Place, request: Request) -> list[str]:
    unknown = {file.url: file.bytes for file in files if not file.digest}
    with hashing(unknown, place.directory):
        return [file.digest or content_digest(file.url, request.cache_dir) for file in files]


def _image_size(found: Sequence[Table], options: SourceOptions) -> int:
    """Return the pixels a side of pictures; strokes, and what is fitted, have any."""
    sides = [table.side for table in found if table.side is not None]
    is_any = options.fit or any(table.format == STROKES for table in found)
    if sides and not options.fit:
        return sides[0]
    return options.image_size if is_any else BITMAP_SIZE


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return all names once, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _check_side(table: Table, others: Sequence[Table]) -> None:
    first = next((other for other in others if other.side is not None), table)
    if table.side is not None and table.side != first.side:
        raise BadFileError(
            f"{table.file.url} has pictures of {table.side}x{table.side} pixels, {first.file.url} "
            f"of {first.side}x{first.side}: a source has one size, unless --fit pad or crop makes "
            "it so"
        )
