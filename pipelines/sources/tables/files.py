"""Open untrusted Parquet files with bounded memory.

A footer of a few megabytes may announce a hundred thousand row groups, a page of a kilobyte may
unpack to gigabytes, and one value of a dictionary may stand for a million rows.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.limits import Limits
from pipelines.sources.base import BadFileError
from pipelines.sources.files import FileRanges, is_remote, local_path
from pipelines.sources.pieces import RangeFile
from pipelines.sources.tables.labels import Labels, is_text

# What a row group may hold: so much a row, and this many of the largest pictures.
_ROW_BYTES, _LARGEST_PICTURES = 1_024, 32
# What lists within lists may hold in a row group: numbers a row, and so many of the largest pictures.
_ROW_VALUES, _LARGEST_LISTS = 1_024, 8
# Of a number with its place in the lists.
_VALUE_BYTES = 16
# The end of a file: the size of what describes its row groups, and a mark.
_TAIL = struct.Struct("<I4s")
# Of each row group, with room for many columns and their statistics.
_GROUP_BYTES = 2_000
_FEWER_GROUPS = "write it anew with fewer row groups, or raise the limit"
_BUFFER_BYTES = 1 << 20
# The magic number of a file is behind a page at its end, so that this many are there.
_PAGE_HEAD_BYTES = 12
# A file has at least a byte a row, unless it has few.
_FEW_ROWS = 1_000_000


def open_table(url: str, size: int, limits: Limits) -> pq.ParquetFile:
    """Open a file; raise BadFileError if it has more row groups than it may.

    What describes them is read at once and takes fifteen times its size, so its size is looked at
    first.
    """
    tail = FileRanges(url).read(max(0, size - _TAIL.size), min(size, _TAIL.size))
    footer_bytes, magic = _TAIL.unpack(tail.rjust(_TAIL.size))
    if magic == b"PAR1" and footer_bytes > limits.max_row_groups * _GROUP_BYTES:
        raise BadFileError(
            f"{url} has {footer_bytes} bytes that describe its row groups, too many for "
            f"--max-row-groups {limits.max_row_groups}: {_FEWER_GROUPS}"
        )
    file = _parquet(url, size)
    if problem := limits.problem("max_row_groups", file.num_row_groups):
        raise BadFileError(f"{url} has {problem}: {_FEWER_GROUPS}")
    return file


def with_dictionaries(url: str, size: int, file: pq.ParquetFile, labels: Labels) -> pq.ParquetFile:
    """Return the file so that a name is kept once however many rows have it."""
    texts = [name for name in labels.columns if is_text(file.schema_arrow.field(name).type)]
    return _parquet(url, size, metadata=file.metadata, read_dictionary=texts) if texts else file


def check_groups(
    url: str, size: int, file: pq.ParquetFile, columns: Sequence[str], limits: Limits
) -> None:
    """Raise BadFileError if a file says more of its size than can be, or than memory takes."""
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != file.metadata.num_rows:
        raise BadFileError(
            f"{url} should have {file.metadata.num_rows} rows, its row groups have {sum(rows)}: it "
            "is damaged, fetch it again"
        )
    if sum(rows) > max(_FEW_ROWS, size):
        raise BadFileError(f"{url} has {size} bytes for {sum(rows)} rows: it is damaged")
    for number, chunk, is_of_lists in _chunks(file, columns):
        found, most, what = chunk.total_uncompressed_size, rows[number] * _ROW_BYTES, "bytes"
        most += _LARGEST_PICTURES * limits.max_pixels
        if is_of_lists:
            found = max(chunk.num_values, found // _VALUE_BYTES)
            most = rows[number] * _ROW_VALUES + _LARGEST_LISTS * limits.max_pixels
            what = "numbers"
        if found > most:
            raise BadFileError(
                f"{url}: the column {chunk.path_in_schema!r} has {found} {what} in the "
                f"{rows[number]} rows of a row group, expected {most} at most: write row groups of "
                "fewer rows, or raise --max-pixels if such pictures are intended"
            )


def mean_values(file: pq.ParquetFile, columns: Sequence[str]) -> int:
    """Return how many numbers a row of these columns has in lists, on average in a row group."""
    means = [
        chunk.num_values // max(1, file.metadata.row_group(number).num_rows)
        for number, chunk, is_of_lists in _chunks(file, columns)
        if is_of_lists
    ]
    return max(means, default=0)


def largest_dictionary(url: str, file: pq.ParquetFile, columns: Sequence[str]) -> int:
    """Return the size of the largest dictionary of these columns, which no value exceeds.

    Numbers in lists do not count.
    """
    ranges = FileRanges(url)
    found = [chunk for _, chunk, is_of_lists in _chunks(file, columns) if not is_of_lists]
    places = [chunk for chunk in found if chunk.has_dictionary_page]
    sizes = [_page_bytes(ranges, chunk.dictionary_page_offset) for chunk in places]
    return max(sizes, default=0)


def _parquet(url: str, size: int, **options: Any) -> pq.ParquetFile:
    if is_remote(url) or not _is_utf8(url):  # Arrow opens no path that is not
        source = pa.PythonFile(RangeFile(url, size), mode="r")
        return pq.ParquetFile(source, pre_buffer=is_remote(url), **options)
    return pq.ParquetFile(local_path(url), buffer_size=_BUFFER_BYTES, **options)


def _chunks(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[tuple[int, Any, bool]]:
    """Yield the number of a row group and a chunk of one of these columns, or a field of it.

    Also whether it has values of lists, of which a row may have many.
    """
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.split(".")[0] in columns:
                yield number, chunk, file.schema.column(place).max_repetition_level > 0


def _is_utf8(path: str) -> bool:
    return os.fsencode(path).decode(errors="ignore") == path


def _page_bytes(ranges: FileRanges, offset: int) -> int:
    """Return how many bytes a page is unpacked, as its header says: Thrift's second field."""
    head = ranges.read(offset, _PAGE_HEAD_BYTES)
    first = next(place for place in range(1, len(head)) if head[place] < 0x80)
    number = 0
    for shift, byte in enumerate(head[first + 2 :]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return number >> 1
