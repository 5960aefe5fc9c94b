"""From a source file to the reader that knows its format, made anew in each worker."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.drawings import Drawings
from pipelines.errors import reading
from pipelines.sources.base import BadFileError, Reader, SourceFile
from pipelines.sources.bitmaps import BitmapReader
from pipelines.sources.files import remember_secrets
from pipelines.sources.joined import JoinedReader
from pipelines.sources.prepared import PreparedReader
from pipelines.sources.strokes import StrokeReader
from pipelines.sources.tables import TableReader

STROKE_FORMATS = ("simplified", "raw", "binary")


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
