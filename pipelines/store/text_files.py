"""Read text files written by people: class lists, counts, TOML, YAML; any editor or spreadsheet.

The encoding is UTF-8 unless a byte order mark names another: Excel's "Unicode text" is UTF-16.
Without a mark, UTF-16 and the older code pages (ANSI, Windows-1252) cannot be distinguished, so
they are refused, never guessed.
"""

import codecs
import csv
import io
import re
from pathlib import Path

# The mark of UTF-16 is a prefix of that of UTF-32.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The last cell of a row, if it is a number; spreadsheets pad rows with empty cells.
_NUMBER_CELL = re.compile(r"""([,;\t])[ "]*[0-9]+[ "]*[,;\t ]*$""", re.MULTILINE)
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\s*\n")


def read_text(path: Path) -> str:
    """Return the text of a file, without its byte order mark; line ends become newlines.

    Raises ValueError that names the file if it cannot be read or is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"cannot read {path}: line {line} is not UTF-8 text: save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"cannot read {path}: it is not UTF-8 text: save it as UTF-8")
    return re.sub("\r\n?", "\n", text)


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the line number and the stripped cells of every row that is not empty.

    The separator is the comma, semicolon or tab before the first number that ends a row, or the
    one that a first line "sep=;" names. Trailing empty cells are dropped. Raises ValueError that
    names the file, as `read_text` does, and the line of an unclosed quote.
    """
    text = read_text(path)
    said = _SEPARATOR_LINE.match(text)
    found = said or _NUMBER_CELL.search(text)
    reader = csv.reader(io.StringIO(text), delimiter=found[1] if found else ",", strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: a quoted cell must end in a quote, and quotes in it "
            f"be doubled ({error})"
        ) from error
    return rows[1:] if said else rows
