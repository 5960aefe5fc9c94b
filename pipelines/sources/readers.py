"""From a source file to the reader that knows its format, made anew in each worker.

JoinedReader gives bitmaps the metadata of the simplified drawings: line i describes row i. That is true
of Google's files and need not be of others, so some drawings of every batch, its first and last among
them, are drawn and compared with their bitmaps. It needs libcairo; without it nothing is joined.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.sources.base import BadFileError, Reader, SourceFile
from pipelines.sources.bitmaps import BitmapReader
from pipelines.sources.cairo import render_drawings
from pipelines.sources.files import remember_secrets
from pipelines.sources.parquet import TableReader
from pipelines.sources.stroke_formats import StrokeDrawing, columns_of
from pipelines.sources.strokes import StrokeReader
from pipelines.sources.tfds import PreparedReader
from pipelines.store.errors import reading

# Of the 1,024 rows that a scan reads at once: 2 ms more, a tenth of parsing their lines.
_CHECKED_ROWS = 8


STROKE_FORMATS = ("simplified", "raw", "binary")


class JoinedReader:
    """Reads bitmaps and adds the columns of the file of strokes beside them."""

    def __init__(self, bitmaps: Reader, strokes: StrokeReader) -> None:
        self.bitmaps, self.strokes = bitmaps, strokes

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop) with Google's columns.

        Raises BadFileError if the two files are not in the same order, ValueError if that cannot
        be seen for want of libcairo.
        """
        drawings = self.bitmaps.read(start, stop)
        lines = self._checked_lines(start, stop, drawings.images)
        problems = self._problems(start, drawings, lines)
        columns = columns_of(lines, self.strokes.file.columns)
        if all(problem is None for problem in problems):
            return replace(drawings, **columns)
        images = drawings.images.copy()
        images[problems != None] = 0  # noqa: E711
        return replace(drawings, images=images, problem=problems, **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows."""
        return self.bitmaps.read_rows(rows)

    def _checked_lines(
        self, start: int, stop: int, images: npt.NDArray[np.uint8]
    ) -> list[StrokeDrawing]:
        """Return the lines without their strokes; some, first and last too, have been compared.

        In place of one that cannot be read the next one is.
        """
        picks = np.linspace(0, stop - start - 1, min(_CHECKED_ROWS, stop - start)).astype(int)
        due, last = picks.tolist(), None
        lines: list[StrokeDrawing] = []
        for place, line in enumerate(self.strokes.parse(start, stop)):
            lines.append(replace(line, written=replace(line.written, strokes=[])))
            if line.problem is not None:
                continue
            last = place, line
            if due and place >= due[0]:
                self._compare(start + place, line, images[place])
                due, last = [pick for pick in due if pick > place], None
        if due and last is not None:
            self._compare(start + last[0], last[1], images[last[0]])
        return lines

    def _compare(self, row: int, line: StrokeDrawing, image: npt.NDArray[np.uint8]) -> None:
        drawn = render_drawings([line.written.strokes], len(image))[0]
        if not np.array_equal(drawn, image):
            raise BadFileError(
                f"row {row} of the bitmaps is not line {row + 1} of {self.strokes.file.url}: the "
                "two files have different orders or sources and cannot be joined"
            )

    def _problems(
        self, start: int, drawings: Drawings, lines: Sequence[StrokeDrawing]
    ) -> npt.NDArray[np.object_]:
        """Return the problem of each row: its bitmap's, or that of the line that describes it."""
        problems = np.full(len(lines), None, object)
        name = PurePosixPath(self.strokes.file.url).name
        for place, line in enumerate(lines):
            if line.problem is not None:
                problems[place] = f"line {start + place + 1} of {name} beside it: {line.problem}"
        if drawings.problem is not None:
            problems = np.where(drawings.problem == None, problems, drawings.problem)  # noqa: E711
        return problems


def open_reader(file: SourceFile, image_size: int) -> Reader:
    """Return a reader of `file` that gives square images of `image_size` pixels a side.

    Raises BadFileError, as does the reader, if the format cannot give that size or is unknown here,
    and for what `reading` says.
    """
    remember_secrets(file.url, file.secrets)
    with reading(file.url):
        return _NamingReader(_reader(file, image_size), file.url)


@dataclass(frozen=True, slots=True)
class _NamingReader:
    """A reader whose errors name its file."""

    reader: Reader
    url: str

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop)."""
        with reading(f"{self.url} from row {start}"):
            return self.reader.read(start, stop)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows."""
        with reading(self.url):
            return self.reader.read_rows(rows)


def _reader(file: SourceFile, image_size: int) -> Reader:
    if file.format == "npy":
        bitmaps = _open_bitmaps(file, image_size)
        if file.metadata is None:
            return bitmaps
        return JoinedReader(bitmaps, StrokeReader(file.metadata, image_size))
    if file.format in STROKE_FORMATS:
        return StrokeReader(file, image_size)
    if file.format == "parquet":
        return TableReader(file, image_size)
    if file.format == "tfds":
        return PreparedReader(file, image_size)
    raise BadFileError(f"{file.url}: no reader for the format {file.format!r}")


def _open_bitmaps(file: SourceFile, image_size: int) -> Reader:
    side = int(file.layout["side"])
    if side != image_size:
        raise BadFileError(
            f"{file.url} holds bitmaps of {side}x{side}; only strokes can be drawn at {image_size}"
        )
    return _cached_bitmaps(file.url, file.bytes, file.digest, tuple(file.layout.items()))


@functools.lru_cache(maxsize=400)
def _cached_bitmaps(
    url: str, size: int, digest: str, layout: tuple[tuple[str, object], ...]
) -> BitmapReader:
    """Keep files open: one shard of all classes reads from 345 of them."""
    return BitmapReader(
        SourceFile(
            url=url,
            format="npy",
            class_name=None,
            rows=0,
            bytes=size,
            digest=digest,
            layout=dict(layout),
        )
    )
