"""Contact sheets of kept and of dropped drawings, one for each rule.

    sheets/kept.png, sheets/dropped-<reason>.png

Up to 64 drawings of 28x28, taken evenly from the classes, first rows first; black on white.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dataset.plan import BuildPlan
from pipelines.dataset.scan import ScanUnit, read_pixels
from pipelines.dataset.selection import CLEANING_REASONS, FIRST_REASON, REASONS
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.parquet import read_images
from pipelines.drawings.stored_png import encode_pngs
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store

# The largest square that a stored PNG holds is 255 pixels a side.
_SHEET_PIXELS = 224
_PAPER = 255

Place = tuple[int, int]


@doing("build", "drawing contact sheets")
def contact_sheets(spec: DatasetSpec, plan: BuildPlan, store: Store) -> dict[str, bytes]:
    """Return path and PNG of the sheet of kept drawings and of each reason that dropped any.

    Raises ScratchError if a drawing is not the one that was scanned.
    """
    columns = max(1, _SHEET_PIXELS // spec.image_size)
    wanted = {"kept": range(len(spec.splits))}
    for reason in CLEANING_REASONS:
        code = FIRST_REASON + REASONS.index(reason)
        wanted[f"dropped-{reason}"] = range(code, code + 1)
    sheets = {}
    for name, codes in wanted.items():
        if places := choose_places(plan.codes, codes, columns * columns):
            images = _read(places, plan.units, store, spec.image_size)
            sheets[f"sheets/{name}.png"] = sheet_png(images, columns)
    return sheets


def joined_sheets(sheets: Sequence[Mapping[str, bytes]], image_size: int) -> dict[str, bytes]:
    """Return one sheet for each name in any of `sheets` (path to PNG), one cell of each in turn."""
    columns = max(1, _SHEET_PIXELS // image_size)
    joined = {}
    for name in sorted({name for each in sheets for name in each}):
        parts = [sheet_cells(each[name], image_size) for each in sheets if name in each]
        turns = range(max(map(len, parts)))
        cells = [part[turn] for turn in turns for part in parts if turn < len(part)]
        joined[name] = sheet_png(np.stack(cells[: columns * columns]), columns)
    return joined


def sheet_cells(png: bytes, image_size: int) -> npt.NDArray[np.uint8]:
    """Return the images (n, size, size) of a sheet, one at least, without what fills its end."""
    sheet = _PAPER - read_images(pa.array([png], pa.binary()))[0]
    rows, columns = (pixels // image_size for pixels in sheet.shape)
    cells = sheet.reshape(rows, image_size, columns, image_size).swapaxes(1, 2)
    cells = np.ascontiguousarray(cells.reshape(-1, image_size, image_size))
    inked = np.flatnonzero(cells.any(axis=(1, 2)))
    return cells[: max(1, inked[-1] + 1 if len(inked) else 1)]


def choose_places(
    codes: Mapping[int, npt.NDArray[np.uint8]], wanted: range, count: int
) -> list[Place]:
    """Return up to `count` (unit, row) whose code is wanted, one of each unit in turn."""
    by_unit = {
        unit: np.flatnonzero((found >= wanted.start) & (found < wanted.stop))[:count].tolist()
        for unit, found in sorted(codes.items())
    }
    turns = max(map(len, by_unit.values()), default=0)
    places = [
        (unit, rows[turn])
        for turn in range(turns)
        for unit, rows in by_unit.items()
        if turn < len(rows)
    ]
    return places[:count]


def sheet_png(images: npt.NDArray[np.uint8], columns: int) -> bytes:
    """Return one PNG of images (n, h, w) side by side, `columns` in a row."""
    count, height, width = images.shape
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height, width), np.uint8)
    cells[:count] = images
    sheet = cells.reshape(rows, columns, height, width).swapaxes(1, 2)
    ink = np.ascontiguousarray(sheet.reshape(1, rows * height, columns * width))
    return encode_pngs(_PAPER - ink)[0].tobytes()


def _read(
    places: Sequence[Place], units: Sequence[ScanUnit], store: Store, image_size: int
) -> npt.NDArray[np.uint8]:
    images = [
        read_pixels(units[unit_index], np.array([row]), store, image_size)
        for unit_index, row in places
    ]
    return np.concatenate(images)
