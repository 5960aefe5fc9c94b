"""Encode class names as safe, reversible path components, and list them in tables.

A class name comes from outside and never becomes a path as it is. Letters and digits of any
script, space, hyphen, underscore, comma and apostrophe stay, in Unicode's form NFC, so Google's
345 names are paths already. Everything else is percent-encoded as in a URL, and so are a first
underscore or space and a last space, which some reader skips or some file system drops:
`urllib.parse.unquote` gives the name back. So it is where two names differ in case alone or one
is a device of Windows: then the first characters are encoded, as many as it takes. Only names
that are too long, or would escape the directory when decoded, are cut and numbered.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from pipelines.store.objects import is_name

_MARKS = " -_,'"
_DEVICE = re.compile("con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]", re.IGNORECASE)
# Beside the name stand an ending and, while it is written, its writer: 255 is the limit.
_MAX_BYTES = 200


def path_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the name of a folder, or of a file before its ending, for each class.

    >>> path_names(["The Eiffel Tower", "sun", "Sun", "and/or", "CON", "../.."])
    ('The Eiffel Tower', 'sun', '%53un', 'and%2For', '%43ON', '~5')
    """
    taken: set[str] = set()
    names = []
    for label, class_name in enumerate(class_names):
        name = next(n for n in _candidates(class_name, label) if _without_case(n) not in taken)
        taken.add(_without_case(name))
        names.append(name)
    return tuple(names)


def class_table(class_names: Sequence[str], columns: Mapping[str, Sequence[object]]) -> bytes:
    """Return a CSV with a line a class: label, class_name, then these columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "class_name", *columns])
    writer.writerows(zip(range(len(class_names)), class_names, *columns.values(), strict=True))
    return text.getvalue().encode()


def _candidates(class_name: str, label: int) -> Iterator[str]:
    """Yield names of a class, the most readable first; the last is unique."""
    for count in range(len(class_name) + 1):
        name = "".join(_pieces(class_name, count))
        if is_name(name) and len(name.encode()) <= _MAX_BYTES and not _DEVICE.fullmatch(name):
            yield name
    plain = "".join(piece for piece in _pieces(class_name, 0) if piece[0] != "%")
    cut = plain.encode()[: _MAX_BYTES - 20].decode(errors="ignore")
    yield unicodedata.normalize("NFC", cut.lstrip(" _")) + f"~{label}"


def _pieces(class_name: str, count: int) -> list[str]:
    """Return the characters of a name, with the first `count` and all unsafe ones encoded."""
    rest = unicodedata.normalize("NFC", class_name[count:])
    kept = [c if c.isalnum() or c in _MARKS else _encoded(c) for c in rest]
    if kept and kept[0] in " _":
        kept[0] = _encoded(kept[0])
    if kept and kept[-1] == " ":
        kept[-1] = _encoded(" ")
    return [_encoded(c) for c in class_name[:count]] + kept


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _without_case(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
