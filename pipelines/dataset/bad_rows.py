"""Bad rows: how they are recognized, counted, named and limited.

A row is bad if it cannot be read (a torn line, a damaged picture, a label of no class), if it is
larger than a limit (pipelines/drawings/limits.py), or if its pixels are no drawing
(pipelines/dataset/attributes.py). A file whose drawings of a class are mostly blank or mostly ink
is implausible as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.dataset.attributes import BAD_ROW_REASONS
from pipelines.dataset.spec import DatasetSpec
from pipelines.sources.base import BadFileError, SourceFile
from pipelines.sources.kinds import file_format

# The number of bad rows that a manifest names; all are counted.
NAMED_ROWS = 1_000
# A class of at least this number of drawings in a file, of which more than this share are blank or whose
# pixels are mostly ink, is not what it seems. Real files have no blanks and 28 % ink.
_PLAUSIBLE_ROWS = 20
_MAX_BLANK_SHARE = 0.5
_MAX_INK_SHARE = 0.65
# At least one of this many drawings has a pixel that is all ink.
_PEAK_ROWS = 5
_LEAST_PEAK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row of a file that is no drawing; `reason` is one of BAD_ROW_REASONS."""

    file: SourceFile
    row: int
    reason: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, as its kind of file counts."""
        if file_format(self.file.format).is_lines:
            return f"line {self.row + 1}"
        return f"row {self.row}"


def bad_row_at(file: SourceFile, row: int, table: pa.Table, place: int) -> BadRow:
    """Return row `row` of a file, which is bad, from its attributes at `place` of a table."""
    reason = BAD_ROW_REASONS[table["bad_row"][place].as_py() - 1]
    if reason in ("unreadable", "oversized"):
        text = table["problem"][place].as_py()
    elif reason == "faint":
        text = f"ink of at most {table['peak'][place]} of 255"
    else:
        text = "white paper with dark ink"
    return BadRow(file=file, row=row, reason=reason, text=text)


def describe_rows(first: BadRow, numbers: Mapping[str, int], rows: int) -> str:
    """Say what is wrong with bad rows and what to do.

    first    is named
    numbers  of bad rows by reason, among the `rows` that were looked at
    """
    counted = ", ".join(f"{number} {reason}" for reason, number in numbers.items())
    hint = {
        "unreadable": "mend it",
        "inverted": "save 255 - x: drawings are white on black, 0 = paper, 255 = ink",
        "oversized": "raise the limit if this is intended",
        "faint": "scale the range of the pixels to 0 to 255, 0 = paper, 255 = ink",
    }[first.reason]
    return (
        f"{first.file.url} {first.place}: {first.text} ({counted} of {rows} rows); {hint}, or leave "
        "such rows out with --on-bad-row skip"
    )


def class_problem(
    ink: npt.NDArray[np.int64], peak: npt.NDArray[np.uint8] | None, num_pixels: int
) -> str | None:
    """Return what is wrong with the drawings of a class in a file as a whole.

    ink   (n,) inked pixels of each
    peak  (n,) the largest pixel of each; None where they were drawn from strokes, at any size
    """
    if len(ink) >= _PLAUSIBLE_ROWS and (problem := _share_problem(ink, num_pixels)):
        return problem
    highest = _LEAST_PEAK if peak is None or len(ink) < _PEAK_ROWS else int(peak.max())
    if 0 < highest < _LEAST_PEAK:
        return (
            f"{len(ink)} drawings have pixels of 0 to {highest}: scale them to 0 to 255, 0 = paper, "
            "255 = ink"
        )
    return None


def _share_problem(ink: npt.NDArray[np.int64], num_pixels: int) -> str | None:
    blank, share = float((ink == 0).mean()), float(ink.mean()) / num_pixels
    if blank > _MAX_BLANK_SHARE:
        return (
            f"{blank:.0%} of {len(ink)} drawings are blank: the file was padded or damaged, or its "
            "ink is where no reader looks"
        )
    if share > _MAX_INK_SHARE:
        return (
            f"{share:.0%} of the pixels of {len(ink)} drawings have ink: they seem noisy, or pictures "
            "of something else (expected white on black, 0 = paper)"
        )
    return None


@dataclass(slots=True)
class BadRows:
    """The rows that a dataset leaves out: the first are named, all are counted."""

    named: list[BadRow] = field(default_factory=list)
    number: int = 0

    def add(
        self, spec: DatasetSpec, named: Sequence[BadRow], numbers: Mapping[str, int], rows: int
    ) -> None:
        """Count bad rows by reason, among `rows`; raise BadFileError under on_bad_row="fail"."""
        if spec.on_bad_row == "fail":
            raise BadFileError(describe_rows(named[0], numbers, rows))
        self.number += sum(numbers.values())
        self.named += named[: NAMED_ROWS - len(self.named)]


def check_limit(spec: DatasetSpec, num_bad_rows: int, first: BadRow | None = None) -> None:
    """Raise BadFileError if more rows are left out than the spec allows."""
    if spec.max_bad_rows is None or num_bad_rows <= spec.max_bad_rows:
        return
    named = f"; the first is {first.file.url} {first.place}: {first.text}" if first else ""
    raise BadFileError(
        f"{num_bad_rows} rows are not drawings, more than --max-bad-rows {spec.max_bad_rows}{named}"
    )


def nothing_left(
    bad_files: Sequence[tuple[str, str]], bad_rows: Sequence[BadRow] = ()
) -> ValueError:
    """Return the error that says why no drawing is left: the first file that is bad, or row."""
    why = [text for _, text in bad_files[:1]]
    why += [f"{row.file.url} {row.place}: {row.text}" for row in bad_rows[:1]]
    first = f": the first is {why[0]}" if why else ""
    return ValueError(f"no drawing is left: every file was bad or every drawing dropped{first}")


def bad_row_entry(row: BadRow) -> dict[str, object]:
    """Return a manifest's entry; the folder of a file differs from machine to machine."""
    name = PurePosixPath(row.file.url).name
    return {"file": name, "place": row.place, "reason": row.reason, "found": row.text}
