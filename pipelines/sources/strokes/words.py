"""Find the classes of one file whose rows name their own.

A file of drawings is of the class in its name: bee.ndjson. One that is the source itself and whose
name is no class of Quick, Draw!, such as mine.csv, is of several classes if its first drawing has
a `word` that is not its name. Every row then needs one. So is train.csv: trains are a class, too,
and the name is that of a split.
"""

import functools
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pipelines.catalogue import tfds_id
from pipelines.drawings.limits import Limits
from pipelines.processes.progress import doing
from pipelines.sources.base import BadFileError
from pipelines.sources.strokes.formats import class_of_word, is_same_name, parse_line
from pipelines.sources.strokes.packed import plain_chunks
from pipelines.sources.strokes.reader import split_lines
from pipelines.sources.strokes.tables import TableHead, parse_row, read_head

_FIRST_LINES = 256
_CLASS_AND_SPLIT = "train"
# Labels are 16-bit numbers.
_MOST_WORDS = 2**15 - 1


@functools.lru_cache(maxsize=64)
def words_in(url: str, size: int, version: str, name: str, limits: Limits) -> tuple[str, ...]:
    """Return the words of the rows of a file, sorted; none if they are of the class `name`.

    Remembered for each `version`. Raises BadFileError if there are more than labels can tell.
    """
    del version
    if tfds_id(name) >= 0 and name != _CLASS_AND_SPLIT:
        return ()
    head, _ = read_head(url, size)
    first = (parse_line(line, limits=limits, head=head) for line in _lines(url, size, head, limits))
    good = (one for one in islice(first, _FIRST_LINES) if one.problem is None)
    word = next((one.word for one in good), None)
    if word is None or is_same_name(word, name):
        return ()
    words: set[str] = set()
    with doing("index", f"words of {url.rpartition('/')[2]}"):
        for line in _lines(url, size, head, limits):
            words.add(class_of_word(_word(line, head)))
            if len(words) > _MOST_WORDS:
                raise BadFileError(f"{url} has more than {_MOST_WORDS} words, expected classes")
    return tuple(sorted(words - {""}))


def _lines(url: str, size: int, head: TableHead | None, limits: Limits) -> Iterator[bytes]:
    lines = split_lines(plain_chunks(url, size), limits.max_line_bytes)
    return (line for line, _ in islice(lines, 0 if head is None else 1, None))


def _word(line: bytes, head: TableHead | None) -> Any:
    """Return the word of a row, None if it has none; the reader says what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8-sig")) if head is None else parse_row(line, head)
    except (ValueError, RecursionError):
        return None
    return record.get("word") if isinstance(record, dict) else None
