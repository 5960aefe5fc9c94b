"""Read what lists pictures beside them: metadata.csv, metadata.jsonl, png-classes.csv.

metadata.csv     file_name, then label, class_name and the like, and Google's columns, a line a
                 picture: Hugging Face's `imagefolder` and exports of this program have it
metadata.jsonl   the same, an object a line
png-classes.csv  label, class_name, folder: a line a class of an export of this program
"""

import csv
import functools
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from pipelines.sources.base import BadFileError
from pipelines.sources.metadata import COLUMN_NAMES
from pipelines.sources.tables.labels import LABEL_COLUMNS, NUMBER_COLUMNS
from pipelines.store.errors import reading

LISTINGS = ("metadata.csv", "metadata.jsonl")
_FILE = "file_name"
_WANTED = (_FILE, *LABEL_COLUMNS, *(name for names in COLUMN_NAMES.values() for name in names))
_Values = Sequence[str | None]
# pandas writes whole numbers as floats where one is missing.
_NUMBER = re.compile(r"(-?\d{1,9})(\.0+)?")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Values of pictures, as text; None where there is none.

    rows     of each picture, by its path in NFC relative to the listing's folder
    columns  as many values each as there are rows
    """

    path: Path
    rows: Mapping[str, int]
    columns: Mapping[str, _Values]

    @functools.cached_property
    def text(self) -> str | None:
        """The column that names classes."""
        return next((name for name in self._labels() if not self._is_number(name)), None)

    @functools.cached_property
    def number(self) -> str | None:
        """The column that numbers them."""
        return next(filter(self._is_number, self._labels()), None)

    def values(self, column: str, names: Sequence[str]) -> list[str | None]:
        """Return the values of these pictures."""
        values, rows = self.columns[column], self.rows
        found = (rows.get(unicodedata.normalize("NFC", name)) for name in names)
        return [None if row is None else values[row] for row in found]

    def labels(self, column: str, names: Sequence[str]) -> list[str]:
        """Return the labels of these pictures; raise BadFileError if one has none."""
        found = self.values(column, names)
        if not all(found):
            name = names[[bool(value) for value in found].index(False)]
            raise BadFileError(
                f"{self.path} has no {column} for {name}: write it, or drop {column}"
            )
        return [str(value) for value in found]

    def numbers(self, names: Sequence[str]) -> list[int]:
        """Return the numbers of these pictures; raise BadFileError if one has none."""
        return [int(float(value)) for value in self.labels(str(self.number), names)]

    def _labels(self) -> list[str]:
        return [name for name in LABEL_COLUMNS if name in self.columns]

    def _is_number(self, name: str) -> bool:
        values = self.columns[name]
        return name in NUMBER_COLUMNS and all(_NUMBER.fullmatch(value or "") for value in values)


def read_listing(path: Path) -> Listing | None:
    """Return what a metadata file says, None if it names no files.

    Raises BadFileError if it is damaged, or names a file twice.
    """
    return _read_listing(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=16)
def _read_listing(path: Path, _version: int, size: int) -> Listing | None:
    if not size:  # an export writes this for a split without drawings
        return Listing(path=path, rows={}, columns={})
    with reading(str(path), "a list of pictures"):
        columns = _csv_columns(path) if path.suffix == ".csv" else _json_columns(path)
    if _FILE not in columns:
        return None
    rows: dict[str, int] = {}
    for row, name in enumerate(columns.pop(_FILE)):
        name = unicodedata.normalize("NFC", (name or "").removeprefix("./"))
        if rows.setdefault(name, row) != row:
            raise BadFileError(f"{path} lists {name!r} twice: drop one of the lines")
    return Listing(path=path, rows=rows, columns=columns)


def _csv_columns(path: Path) -> dict[str, _Values]:
    table = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(_WANTED, pa.string())),
    )
    names = [name for name in table.column_names if name in _WANTED]
    return {name: table[name].to_pylist() for name in names}


def _json_columns(path: Path) -> dict[str, _Values]:
    with path.open("rb") as file:
        records = [json.loads(line) for line in file if line.strip()]
    names = [name for name in _WANTED if any(name in record for record in records)]
    return {name: [_text(record.get(name)) for record in records] for name in names}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def class_folders(path: Path) -> dict[str, str]:
    """Return the class of each folder of an export, in the order of the labels.

    Raises BadFileError if it is no such table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
        found = {
            row["folder"]: unicodedata.normalize("NFC", row["class_name"])
            for row in sorted(rows, key=lambda row: int(row["label"]))
        }
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadFileError(
            f"{path} is not a table of the columns label, class_name and folder; remove it to have "
            "classes named after their folders"
        ) from error
    if len(set(found.values())) < len(rows):
        raise BadFileError(f"{path} names a folder or a class twice")
    return found
