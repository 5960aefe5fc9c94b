"""How many drawings of each class: a CSV file of class,count."""

import csv
from pathlib import Path


def read_counts(path: Path) -> dict[str, int]:
    """Read a CSV file of class,count; a first line "class,count" is a heading.

    Raises ValueError naming the line for anything else.
    """
    counts: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read counts from {path}: {error}") from error
    for number, row in enumerate(lines, start=1):
        if number == 1 and [cell.strip() for cell in row] == ["class", "count"]:
            continue
        if len(row) != 2 or not row[1].strip().isdecimal():
            raise ValueError(f"{path}, line {number}: expected class,count, found {','.join(row)}")
        name = row[0].strip()
        if name in counts:
            raise ValueError(f"{path}, line {number}: class {name!r} is counted twice")
        counts[name] = int(row[1])
    if not counts:
        raise ValueError(f"{path} counts no class")
    return counts
