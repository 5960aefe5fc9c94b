"""Read files of strokes: an index that locates row n, and readers that rasterize.

The index holds where every 256th row begins; it is made in one pass over the file, which also
counts the rows, and is remembered beside the file's digest. The first lines decide how ambiguous
lines are read. Files are read in pieces, and only the size of a line or record that is too large is
read, so memory does not depend on the file.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.drawings.batch import Drawings
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.processes.progress import advance, doing
from pipelines.sources.base import BadFileError, Reader, SourceFile
from pipelines.sources.bitmaps import describe_content
from pipelines.sources.files import FileRanges, content_digest, file_version
from pipelines.sources.row_index import INDEX_ROWS
from pipelines.sources.strokes.cairo import render_drawings
from pipelines.sources.strokes.formats import (
    StrokeDrawing,
    class_of_word,
    columns_of,
    is_binary_head,
    is_same_name,
    notes_of,
    parse_binary,
    parse_line,
    record_end,
    skip_head,
    skip_strokes,
    unread,
)
from pipelines.sources.strokes.simplify import (
    CANVAS,
    LISTS,
    PAGE,
    RAW,
    Points,
    Reading,
    Written,
    fills_page,
)
from pipelines.sources.strokes.tables import TABLE_ENDINGS, TableHead, count_quotes, read_head
from pipelines.store.errors import reading
from pipelines.store.local_files import write_json
from pipelines.store.manifest import digest_of
from pipelines.store.printable import describe_value

# Part of the name of a kept index: bumped when its meaning changes.
_INDEX_VERSION = 3
_CHUNK_BYTES = 1 << 22
# At least what a record of .bin begins with.
_HEAD_BYTES = 32
FIRST_LINES = 256
# Of lines none of which is a drawing.
_SEARCHED_BYTES = 16 * _CHUNK_BYTES
# All of Google's simplified drawings fill the page. If none of this many does, the page is another.
_FILLING_LINES = 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_strokes(
    url: str,
    size: int,
    class_name: str,
    cache_dir: Path,
    *,
    limits: Limits = DEFAULT,
    labels: Sequence[str] = (),
) -> SourceFile:
    """Return a file of strokes as a file of a source: counted, indexed, digested.

    class_name  what the words of its rows must be
    labels      the classes of a file whose rows name their own, instead

    Raises BadFileError if it is of another kind or class, or a .bin file that ends within a record.
    """
    version, digest = file_version(url), content_digest(url, cache_dir)
    ending = url.rpartition(".")[2] if url.endswith((".bin", *TABLE_ENDINGS)) else "ndjson"
    key = [digest, ending, _INDEX_VERSION, *limits.stated().items()]
    memo = cache_dir / "indices" / f"{digest_of(key)}.json"
    if memo.is_file():
        layout = json.loads(memo.read_text("ascii"))
    else:
        with reading(url), doing("index", url.rpartition("/")[2], total=size):
            index = _index_binary if ending == "bin" else _index_lines
            layout = index(url, size, limits)
        write_json(memo, layout)
    # The index is of the content; the name may have changed since.
    line, word = layout.get("word", (0, None))
    if labels:
        layout |= {"labels": list(labels)}
    elif word is not None and not is_same_name(word, class_name):
        raise BadFileError(
            f"{url} line {line} is a drawing of {word!r}, the file's name says {class_name!r}: give "
            "it the name of its class, or fetch it again; a file of several classes is read where "
            "it is the source itself and is named otherwise, as mine.ndjson"
        )
    return SourceFile(
        url=url,
        format=layout["format"],
        class_name=None if labels else class_name,
        rows=layout["rows"],
        bytes=size,
        digest=digest,
        version=version,
        layout=layout,
    )


class StrokeReader(Reader):
    """Draws the rows of one file of strokes."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        self.ranges = FileRanges(file.url)
        self.reading = Reading(**file.layout.get("reading", {}))
        self.head = _table_head(file.layout)
        names = file.layout.get("labels", ())
        self.positions = {name: position for position, name in enumerate(names)}

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop), drawn, with the columns that are asked for."""
        drawings: list[StrokeDrawing] = []
        images = render_drawings(self._strokes(start, stop, drawings), self.image_size)
        columns = columns_of(drawings, self.file.columns) | notes_of(drawings)
        labels = [self.positions.get(class_of_word(drawing.word), 0) for drawing in drawings]
        return Drawings(images=images, label=np.array(labels, np.int64), **columns)

    def _strokes(
        self, start: int, stop: int, drawings: list[StrokeDrawing]
    ) -> Iterator[list[Points]]:
        """Yield the strokes of each row, which are kept no longer, and append the rest of it."""
        for one in self.parse(start, stop):
            yield one.written.strokes
            drawings.append(replace(one, written=replace(one.written, strokes=[])))

    def parse(self, start: int, stop: int) -> Iterator[StrokeDrawing]:
        """Yield the rows [start, stop) as strokes."""
        index = self.file.layout["index"]
        first, last = start // INDEX_ROWS, -(-stop // INDEX_ROWS)
        span = index[first], index[last] if last < len(index) else self.file.bytes
        skip, count = start - first * INDEX_ROWS, stop - first * INDEX_ROWS
        read = _read_records if self.file.format == "binary" else _read_lines
        pieces = read(self.ranges, span, self.file.limits.max_line_bytes)
        for row, (piece, length) in enumerate(islice(pieces, skip, count), start):
            if problem := self.file.limits.problem("max_line_bytes", length):
                yield unread(problem)
            elif self.file.format == "binary":
                yield parse_binary(piece, self.file.columns, self.file.limits)
            else:
                yield self._parse_line(piece, row + 1 + (self.head is not None))

    def _parse_line(self, line: bytes, number: int) -> StrokeDrawing:
        drawing = parse_line(
            line, self.file.class_name, self.file.columns, self.reading, self.file.limits, self.head
        )
        is_named = not self.positions or class_of_word(drawing.word) in self.positions
        if drawing.problem is None and not is_named:
            return unread(f"the word is {describe_value(drawing.word)}, which names no class")
        if drawing.written.points not in (None, self.reading.points):
            raise BadFileError(
                f"{self.file.url} line {number} has points as {drawing.written.points}, the first "
                f"lines as {self.reading.points} (lists: [[x, ...], [y, ...]], pairs: [[x, y], ...]), "
                "and strokes of two points can be read as both: write all lines in one way"
            )
        return drawing


def _read_lines(
    ranges: FileRanges, span: tuple[int, int], most_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Yield each line between two places and its length, b"" in place of a longer one."""
    offsets = range(*span, _CHUNK_BYTES)
    chunks = (ranges.read(at, min(_CHUNK_BYTES, span[1] - at)) for at in offsets)
    return split_lines(chunks, most_bytes)


def split_lines(chunks: Iterable[bytes], most_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yield each line of a text in pieces and its length, b"" in place of a longer one."""
    line, length = b"", 0
    for chunk in chunks:
        place = 0
        while place < len(chunk):
            end = chunk.find(b"\n", place)
            is_whole = end >= 0
            end = end if is_whole else len(chunk)
            length += end - place
            line = line + chunk[place:end] if length <= most_bytes else b""
            place = end + 1
            if is_whole:
                yield line, length
                line, length = b"", 0
    if length:
        yield line, length


def _read_records(
    ranges: FileRanges, span: tuple[int, int], most_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Yield each .bin record between two places and its length, b"" in place of a longer one.

    Raises BadFileError if the last one ends behind them.
    """
    chunk_bytes = max(_CHUNK_BYTES, most_bytes)
    (place, stop), chunk, offset = span, b"", span[0]
    while place < stop:
        end = offset + record_end(chunk, place - offset)
        if end > offset + len(chunk):
            chunk, offset = ranges.read(place, min(chunk_bytes, stop - place)), place
            end = offset + record_end(chunk, 0)
        if end > offset + len(chunk):
            end = _far_end(ranges, place, stop)
        if end > stop:
            raise BadFileError(f"{ranges.url} ends within a drawing: it is truncated or damaged")
        is_long = end - place > most_bytes
        yield b"" if is_long else chunk[place - offset : end - offset], end - place
        place = end


def _far_end(ranges: FileRanges, place: int, stop: int) -> int:
    """Return where a .bin record ends of which one piece has a part; beyond `stop` if behind it."""
    if place + _HEAD_BYTES > stop:
        return stop + 1
    begin, left = skip_head(ranges.read(place, _HEAD_BYTES), 0)
    place += begin
    while left and place + 2 <= stop:
        chunk = ranges.read(place, min(_CHUNK_BYTES, stop - place))
        passed, left = skip_strokes(chunk, 0, left)
        place += passed
    return stop + 1 if left else place


def _index_lines(url: str, size: int, limits: Limits) -> dict[str, Any]:
    """Return rows and index of a file of lines, and what its first lines say of all."""
    head, first = read_head(url, size)
    seen = _look_at_lines(url, size, limits, first, head)
    starts = [first]
    rows = ended = quotes = 0
    for offset, chunk in _chunks(url, size, first):
        content = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(content == ord("\n"))
        if head is not None:
            quotes = count_quotes(url, content, ends, quotes, ended)
        wanted = np.arange(-(ended + 1) % INDEX_ROWS, len(ends), INDEX_ROWS)
        starts += (ends[wanted] + offset + 1).tolist()
        # Blank lines at the end are no rows.
        if filled := len(chunk.rstrip()):
            rows = ended + int(np.searchsorted(ends, filled)) + 1
        ended += len(ends)
    return {"rows": rows, "index": starts[: -(-rows // INDEX_ROWS)], **seen}


def _table_head(layout: Mapping[str, Any]) -> TableHead | None:
    return TableHead(**layout["table"]) if "table" in layout else None


def _look_at_lines(
    url: str, size: int, limits: Limits, first: int, table: TableHead | None
) -> Mapping[str, Any]:
    """Return format and reading of a file of lines, and number and word of its first drawing.

    The format is that of the first line with strokes; where points may be lists or pairs, the
    first line decides that can be read one way only. Raises BadFileError if no line is a drawing.
    """
    ranges = FileRanges(url)
    head = ranges.read(0, min(size, _CHUNK_BYTES))
    lines = _read_lines(ranges, (first, size), limits.max_line_bytes)
    is_text = table is not None or _may_be_lines(head)
    drawings = _first_drawings(lines, limits, table) if is_text else []
    first_line = 1 if table is None else 2
    good = [(line, one) for line, one in enumerate(drawings, first_line) if one.problem is None]
    if drawings and not good and (table is not None or head.lstrip().startswith(b"{")):
        raise BadFileError(
            f"{url} line {first_line}: {drawings[0].problem}; none of the first {len(drawings)} "
            "lines is a drawing"
        )
    if not good:
        expected = ".ndjson" if table is None else "a table with rows"
        raise BadFileError(f"{url} is not {expected}: {describe_content(head)}")
    seen = dict(reading_of([one.written for _, one in good]))
    if table is not None:
        seen |= {"format": f"{seen['format']} table", "table": dataclasses.asdict(table)}
    return seen | {"word": [good[0][0], good[0][1].word]}


def reading_of(written: Sequence[Written]) -> Mapping[str, Any]:
    """Return the format and the reading of a file, by its first drawings."""
    scales = [one.scale for one in written if one.scale is not None]
    is_raw = scales[:1] == [RAW]
    filled = [fills_page(np.concatenate(one.strokes)) for one in written if one.scale == PAGE]
    is_page = any(filled) or len(filled) < _FILLING_LINES
    points = next((one.points for one in written if one.points is not None), LISTS)
    return {
        "format": "raw" if is_raw else "simplified",
        "reading": {"points": points, "is_canvas": is_raw or CANVAS in scales or not is_page},
    }


def _may_be_lines(head: bytes) -> bool:
    """Whether a file is neither compressed nor UTF-16 nor one array of objects.

    The last line of an array of one object a line is one of .ndjson, too.
    """
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    is_array = text.startswith(b"[") and text[1:].lstrip().startswith(b"{")
    return text[:2].isascii() and b"\0" not in text[:2] and not is_array


def _first_drawings(
    lines: Iterable[tuple[bytes, int]], limits: Limits, table: TableHead | None
) -> list[StrokeDrawing]:
    """Return the drawings of the first lines, up to the one that leaves nothing open."""
    drawings: list[StrokeDrawing] = []
    num_bytes, scale = 0, None
    for line, length in islice(lines, FIRST_LINES):
        num_bytes += len(line)
        if num_bytes > (_CHUNK_BYTES if scale else _SEARCHED_BYTES) and drawings:
            break
        problem = limits.problem("max_line_bytes", length)
        drawings.append(unread(problem) if problem else parse_line(line, limits=limits, head=table))
        written = drawings[-1].written
        scale = scale or written.scale
        if scale == RAW and written.points is not None:
            break
    return drawings


def _index_binary(url: str, size: int, limits: Limits) -> dict[str, Any]:
    del limits
    head = FileRanges(url).read(0, min(size, 4_096))
    if not is_binary_head(head):
        hint = " (its size is a multiple of 784: headerless bitmaps?)" if size % 784 == 0 else ""
        raise BadFileError(
            f"{url} is not Google's binary format{hint}: {describe_content(head)}; "
            "bitmaps are read from .npy files, whose header says what they are"
        )
    starts: list[int] = []
    row = place = 0
    try:
        for _, length in _read_records(FileRanges(url), (0, size), _CHUNK_BYTES):
            if row % INDEX_ROWS == 0:
                starts.append(place)
            row, place = row + 1, place + length
    except BadFileError as error:
        raise BadFileError(
            f"{url} ends within a drawing, after {row} whole ones: it is truncated or damaged"
        ) from error
    return {"rows": row, "index": starts, "format": "binary"}


def _chunks(url: str, size: int, start: int) -> Iterator[tuple[int, bytes]]:
    ranges = FileRanges(url)
    for offset in range(start, size, _CHUNK_BYTES):
        chunk = ranges.read(offset, min(_CHUNK_BYTES, size - offset))
        yield offset, chunk
        advance(len(chunk))
