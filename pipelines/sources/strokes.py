"""Files of strokes as drawings: an index to find row n, and readers that draw.

The index holds where every 256th row begins; it is made in one pass over the file, which also
counts the rows, and is remembered beside the file's digest.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings import Drawings
from pipelines.official import render_drawings
from pipelines.schema import digest_of
from pipelines.simplify import simplify
from pipelines.sources.base import BadFileError, SourceFile
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import FileRanges, content_digest, file_version, write_json
from pipelines.stroke_formats import (
    StrokeDrawing,
    columns_of,
    is_binary_head,
    parse_line,
    parse_records,
    record_end,
)

INDEX_ROWS = 256
_CHUNK_BYTES = 1 << 22


def open_strokes(
    url: str, size: int, class_name: str, cache_dir: Path, *, is_binary: bool
) -> SourceFile:
    """Return a file of strokes as a file of a source: counted, indexed, digested.

    Raises BadFileError if it does not begin like one, or ends within a record.
    """
    head = FileRanges(url).read(0, min(size, 4_096))
    version, digest = file_version(url), content_digest(url, cache_dir)
    memo = cache_dir / "indices" / f"{digest_of([digest, is_binary])}.json"
    if memo.is_file():
        layout = json.loads(memo.read_text("ascii"))
    else:
        layout = _index_binary(url, size, head) if is_binary else _index_lines(url, size, head)
        write_json(memo, layout)
    if not is_binary:
        # The index is of the content; the name may have changed since.
        parse_line(_first_line(url, size), f"{url} line 1", class_name)
    return SourceFile(
        url=url,
        format=layout["format"],
        class_name=class_name,
        rows=layout["rows"],
        bytes=size,
        digest=digest,
        version=version,
        layout=layout,
    )


class StrokeReader:
    """Draws the rows of one file of strokes."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        self.ranges = FileRanges(file.url)

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop), drawn, with Google's columns."""
        drawings = self.parse(start, stop)
        strokes = [drawing.strokes for drawing in drawings]
        if self.file.format == "raw":
            strokes = [simplify(drawing) for drawing in strokes]
        images = render_drawings(strokes, self.image_size)
        return Drawings(
            images=images, label=np.zeros(len(images), np.int64), **columns_of(drawings)
        )

    def read_columns(self, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """Return Google's columns of the rows [start, stop), without drawing them."""
        return columns_of(self.parse(start, stop))

    def parse(self, start: int, stop: int) -> list[StrokeDrawing]:
        """Return the rows [start, stop) as strokes."""
        index = self.file.layout["index"]
        first, last = start // INDEX_ROWS, -(-stop // INDEX_ROWS)
        end = index[last] if last < len(index) else self.file.bytes
        content = self.ranges.read(index[first], end - index[first])
        skip, count = start - first * INDEX_ROWS, stop - first * INDEX_ROWS
        where = f"{self.file.url} from row {start}"
        if self.file.format == "binary":
            return parse_records(content, count, where)[skip:]
        lines = content.split(b"\n")[skip:count]
        return [
            parse_line(line, f"{self.file.url} line {start + i + 1}", self.file.class_name)
            for i, line in enumerate(lines)
        ]

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Strokes are drawn once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("strokes are not read row by row")


def _index_lines(url: str, size: int, head: bytes) -> Mapping[str, Any]:
    """Return rows, index and format of an .ndjson file; the format follows from line 1."""
    if not head.lstrip().startswith(b"{"):
        raise BadFileError(f"{url} is not .ndjson: {describe_content(head)}")
    starts = [0]
    row, last_byte = 0, b"\n"
    for offset, chunk in _chunks(url, size):
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        wanted = np.arange(-(row + 1) % INDEX_ROWS, len(ends), INDEX_ROWS)
        starts += (ends[wanted] + offset + 1).tolist()
        row += len(ends)
        last_byte = chunk[-1:]
    row += last_byte != b"\n"
    return {
        "rows": row,
        "index": [start for start in starts if start < size],
        "format": _format_of_line(url, size),
    }


def _format_of_line(url: str, size: int) -> str:
    """Return raw if the first line's strokes have times, else simplified."""
    line = _first_line(url, size)
    parse_line(line, f"{url} line 1")
    strokes = json.loads(line)["drawing"]
    return "raw" if any(len(stroke) > 2 for stroke in strokes) else "simplified"


def _first_line(url: str, size: int) -> bytes:
    ranges, length = FileRanges(url), 1 << 16
    while True:
        length = min(length, size)
        content = ranges.read(0, length)
        if b"\n" in content or length == size:
            return content.split(b"\n")[0]
        length *= 4


def _index_binary(url: str, size: int, head: bytes) -> Mapping[str, Any]:
    if not is_binary_head(head):
        hint = " (its size is a multiple of 784: headerless bitmaps?)" if size % 784 == 0 else ""
        raise BadFileError(
            f"{url} is not Google's binary format{hint}: {describe_content(head)}; "
            "bitmaps are read from .npy files, whose header says what they are"
        )
    starts: list[int] = []
    row = place = 0
    rest, rest_offset = b"", 0
    for _, chunk in _chunks(url, size):
        content = rest + chunk
        place = 0
        while (end := record_end(content, place)) <= len(content) and place < len(content):
            if row % INDEX_ROWS == 0:
                starts.append(rest_offset + place)
            row, place = row + 1, end
        rest, rest_offset = content[place:], rest_offset + place
    if rest:
        raise BadFileError(
            f"{url} ends within a drawing, after {row} whole ones: it is truncated or damaged"
        )
    return {"rows": row, "index": starts, "format": "binary"}


def _chunks(url: str, size: int) -> Iterator[tuple[int, bytes]]:
    ranges = FileRanges(url)
    for offset in range(0, size, _CHUNK_BYTES):
        yield offset, ranges.read(offset, min(_CHUNK_BYTES, size - offset))
