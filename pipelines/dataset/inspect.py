"""Look at a source before a dataset is made of it: some rows of each file, judged as a build does.

A file's rows are read at its start and in its middle, or all of them where they are few. So the
number of bad rows is of those that were looked at.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.catalogue import is_official
from pipelines.dataset.attributes import column, drawing_attributes
from pipelines.dataset.bad_rows import bad_row_at, class_problem
from pipelines.drawings.batch import Drawings
from pipelines.processes.progress import advance, doing
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.kinds import file_format
from pipelines.sources.registry import open_reader

# Of all files together; of each at least this many.
_ROWS, _LEAST_ROWS = 4_096, 16
# Drawings of a class on a contact sheet.
_SHOWN = 8


@dataclass(slots=True, kw_only=True)
class Inspection:
    """What is known of a source from a look at it.

    looked_at   rows that were read
    by_class    of these, the number of each class
    values      the least and the largest pixel of those that are drawings; None if there is none
    bad_rows    by reason: unreadable, inverted, faint, oversized
    first_bad_row  the first of them, in words
    bad_files   address and reason of files that a build would refuse
    usable      drawings in files that it would not
    repaired    rows by what was converted in them
    shown       up to eight drawings of each class (n, size, size)
    """

    looked_at: int = 0
    by_class: Counter[str] = field(default_factory=Counter)
    values: tuple[int, int] | None = None
    bad_rows: Counter[str] = field(default_factory=Counter)
    first_bad_row: str = ""
    bad_files: list[tuple[str, str]] = field(default_factory=list)
    usable: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    shown: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def first_problem(self) -> str:
        """What is wrong with the first file or row that cannot be read; empty if nothing is."""
        return next((reason for _, reason in self.bad_files), self.first_bad_row)


def inspect_source(source: Source) -> Inspection:
    """Read some rows of each file and judge them."""
    found = Inspection(bad_files=list(source.bad_files))
    share = max(_LEAST_ROWS, _ROWS // max(1, len(source.files)))
    with doing("inspect", "looking at rows", total=len(source.files)):
        for file in source.files:
            before = len(found.bad_files), found.by_class.total()
            try:
                for start, drawings in _look(file, source.image_size, share):
                    _judge(found, source, file, start, drawings)
            except BadFileError as error:
                found.bad_files.append((file.url, str(error)))
            if len(found.bad_files) == before[0]:
                found.usable += found.by_class.total() - before[1]
            advance(1)
    return found


def _look(file: SourceFile, image_size: int, rows: int) -> Iterator[tuple[int, Drawings]]:
    """Yield batches of a file with the row that each begins at."""
    reader = open_reader(file, image_size)
    if file.rows <= rows:
        starts, size = ([0] if file.rows else []), file.rows
    else:
        starts, size = [0, file.rows // 2], rows // 2
    for start in starts:
        yield start, reader.read(start, start + size)


def _judge(
    found: Inspection, source: Source, file: SourceFile, start: int, drawings: Drawings
) -> None:
    is_drawn = file_format(file.format).is_drawn
    is_trusted = is_drawn or is_official(file.digest)
    table = drawing_attributes(drawings, is_trusted=is_trusted)
    is_bad = column(table, "bad_row") > 0
    for place in np.flatnonzero(is_bad).tolist():
        bad = bad_row_at(file, start + place, table, place)
        found.bad_rows[bad.reason] += 1
        found.first_bad_row = found.first_bad_row or f"{file.url} {bad.place}: {bad.text}"
    if "repair" in table.column_names:
        repairs = table["repair"].filter(pa.array(~is_bad)).drop_null()
        found.repaired.update(repairs.to_pylist())
    found.looked_at += len(drawings)
    good = drawings.take(~is_bad)
    if not len(good):
        return
    ends = int(good.images.min()), int(good.images.max())
    known = found.values or ends
    found.values = min(known[0], ends[0]), max(known[1], ends[1])
    names = _names(source, file, good)
    for name in dict.fromkeys(names):
        _note_class(found, file, name, good.images[names == name], is_drawn=is_drawn)


def _note_class(
    found: Inspection,
    file: SourceFile,
    name: str,
    images: npt.NDArray[np.uint8],
    *,
    is_drawn: bool,
) -> None:
    found.by_class[name] += len(images)
    shown = found.shown.get(name, images[:0])
    found.shown[name] = np.concatenate([shown, images[: _SHOWN - len(shown)]])
    flat = images.reshape(len(images), -1)
    peak = None if is_drawn else flat.max(axis=1)
    if not is_official(file.digest) and (
        problem := class_problem((flat > 0).sum(axis=1), peak, flat.shape[1])
    ):
        found.bad_files.append((file.url, f"{file.url}: {problem}"))


def _names(source: Source, file: SourceFile, drawings: Drawings) -> npt.NDArray[np.object_]:
    """Return the class name of each drawing."""
    if file.class_name is not None:
        return np.full(len(drawings), file.class_name, object)
    return np.array(source.class_names, object)[drawings.label]
