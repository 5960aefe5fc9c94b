"""Size limits on parts of a source, which bound the memory that a file can take.

Input beyond a limit is not read. A line, a record or a picture beyond it is a bad row with its own
reason; a file beyond it is a bad file. At the defaults a process stays below 1 GiB.
Google's drawings have up to some thousands of points and tens of kilobytes.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

_UNITS = {
    "max_points": "points",
    "max_line_bytes": "bytes",
    "max_pixels": "pixels",
    "max_row_groups": "row groups",
}
_PROBLEM = re.compile(r"\d+ [a-z ]+, more than (\d+ times )?--max-[a-z-]+ \d+")
PIXELS_PER_POINT = 10


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one source.

    Parameters
    ----------
    max_points
        Most points of a drawing; strokes that are simplified may be ten times as many pixels long.
    max_line_bytes
        Most bytes of a line of .ndjson, a record of .bin or TFRecord, or a member of a tar; JSON
        takes up to thirty times as much memory.
    max_pixels
        Most pixels of a picture, checked before it is decoded.
    max_row_groups
        Most row groups of a Parquet file.
    """

    max_points: int = 20_000
    max_line_bytes: int = 8 << 20
    max_pixels: int = 2_048**2
    max_row_groups: int = 10_000

    def problem(self, name: str, found: int) -> str | None:
        """Return what is wrong with `found` of the limit's unit, None if it is within."""
        if found <= getattr(self, name):
            return None
        return f"{found} {_UNITS[name]}, more than {self._option(name)}"

    def length_problem(self, pixels: int) -> str | None:
        """Return what is wrong with strokes that are so long together, None if nothing is."""
        if pixels <= PIXELS_PER_POINT * self.max_points:
            return None
        option = self._option("max_points")
        return f"{pixels} pixels of strokes, more than {PIXELS_PER_POINT} times {option}"

    def _option(self, name: str) -> str:
        return f"--{name.replace('_', '-')} {getattr(self, name)}"

    def stated(self) -> dict[str, int]:
        """Return the limits that are not the defaults."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != getattr(DEFAULT, name)}


DEFAULT = Limits()


def limits_of(record: Any) -> Limits:
    """Return the limits among the fields of a spec or of parameters."""
    return Limits(**{f.name: getattr(record, f.name) for f in dataclasses.fields(Limits)})


def is_limit_problem(text: str) -> bool:
    """Whether a problem of a row is that it goes beyond a limit, wherever it was found.

    >>> is_limit_problem(f"line 1: {DEFAULT.problem('max_points', 3_000_000)}")
    True
    """
    return _PROBLEM.fullmatch(text.rpartition(": ")[2]) is not None
