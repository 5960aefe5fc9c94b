"""Files of strokes as drawings: an index to find row n, and readers that draw.

The index holds where every 256th row begins; it is made in one pass over the file, which also
counts the rows, and is remembered beside the file's digest. The first lines say how the others are
to be read where one alone leaves it open.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings import Drawings
from pipelines.errors import reading
from pipelines.limits import DEFAULT, Limits
from pipelines.official import render_drawings
from pipelines.schema import digest_of
from pipelines.simplify import CANVAS, LISTS, PAGE, RAW, Reading, fills_page
from pipelines.sources.base import BadFileError, SourceFile
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import FileRanges, content_digest, file_version, write_json
from pipelines.stroke_formats import (
    StrokeDrawing,
    columns_of,
    is_binary_head,
    is_same_name,
    notes_of,
    parse_line,
    parse_records,
    record_end,
)

INDEX_ROWS = 256
# Part of the name of a kept index: bumped when its meaning changes.
_INDEX_VERSION = 3
_CHUNK_BYTES = 1 << 22
_FIRST_LINES = 256
# All of Google's simplified drawings fill the page. If none of this many does, the page is another.
_FILLING_LINES = 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_strokes(
    url: str,
    size: int,
    class_name: str,
    cache_dir: Path,
    *,
    is_binary: bool,
    limits: Limits = DEFAULT,
) -> SourceFile:
    """Return a file of strokes as a file of a source: counted, indexed, digested.

    Raises BadFileError if it is of another kind or class, or a .bin file that ends within a record.
    """
    version, digest = file_version(url), content_digest(url, cache_dir)
    key = [digest, is_binary, _INDEX_VERSION, *limits.stated().items()]
    memo = cache_dir / "indices" / f"{digest_of(key)}.json"
    if memo.is_file():
        layout = json.loads(memo.read_text("ascii"))
    else:
        with reading(url):
            layout = _index_binary(url, size) if is_binary else _index_lines(url, size)
        write_json(memo, layout)
    # The index is of the content; the name may have changed since.
    line, word = layout.get("word", (0, None))
    if word is not None and not is_same_name(word, class_name):
        raise BadFileError(
            f"{url} line {line} is a drawing of {word!r}, the file's name says {class_name!r}: give "
            "it the name of its class, or fetch it again"
        )
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
        self.reading = Reading(**file.layout.get("reading", {}))

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop), drawn, with the columns that are asked for."""
        drawings = self.parse(start, stop)
        images = render_drawings([one.written.strokes for one in drawings], self.image_size)
        columns = columns_of(drawings, self.file.columns) | notes_of(drawings)
        return Drawings(images=images, label=np.zeros(len(images), np.int64), **columns)

    def parse(self, start: int, stop: int) -> list[StrokeDrawing]:
        """Return the rows [start, stop) as strokes."""
        index = self.file.layout["index"]
        first, last = start // INDEX_ROWS, -(-stop // INDEX_ROWS)
        end = index[last] if last < len(index) else self.file.bytes
        content = self.ranges.read(index[first], end - index[first])
        skip, count = start - first * INDEX_ROWS, stop - first * INDEX_ROWS
        if self.file.format == "binary":
            where = f"{self.file.url} from row {first * INDEX_ROWS}"
            return parse_records(content, count, where, self.file.columns)[skip:]
        lines = content.split(b"\n")[skip:count]
        return [self._parse_line(line, start + i + 1) for i, line in enumerate(lines)]

    def _parse_line(self, line: bytes, number: int) -> StrokeDrawing:
        drawing = parse_line(line, self.file.class_name, self.file.columns, self.reading)
        if drawing.written.points not in (None, self.reading.points):
            raise BadFileError(
                f"{self.file.url} line {number} has points as {drawing.written.points}, the first "
                f"lines as {self.reading.points} (lists: [[x, ...], [y, ...]], pairs: [[x, y], ...]), "
                "and strokes of two points can be read as both: write all lines in one way"
            )
        return drawing

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Strokes are drawn once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("strokes are not read row by row")


def _index_lines(url: str, size: int) -> Mapping[str, Any]:
    """Return rows and index of an .ndjson file, and what its first lines say of all."""
    seen = _look_at_lines(url, size)
    starts = [0]
    rows = ended = 0
    for offset, chunk in _chunks(url, size):
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        wanted = np.arange(-(ended + 1) % INDEX_ROWS, len(ends), INDEX_ROWS)
        starts += (ends[wanted] + offset + 1).tolist()
        # Blank lines at the end are no rows.
        if filled := len(chunk.rstrip()):
            rows = ended + int(np.searchsorted(ends, filled)) + 1
        ended += len(ends)
    return {"rows": rows, "index": starts[: -(-rows // INDEX_ROWS)], **seen}


def _look_at_lines(url: str, size: int) -> Mapping[str, Any]:
    """Return format and reading of an .ndjson file, and the number and word of its first drawing.

    The format is that of the first line with strokes; where points may be lists or pairs, the
    first line decides that can be read one way only. Raises BadFileError if no line is a drawing.
    """
    head = FileRanges(url).read(0, min(size, _CHUNK_BYTES))
    drawings = _first_drawings(head, size) if _may_be_lines(head) else []
    good = [(line, one) for line, one in enumerate(drawings, 1) if one.problem is None]
    if drawings and not good and head.lstrip().startswith(b"{"):
        raise BadFileError(
            f"{url} line 1: {drawings[0].problem}; none of the first {len(drawings)} lines is a drawing"
        )
    if not good:
        raise BadFileError(f"{url} is not .ndjson: {describe_content(head)}")
    written = [one.written for _, one in good]
    scales = [one.scale for one in written if one.scale is not None]
    is_raw = scales[:1] == [RAW]
    filled = [fills_page(np.concatenate(one.strokes)) for one in written if one.scale == PAGE]
    is_page = any(filled) or len(filled) < _FILLING_LINES
    points = next((one.points for one in written if one.points is not None), LISTS)
    return {
        "format": "raw" if is_raw else "simplified",
        "reading": {"points": points, "is_canvas": is_raw or CANVAS in scales or not is_page},
        "word": [good[0][0], good[0][1].word],
    }


def _may_be_lines(head: bytes) -> bool:
    """Whether a file is neither compressed nor UTF-16 nor one array of objects.

    The last line of an array of one object a line is one of .ndjson, too.
    """
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    is_array = text.startswith(b"[") and text[1:].lstrip().startswith(b"{")
    return text[:2].isascii() and b"\0" not in text[:2] and not is_array


def _first_drawings(head: bytes, size: int) -> list[StrokeDrawing]:
    """Return the drawings of the first lines, up to the one that leaves nothing open."""
    lines = head.split(b"\n", _FIRST_LINES)
    if len(lines) > _FIRST_LINES or (len(lines) > 1 and len(head) < size):
        del lines[-1]
    drawings: list[StrokeDrawing] = []
    scale = None
    for line in lines:
        drawings.append(parse_line(line))
        written = drawings[-1].written
        scale = scale or written.scale
        if scale == RAW and written.points is not None:
            break
    return drawings


def _index_binary(url: str, size: int) -> Mapping[str, Any]:
    head = FileRanges(url).read(0, min(size, 4_096))
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
