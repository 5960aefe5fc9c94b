"""The first pass: attributes of every drawing, one range of a file at a time.

A range's attributes are put under a key that depends on the file's content, the range and what
is computed: they serve every later dataset from the same file. Files that cannot be read row by
row (strokes, pictures) are decoded once, here; their pixels are put beside the attributes.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.attributes import (
    ATTRIBUTES_VERSION,
    drawing_attributes,
    failed_attributes,
    table_to_bytes,
)
from pipelines.drawings import Drawings
from pipelines.readers import open_reader
from pipelines.schema import digest_of
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.store import Store

# Multiples of 64, so that blocks of rows do not depend on the ranges.
DIRECT_UNIT_ROWS = 65_536
DECODED_UNIT_ROWS = 8_192
# What a range reads at once: 0.8 MB of 28x28 drawings, near enough to the cache.
_BATCH_ROWS = 1_024
# A file of at least so many drawings of which more than this share are blank, or whose paper
# is darker than its ink, is not what it seems. Real files have no blanks and 28 % ink.
_PLAUSIBLE_ROWS = 20
_MAX_BLANK_SHARE = 0.5
_MAX_INK_SHARE = 0.65


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanUnit:
    """Rows [start, stop) of one file; where its attributes, and pixels if decoded, are kept."""

    file: SourceFile
    start: int
    stop: int
    path: str
    pixels_path: str | None

    @property
    def rows(self) -> int:
        """Number of drawings."""
        return self.stop - self.start


def scan_units(
    source: Source, image_size: int, *, with_difference_hash: bool = False
) -> tuple[ScanUnit, ...]:
    """Return the ranges of all files, in the order of the files."""
    units: list[ScanUnit] = []
    for file in source.files:
        unit_rows = DIRECT_UNIT_ROWS if file.is_direct else DECODED_UNIT_ROWS
        key = _file_key(file, image_size, with_difference_hash)
        for start in range(0, file.rows, unit_rows):
            stop = min(start + unit_rows, file.rows)
            stem = f"attempts/attributes/{key}/{start:010d}-{stop:010d}"
            pixels_path = None if file.is_direct else f"{stem}.npy"
            units.append(
                ScanUnit(
                    file=file, start=start, stop=stop, path=f"{stem}.arrow", pixels_path=pixels_path
                )
            )
    return tuple(units)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanWork:
    """The work of one scan unit: reads the range, puts its attributes."""

    image_size: int
    with_difference_hash: bool = False

    def __call__(self, unit: ScanUnit, store: Store) -> dict[str, int]:
        """Return what to count; a file that is not what it seems is recorded as such."""
        try:
            table = self._scan(unit, store)
        except BadFileError as error:
            store.put(unit.path, table_to_bytes(failed_attributes(str(error))))
            return {"ranges_failed": 1}
        store.put(unit.path, table_to_bytes(table))
        share = unit.file.bytes * unit.rows // max(unit.file.rows, 1)
        return {"rows_read": unit.rows, "bytes_read": share}

    def _scan(self, unit: ScanUnit, store: Store) -> pa.Table:
        reader = open_reader(unit.file, self.image_size)
        tables, images = [], []
        for start in range(unit.start, unit.stop, _BATCH_ROWS):
            drawings = reader.read(start, min(start + _BATCH_ROWS, unit.stop))
            tables.append(self._attributes(unit, drawings))
            if unit.pixels_path is not None:
                images.append(drawings.images)
        table = pa.concat_tables(tables).combine_chunks()
        if unit.pixels_path is not None:
            store.put(unit.pixels_path, npy_bytes(np.concatenate(images)))
        _check_plausible(unit, table, self.image_size)
        return table

    def _attributes(self, unit: ScanUnit, drawings: Drawings) -> pa.Table:
        return drawing_attributes(
            drawings,
            with_label=unit.file.class_name is None,
            with_difference_hash=self.with_difference_hash,
        )


def pixels_file(unit: ScanUnit, store: Store, image_size: int) -> tuple[SourceFile, int]:
    """Return the file to read a unit's pixels from, and which of its rows is the unit's first."""
    if unit.pixels_path is None:
        return unit.file, unit.start
    local = store.local_path(unit.pixels_path)
    url = f"{store.url.rstrip('/')}/{unit.pixels_path}" if local is None else str(local)
    header = len(npy_bytes(np.empty((0, image_size, image_size), np.uint8), unit.rows))
    layout = {"offset": header, "side": image_size, "dtype": "|u1", "repair": ""}
    file = SourceFile(
        url=url,
        format="npy",
        class_name=unit.file.class_name,
        rows=unit.rows,
        bytes=0,
        digest=unit.path,
        layout=layout,
        is_direct=True,
    )
    return file, 0


def npy_bytes(images: np.ndarray, rows: int | None = None) -> bytes:
    """Return images (n, h, w) as an .npy file; `rows` announces another n."""
    sink = io.BytesIO()
    shape = (len(images) if rows is None else rows, *images.shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(sink, header)
    return sink.getvalue() + np.ascontiguousarray(images).tobytes()


def _check_plausible(unit: ScanUnit, table: pa.Table, image_size: int) -> None:
    ink = table["ink"].to_numpy()
    if len(ink) < _PLAUSIBLE_ROWS:
        return
    blank, share = float((ink == 0).mean()), float(ink.mean()) / image_size**2
    if blank > _MAX_BLANK_SHARE:
        raise BadFileError(
            f"{unit.file.url}: {blank:.0%} of the drawings from row {unit.start} are blank: "
            "the file was padded or damaged"
        )
    if share > _MAX_INK_SHARE:
        raise BadFileError(
            f"{unit.file.url}: {share:.0%} of the pixels from row {unit.start} have ink: it seems "
            "inverted (expected white on black, 0 = paper)"
        )


def missing_units(units: Iterable[ScanUnit], store: Store) -> tuple[ScanUnit, ...]:
    """Return the units whose attributes, or decoded pixels, are not in the store."""
    return tuple(
        unit
        for unit in units
        if store.size(unit.path) is None
        or (unit.pixels_path is not None and store.size(unit.pixels_path) is None)
    )


def _file_key(file: SourceFile, image_size: int, with_difference_hash: bool) -> str:
    joined = "" if file.metadata is None else file.metadata.digest
    parts = [file.digest, file.format, joined, dict(file.layout).get("dtype", "")]
    parts += [image_size, with_difference_hash, ATTRIBUTES_VERSION, file.class_name is None]
    return digest_of(parts)[:32]
