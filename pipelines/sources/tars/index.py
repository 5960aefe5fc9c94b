"""What the samples of a WebDataset tar say: their pictures, labels and metadata; an index of them.

.png, .jpg, ...    the picture, one a sample
.cls               a number, or the name of a class
.json              label, class, word, class_name or category; columns of metadata
.txt               as .cls, where neither of them says a class
"""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.drawings.limits import Limits
from pipelines.processes.progress import advance, doing
from pipelines.sources.base import BadFileError
from pipelines.sources.pieces import PieceFile
from pipelines.sources.row_index import INDEX_ROWS
from pipelines.sources.row_labels import RowLabel, Seen, row_label
from pipelines.sources.tables.labels import LABEL_COLUMNS
from pipelines.sources.tars.samples import Sample, samples
from pipelines.store.errors import reading
from pipelines.store.printable import describe_value

WHAT = "a WebDataset tar"
# Part of the name of a kept index: bumped when its meaning changes.
INDEX_MEANING = "webdataset 1"
_PICTURES = {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "pgm", "ppm", "avif", "jp2"}


class SampleReader:
    """Reads what samples of one tar say; a member beyond `limits` is not read."""

    def __init__(self, tar: PieceFile, limits: Limits) -> None:
        self.tar, self.limits = tar, limits

    def picture(self, sample: Sample) -> bytes:
        """Return a sample's encoded picture; raise ValueError if it has none or several."""
        return self._content(sample, self.picture_suffix(sample))

    def picture_suffix(self, sample: Sample) -> str:
        """Return which member of a sample is its picture; raise ValueError as `picture`."""
        if sample.problem:
            raise ValueError(sample.problem)
        found = [suffix for suffix in sample.members if suffix in _PICTURES]
        if len(found) != 1:
            suffixes = describe_value(", ".join(f".{suffix}" for suffix in sample.members))
            count = f"{len(found)} pictures" if found else "no picture (.png, .jpg, ...)"
            raise ValueError(f"it has {count}; its members that stand together are {suffixes}")
        return found[0]

    def label(self, sample: Sample) -> RowLabel:
        """Return what a sample says of its class.

        Raises ValueError if that is nothing, or several things.
        """
        said: list[int | str] = []
        if "cls" in sample.members:
            said.append(_number_or_name(self._text(sample, "cls")))
        if "json" in sample.members:
            record = self.record(sample)
            for key in (key for key in LABEL_COLUMNS if key in record):
                value = record[key]
                is_said = type(value) is int or (isinstance(value, str) and value != "")
                # A category may be one of classes.
                if is_said and (key != "category" or not said):
                    said.append(value)
        if not said and "txt" in sample.members:
            said.append(_number_or_name(self._text(sample, "txt")))
        if not said:
            raise ValueError("it says no class beside the picture, in .cls, .json or .txt")
        names = [x for x in said if isinstance(x, str)]
        return row_label([x for x in said if isinstance(x, int)], names, "it")

    def record(self, sample: Sample) -> dict[str, Any]:
        """Return the object of a sample's .json, {} without one; raise ValueError for other JSON."""
        if "json" not in sample.members:
            return {}
        try:
            record = json.loads(self._content(sample, "json").decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its .json cannot be read: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"its .json is {describe_value(record)}, expected an object")
        return record

    def _text(self, sample: Sample, suffix: str) -> str:
        try:
            text = self._content(sample, suffix).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"its .{suffix} is not UTF-8 text") from error
        if not text:
            raise ValueError(f"its .{suffix} is empty")
        return text

    def _content(self, sample: Sample, suffix: str) -> bytes:
        offset, size = sample.members[suffix]
        if problem := self.limits.problem("max_line_bytes", size):
            raise ValueError(f"its .{suffix} has {problem}")
        return self.tar.at(offset, size)


def _number_or_name(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


@functools.lru_cache(maxsize=1_024)
def tar_index(url: str, size: int, version: str, limits: Limits) -> Mapping[str, Any]:
    """Return rows, where every 256th begins, and the different labels; kept for each `version`.

    Raises BadFileError if the tar is damaged or no sample of it is a picture with a class.
    """
    del version
    seen, starts = Seen(url), []
    tar = PieceFile(url, size)
    reader = SampleReader(tar, limits)
    rows, problem, is_in_folder = 0, "", False
    with reading(url, WHAT), doing("index", url.rpartition("/")[2], total=size):
        for rows, sample in enumerate(samples(tar, 0), 1):
            if rows % INDEX_ROWS == 1:
                advance(sample.start - (starts or [0])[-1])
                starts.append(sample.start)
            try:
                reader.picture_suffix(sample)
                label = reader.label(sample)
            except BadFileError:
                raise
            except ValueError as error:
                problem = problem or f"{sample.named()}: {error}"
                is_in_folder = is_in_folder or sample.is_in_folder
            else:
                seen.add(label)
    if rows and not seen.labels:
        hint = "; if its folders are classes, unpack it and give the folder" if is_in_folder else ""
        raise BadFileError(f"{url} has no picture with a class beside it: {problem}{hint}")
    return {"rows": rows, "starts": starts, "labels": seen.pairs()}
