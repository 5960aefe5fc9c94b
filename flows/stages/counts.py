"""How many drawings of each class: a CSV file of class,count."""

from pathlib import Path

from pipelines.store.text_files import read_rows

# What people and spreadsheets write above the two columns.
_CLASS_HEADINGS = {"class", "classes", "class name", "class_name", "category", "label", "name"}
_COUNT_HEADINGS = {"count", "counts", "drawings", "number", "num", "n"}


def read_counts(path: Path) -> dict[str, int]:
    """Read a CSV file of class,count; a first line "class,count" is a heading.

    The separator is a comma, a semicolon or a tab; names that contain it are quoted. Raises
    ValueError naming the line for anything else.
    """
    counts: dict[str, int] = {}
    rows = read_rows(path)
    if rows and _is_heading(rows[0][1]):
        del rows[0]
    for line, row in rows:
        if len(row) != 2 or not row[1].isdecimal():
            hint = "; quote a name that has a comma" if len(row) > 2 else ""
            raise ValueError(
                f"{path}, line {line}: expected class,count, found {','.join(row)}{hint}"
            )
        name = row[0]
        if name in counts:
            raise ValueError(f"{path}, line {line}: class {name!r} is counted twice")
        counts[name] = int(row[1])
    if not counts:
        raise ValueError(f"{path} counts no class")
    return counts


def _is_heading(row: list[str]) -> bool:
    folded = [cell.casefold() for cell in row]
    return len(row) == 2 and folded[0] in _CLASS_HEADINGS and folded[1] in _COUNT_HEADINGS
