"""The first pass: compute attributes of every drawing, one range of a source file at a time.

A range's attributes are put under a key that depends on the file's content, the range and what is
computed: they serve every later dataset from the same file. Files that cannot be read row by row
(strokes, pictures) are decoded once, here; their pixels are put beside the attributes. Both are
sealed (pipelines/store/scratch.py). Readers of attributes check the seal. Pixels are read in part,
so they are checked against their hashes in the attributes: one by one, or by the sum over a
dataset.
"""

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.catalogue import is_official
from pipelines.dataset.attributes import (
    ATTRIBUTES_VERSION,
    drawing_attributes,
    failed_attributes,
    hashes_of,
    read_table_rows,
    stamp_of,
    table_to_bytes,
)
from pipelines.drawings.batch import Drawings
from pipelines.drawings.hashing import pixel_hashes
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.files import file_version
from pipelines.sources.kinds import file_format
from pipelines.sources.registry import open_reader
from pipelines.sources.strokes.cairo import cairo_version
from pipelines.store.artifacts import Store
from pipelines.store.manifest import digest_of
from pipelines.store.scratch import SEAL_BYTES, damaged, is_seal, sealed

_LOGGER = logging.getLogger(__name__)
# Multiples of 64, so that blocks of rows do not depend on the ranges.
DIRECT_UNIT_ROWS = 65_536
DECODED_UNIT_ROWS = 8_192
# What a range reads at once: 0.8 MB of 28x28 drawings, near enough to the cache.
_BATCH_ROWS = 1_024
# Hash, ink, peak and verdict of a row.
_LEAST_ROW_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanUnit:
    """Rows [start, stop) of one file; where its attributes, and pixels if decoded, are kept.

    pixels_bytes: size of the file of decoded pixels
    """

    file: SourceFile
    start: int
    stop: int
    path: str
    pixels_path: str | None
    pixels_bytes: int = 0

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
            unit = ScanUnit(
                file=file, start=start, stop=stop, path=f"{stem}.arrow", pixels_path=None
            )
            if not file.is_direct:
                size = _header_bytes(stop - start, image_size) + unit.rows * image_size**2
                size += SEAL_BYTES
                unit = replace(unit, pixels_path=f"{stem}.npy", pixels_bytes=size)
            units.append(unit)
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
            store.put(unit.path, sealed(table_to_bytes(failed_attributes(str(error)))))
            return {"ranges_failed": 1}
        store.put(unit.path, sealed(table_to_bytes(table)))
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
        table = pa.concat_tables(tables, promote_options="default").combine_chunks()
        if unit.pixels_path is not None:
            store.put(unit.pixels_path, sealed(npy_bytes(np.concatenate(images))))
        return table

    def _attributes(self, unit: ScanUnit, drawings: Drawings) -> pa.Table:
        return drawing_attributes(
            drawings,
            with_label=unit.file.class_name is None,
            with_difference_hash=self.with_difference_hash,
            is_trusted=file_format(unit.file.format).is_drawn or is_official(unit.file.digest),
        )


def pixels_file(unit: ScanUnit, store: Store, image_size: int) -> tuple[SourceFile, int]:
    """Return the file to read a unit's pixels from, and which of its rows is the unit's first."""
    if unit.pixels_path is None:
        return unit.file, unit.start
    local = store.local_path(unit.pixels_path)
    url = f"{store.url.rstrip('/')}/{unit.pixels_path}" if local is None else str(local)
    layout = {
        "offset": _header_bytes(unit.rows, image_size),
        "side": image_size,
        "dtype": "|u1",
        "repair": "",
    }
    file = SourceFile(
        url=url,
        format="npy",
        class_name=unit.file.class_name,
        rows=unit.rows,
        bytes=0,
        digest=f"{unit.path} {local and stamp_of(local)}",  # readers stay open: not of an older file
        layout=layout,
        is_direct=True,
    )
    return file, 0


def read_pixels(
    unit: ScanUnit, rows: npt.NDArray[np.int64], store: Store, image_size: int
) -> npt.NDArray[np.uint8]:
    """Return the images of these ascending rows of a unit.

    Raises ScratchError if decoded ones are not those that were scanned.
    """
    file, first = pixels_file(unit, store, image_size)
    images = open_reader(file, image_size).read_rows(rows + first)
    if unit.pixels_path is not None:
        hashes = hashes_of(read_table_rows(store, unit.path, rows))
        if not np.array_equal(pixel_hashes(images), hashes):
            raise damaged(unit.pixels_path)
    return images


def npy_bytes(images: np.ndarray, rows: int | None = None) -> bytes:
    """Return images (n, h, w) as an .npy file; `rows` announces another n."""
    sink = io.BytesIO()
    shape = (len(images) if rows is None else rows, *images.shape[1:])
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(sink, header)
    return sink.getvalue() + np.ascontiguousarray(images).tobytes()


def _header_bytes(rows: int, image_size: int) -> int:
    return len(npy_bytes(np.empty((0, image_size, image_size), np.uint8), rows))


def missing_units(units: Iterable[ScanUnit], store: Store) -> tuple[ScanUnit, ...]:
    """Return the units whose attributes, or decoded pixels, are not in the store, or not whole.

    A range that could not be read is tried again: what hindered it may have passed.
    """
    return tuple(unit for unit in units if not _is_whole(unit, store))


def forget_changed(units: Sequence[ScanUnit], scanned: Iterable[ScanUnit], store: Store) -> None:
    """Check that the files of `units` have not changed since they were opened.

    Raises BadFileError otherwise, after deleting what was just `scanned` of such a file: it is
    kept under a digest that is not its own.
    """
    files = {unit.file.url: unit.file for unit in units if unit.file.version}
    changed = {url for url, file in files.items() if file_version(url) != file.version}
    if not changed:
        return
    for unit in scanned:
        if unit.file.url in changed:
            store.delete(unit.path)
    raise BadFileError(
        f"{min(changed)} changed while it was read: run it again when it no longer changes"
    )


def _is_whole(unit: ScanUnit, store: Store) -> bool:
    """Whether attributes have a seal and this number of rows, and pixels the size for them."""
    size = store.size(unit.path)
    if size is None or size < unit.rows * _LEAST_ROW_BYTES:
        return False
    if not is_seal(store.get_range(unit.path, size - SEAL_BYTES, SEAL_BYTES)):
        _LOGGER.warning("%s; it is made again", damaged(unit.path))
        return False
    return unit.pixels_path is None or store.size(unit.pixels_path) == unit.pixels_bytes


def _file_key(file: SourceFile, image_size: int, with_difference_hash: bool) -> str:
    joined = "" if file.metadata is None else file.metadata.digest
    parts = [file.digest, file.format, joined, dict(file.layout).get("dtype", "")]
    parts += [image_size, with_difference_hash, ATTRIBUTES_VERSION, file.class_name is None]
    # A label kept of a file that mixes classes is a position in these names.
    parts += list(dict(file.layout).get("labels", ()))
    parts += [file.layout["how"]] if "how" in file.layout else []
    parts += file.columns
    parts += file.limits.stated().items()  # what is beyond them is a bad row
    # What a server says of a file, its size and time, may be said of another of its files too.
    parts += [] if file.digest.startswith("sha256:") else [file.url]
    if file_format(file.format).is_drawn:  # another libcairo may draw other pixels
        parts += sorted(cairo_version().values())
    return digest_of(parts)[:32]
