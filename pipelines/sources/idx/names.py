"""Names of the labels of IDX files, which are numbers.

label_map.csv                 label, class_name: in exports of this program
emnist-letters-mapping.txt    label, then codes of characters, of which the first is the name
--label-names                 where neither of them is there
"""

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence

from pipelines.sources.base import BadFileError
from pipelines.sources.files import FileRanges, file_size, join_url
from pipelines.sources.row_labels import MAX_CLASSES, check_given
from pipelines.store.errors import reading

LABEL_MAP = "label_map.csv"
_MOST_BYTES = 1 << 24


def label_names(directory: str, dataset: str, given: Sequence[str]) -> dict[int, str]:
    """Return the name of each label, in ascending order; empty if there are none.

    dataset  what the names of EMNIST's files begin with
    given    names of the labels from 0 on

    Raises BadFileError for a damaged table, ValueError if names are given and there are others.
    """
    own: dict[int, str] = {}
    for name, parse in [(LABEL_MAP, _from_table), (f"{dataset}-mapping.txt", _from_mapping)]:
        url = join_url(directory, name)
        size = file_size(url)
        if size is None:
            continue
        with reading(url, "a table of labels"):
            own = dict(
                sorted(parse(FileRanges(url).read(0, min(size, _MOST_BYTES)).decode("utf-8-sig")))
            )
            _check(url, own)
            break
    check_given(directory, list(own.values()), given)
    return own or dict(enumerate(given))


def has_label_map(directory: str) -> bool:
    """Return whether a directory is an export of this program."""
    return file_size(join_url(directory, LABEL_MAP)) is not None


def _from_table(text: str) -> list[tuple[int, str]]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    return [(int(row["label"]), unicodedata.normalize("NFC", row["class_name"])) for row in rows]


def _from_mapping(text: str) -> list[tuple[int, str]]:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return [(int(row[0]), chr(int(row[1]))) for row in rows]


def _check(url: str, names: Mapping[int, str]) -> None:
    if not names or not all(0 <= label < MAX_CLASSES for label in names):
        raise BadFileError(f"{url} is expected to have labels from 0 to {MAX_CLASSES - 1}")
    if len(set(names.values())) < len(names) or not all(names.values()):
        raise BadFileError(f"{url} is expected to have different names of the labels")
