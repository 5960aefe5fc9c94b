"""Read the records of TFRecord and ArrayRecord files from any place on.

A TFRecord file is: length u64, masked crc32c of it, the record, masked crc32c of it; both checksums
are compared. ArrayRecord is read by its own package, by number of record.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.drawings.limits import Limits
from pipelines.drawings.tfrecord import (
    RECORD_FRAME_BYTES,
    RECORD_HEAD_BYTES,
    is_intact,
    record_length,
)
from pipelines.sources.base import BadFileError
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import is_remote, local_path
from pipelines.sources.pieces import PIECE_BYTES, PieceFile
from pipelines.store.errors import LackError

_NAME = re.compile(r".+\.(tfrecords?|array_?record)(-\d+-of-\d+)?")
_ARRAY = re.compile(r"\.array_?record\b")
# Records of ArrayRecord that are asked for at once.
_ARRAY_ROWS = 256


@dataclass(frozen=True, slots=True)
class Record:
    """One record: where it begins, its bytes, and why these are not read."""

    place: int
    content: bytes
    problem: str = ""


def is_records(name: str) -> bool:
    """Return whether a file is one of records by its name."""
    return _NAME.fullmatch(name) is not None


def read_records(url: str, size: int, place: int, limits: Limits) -> Iterator[Record]:
    """Yield the records from a place on that `Record.place` told.

    Raises BadFileError if a checksum is wrong or the file ends within a record.
    """
    if _ARRAY.search(url.rpartition("/")[2]):
        yield from _array_records(url, place, limits)
    else:
        yield from _tf_records(url, size, place, limits)


def _tf_records(url: str, size: int, place: int, limits: Limits) -> Iterator[Record]:
    file = PieceFile(url, size)
    while place < size:
        file.seek(place)
        head = file.read(RECORD_HEAD_BYTES)
        length = record_length(head) if len(head) == RECORD_HEAD_BYTES else None
        if length is None and place == 0:
            raise BadFileError(f"{url} is not a TFRecord file: {describe_content(head)}")
        end = place + (length or 0) + RECORD_FRAME_BYTES
        if length is None or end > size:
            raise BadFileError(
                f"{url} is truncated or damaged at byte {place}, within a record: fetch it again"
            )
        if problem := limits.problem("max_line_bytes", length):
            yield Record(place, b"", problem)
        else:
            wanted = length + RECORD_FRAME_BYTES - RECORD_HEAD_BYTES
            is_short = wanted <= PIECE_BYTES
            framed = file.read(wanted) if is_short else file.at(place + RECORD_HEAD_BYTES, wanted)
            if not is_intact(framed[:-4], framed[-4:]):
                raise BadFileError(
                    f"{url} is damaged: the checksum of the record at byte {place} is wrong: fetch "
                    "it again"
                )
            yield Record(place, framed[:-4])
        place = end


def _array_records(url: str, row: int, limits: Limits) -> Iterator[Record]:
    if is_remote(url):
        raise BadFileError(f"{url}: ArrayRecord is read from a local copy of it")
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise LackError(
            f"{url} is in the format ArrayRecord: install the package array-record"
        ) from error
    reader = ArrayRecordReader(str(local_path(url)))
    total = reader.num_records()
    if not reader.ok():
        raise BadFileError(f"{url} is damaged, or no file of ArrayRecord: fetch it again")
    for start in range(row, total, _ARRAY_ROWS):
        rows = range(start, min(start + _ARRAY_ROWS, total))
        for place, content in zip(rows, reader.read(list(rows)), strict=True):
            problem = limits.problem("max_line_bytes", len(content)) or ""
            yield Record(place, b"" if problem else content, problem)
