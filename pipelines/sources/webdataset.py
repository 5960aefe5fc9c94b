"""WebDataset as a source: tars of pictures with their classes beside them.

    train-000000.tar    000017.png  000017.cls  000017.json    a picture, its label, more of it
    dataset.json        names of the classes and splits, in exports of this program

    .cls    a number, or the name of a class
    .json   label, class, word, class_name or category; key_id and the other columns of metadata
    .txt    as .cls, where neither of them says a class

Samples are as tar_samples.py has them, labels as row_labels.py has them. Pictures of another size
are padded unless `fit` says otherwise. Where the ink is dark is not guessed at.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from pipelines.drawings.batch import Drawings
from pipelines.drawings.limits import Limits
from pipelines.drawings.pictures import decode_drawings
from pipelines.processes.progress import advance, doing
from pipelines.sources.base import (
    BadFileError,
    FileFormat,
    Names,
    Place,
    Reader,
    Request,
    Source,
    SourceFile,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.files import (
    DANGLING,
    FileRanges,
    content_digest,
    file_size,
    file_version,
    find_below,
    hashing,
    is_listable,
    join_url,
    list_tree,
    why_absent,
)
from pipelines.sources.metadata import COLUMN_TYPES, NOTHING, parse_record
from pipelines.sources.row_labels import (
    LabelNames,
    RowLabel,
    Seen,
    check_given,
    names_of,
    row_label,
)
from pipelines.sources.simplify import describe_value
from pipelines.sources.table_files import splits_of
from pipelines.sources.table_labels import LABEL_COLUMNS
from pipelines.sources.tar_samples import Sample, TarBytes, samples
from pipelines.store.errors import reading
from pipelines.store.local_files import write_json
from pipelines.store.manifest import digest_of

INDEX_ROWS = 256
# Part of the name of a kept index: bumped when its meaning changes.
_INDEX_VERSION = 1
_DESCRIPTION = "dataset.json"
_MOST_DESCRIPTION_BYTES = 1 << 26
_PICTURES = {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "pgm", "ppm", "avif", "jp2"}
_WHAT = "a WebDataset tar"
_NAMING = "or let each sample say the name, in .cls or .json"
_EXPORTED = "webdataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What dataset.json says: names in the order of labels, and tars by split with their samples.

    url  its address, "" without one
    """

    url: str = ""
    names: tuple[str, ...] = ()
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def split_of(self, name: str) -> tuple[str, int]:
        """Return a tar's split and number of samples; raise BadFileError if it is not listed."""
        for split, tars in self.splits.items():
            if name in tars:
                return split, tars[name]
        raise BadFileError(
            f"{self.url} does not list {name}: take it away, or give the tar alone as the source"
        )


@functools.lru_cache(maxsize=1_024)
def _index(url: str, size: int, version: str, limits: Limits) -> Mapping[str, Any]:
    """Return rows, where every 256th begins, and the different labels; kept for each `version`.

    Raises BadFileError if the tar is damaged or no sample of it is a picture with a class.
    """
    del version
    tar, seen, starts = TarBytes(url, size, limits), Seen(url), []
    rows = place = 0
    problem, is_in_folder = "", False
    with reading(url, _WHAT), doing("index", url.rpartition("/")[2], total=size):
        for rows, sample in enumerate(samples(tar, 0), 1):
            if rows % INDEX_ROWS == 1:
                starts.append(sample.start)
                advance(sample.start - place)
                place = sample.start
            try:
                _picture_place(sample)
                seen.add(_label(sample, tar))
            except BadFileError:
                raise
            except ValueError as error:
                problem = problem or f"{sample.named()}: {error}"
                is_in_folder = is_in_folder or sample.is_in_folder
    if rows and not seen.labels:
        hint = "; if its folders are classes, unpack it and give the folder" if is_in_folder else ""
        raise BadFileError(f"{url} has no picture with a class beside it: {problem}{hint}")
    return {"rows": rows, "starts": starts, "labels": seen.pairs()}


def _picture_place(sample: Sample) -> tuple[int, int]:
    """Return where a sample's one picture is; raise ValueError if it has none or several."""
    if sample.problem:
        raise ValueError(sample.problem)
    found = [suffix for suffix in sample.members if suffix in _PICTURES]
    if len(found) != 1:
        suffixes = describe_value(", ".join(f".{suffix}" for suffix in sample.members))
        count = f"{len(found)} pictures" if found else "no picture (.png, .jpg, ...)"
        raise ValueError(f"it has {count} beside each other in the tar, only {suffixes}")
    return sample.members[found[0]]


def _label(sample: Sample, tar: TarBytes) -> RowLabel:
    """Return what a sample says of its class; raise ValueError if nothing, or in two ways."""
    numbers: list[int] = []
    names: list[str] = []
    if "cls" in sample.members:
        _add(_text(sample, "cls", tar), numbers, names)
    if "json" in sample.members:
        record = _record(sample, tar)
        for value in (record[key] for key in LABEL_COLUMNS if key in record):
            if isinstance(value, str) and value:
                names.append(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                numbers.append(value)
    if not numbers and not names and "txt" in sample.members:
        _add(_text(sample, "txt", tar), numbers, names)
    if not numbers and not names:
        raise ValueError("it says no class beside the picture, in .cls, .json or .txt")
    return row_label(numbers, names, "it")


def _add(text: str, numbers: list[int], names: list[str]) -> None:
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        numbers.append(int(text))
    else:
        names.append(text)


def _text(sample: Sample, suffix: str, tar: TarBytes) -> str:
    try:
        text = tar.content(sample.members[suffix]).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its .{suffix} is not UTF-8 text") from error
    if not text:
        raise ValueError(f"its .{suffix} is empty")
    return text


def _record(sample: Sample, tar: TarBytes) -> dict[str, Any]:
    try:
        record = json.loads(tar.content(sample.members["json"]).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its .json cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"its .json is {describe_value(record)}, expected an object")
    return record


class WebDatasetReader(Reader):
    """Decodes the pictures of one tar."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        how = json.loads(file.layout["how"])
        self.fit = how["fit"]
        self.labels = LabelNames(file.layout["labels"], are_positions=how["numbers"])
        self.tar = TarBytes(file.url, file.bytes, file.limits)
        # Batches follow each other.
        self._samples: Iterator[Sample] = iter(())
        self._next = -1

    def read(self, start: int, stop: int) -> Drawings:
        """Return the samples [start, stop); labels are positions in the source's names.

        A sample without one picture and one class, with a picture that is no drawing, or a bad
        value of metadata has a problem. Raises BadFileError if the tar is damaged.
        """
        with reading(f"{self.file.url} from sample {start}", _WHAT):
            if start != self._next:
                skip = start % INDEX_ROWS
                first = self.file.layout["starts"][start // INDEX_ROWS]
                self._samples = islice(samples(self.tar, first), skip, None)
            self._next = -1
            found = [self._parsed(sample) for sample in islice(self._samples, stop - start)]
        if len(found) < stop - start:
            raise BadFileError(f"{self.file.url} has fewer samples than before: fetch it again")
        self._next = stop
        images, problem, repair = decode_drawings(
            [content for content, *_ in found], self.image_size, self.file.limits, fit=self.fit
        )
        for row, (_, _, _, said) in enumerate(found):
            if said or problem[row]:
                images[row], problem[row] = 0, said or f"{found[row][2]}: {problem[row]}"
        label = np.array([label for _, (label, _), *_ in found], np.int64)
        columns = {
            name: np.array([values[name] for _, (_, values), *_ in found], COLUMN_TYPES[name])
            for name in self.file.columns
        }
        return Drawings(images=images, label=label, problem=problem, repair=repair, **columns)

    def _parsed(self, sample: Sample) -> tuple[bytes, tuple[int, Mapping[str, Any]], str, str]:
        """Return picture, (label, metadata), name and problem of a sample."""
        try:
            content = self.tar.content(_picture_place(sample))
            label = self.labels.position(_label(sample, self.tar))
            values: Mapping[str, Any] = {}
            if self.file.columns:
                record = _record(sample, self.tar) if "json" in sample.members else {}
                values = parse_record(record, self.file.columns)
        except BadFileError:
            raise
        except ValueError as error:
            return b"", (-1, NOTHING), sample.named(), f"{sample.named()}: {error}"
        return content, (label, values), sample.named(), ""


class WebDatasetTars(SourceKind):
    """All tars below a directory, or one, in order of names."""

    endings = (".tar",)
    formats: Mapping[str, FileFormat] = {
        "webdataset": FileFormat(read=WebDatasetReader, per_sec=5_000)
    }

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the directory if tars lie in it or below, or that of an export within it."""
        del image_size
        if find_below(directory, [f"{_EXPORTED}/*.tar"]):
            return [Place(kind="webdataset", directory=join_url(directory, _EXPORTED))]
        if is_known:
            return []
        if any(name.endswith(".tar") for name in names) or list_tree(directory, ".tar"):
            return [Place(kind="webdataset", directory=directory)]
        return []

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the names that the options, dataset.json or the samples give.

        Raises BadFileError if there are only numbers.
        """
        if options.label_names:
            return options.label_names
        if names := _description(place.directory).names:
            return names
        labels, problem = set[RowLabel](), None
        for url, size in _tars(place.directory):
            try:
                labels |= _labels(_indexed(url, size, options.limits))
            except BadFileError as error:
                problem = problem or error
        if problem is not None and not labels:
            raise problem
        return names_of(place.directory, labels, _NAMING)

    def open(self, place: Place, request: Request) -> Source:
        """Return all tars, of all classes.

        Raises BadFileError for a tar that is damaged or is not what dataset.json says; if such
        files are skipped, only if no other is left.
        """
        options, described = request.options, _description(place.directory)
        check_given(described.url, described.names, options.label_names)
        tars, bad = _tars(place.directory), []
        with hashing(dict(tars), place.directory):
            digests = {url: _digest(url, size, request) for url, size in tars}
        indexes: dict[str, Mapping[str, Any]] = {}
        for url, size in tars:
            try:
                indexes[url] = _kept_index(url, size, digests[url], request)
                _check_listed(url, place.directory, indexes[url]["rows"], described)
            except BadFileError as error:
                indexes.pop(url, None)
                bad.append((url, error))
        bad += _missing(place.directory, described, [url for url, _ in tars])
        if bad and not (options.skip_bad_files and indexes):
            raise bad[0][1]
        given = options.label_names or described.names
        labels = set().union(*map(_labels, indexes.values()))
        names = given or names_of(place.directory, labels, _NAMING)
        how = json.dumps({"fit": options.fit or "pad", "numbers": bool(given)})
        splits = _splits(list(indexes), place.directory, described)
        files = [
            SourceFile(
                url=url,
                format="webdataset",
                class_name=None,
                rows=index["rows"],
                bytes=dict(tars)[url],
                digest=digests[url],
                version=file_version(url),
                layout={"labels": list(names), "starts": index["starts"], "how": how} | split,
            )
            for (url, index), split in zip(indexes.items(), splits, strict=True)
        ]
        return Source(
            class_names=tuple(names),
            files=(*files, *_empty_splits(place.directory, described, names, how)),
            image_size=options.image_size,
            bad_files=tuple((url, str(error)) for url, error in bad),
        )


def _tars(directory: str) -> list[tuple[str, int]]:
    """Return address and size of each tar: of the one named, or of all below, in order."""
    if directory.endswith(".tar") and (size := file_size(directory)) is not None:
        return [(directory, size)]
    return [
        (join_url(directory, name), size) for name, size in list_tree(directory, ".tar").items()
    ]


def _labels(index: Mapping[str, Any]) -> set[RowLabel]:
    return {RowLabel(number, name) for number, name in index["labels"]}


def _indexed(url: str, size: int, limits: Limits) -> Mapping[str, Any]:
    if size == DANGLING:
        raise BadFileError(f"{url}: {why_absent(url)}")
    return _index(url, size, file_version(url), limits)


def _digest(url: str, size: int, request: Request) -> str:
    return "" if size == DANGLING else content_digest(url, request.cache_dir)


def _kept_index(url: str, size: int, digest: str, request: Request) -> Mapping[str, Any]:
    """Return the index of a tar, of this content or from the cache."""
    limits = request.options.limits
    key = [digest, "webdataset", _INDEX_VERSION, *limits.stated().items()]
    memo = request.cache_dir / "indices" / f"{digest_of(key)}.json"
    if memo.is_file():
        return json.loads(memo.read_text("ascii"))
    index = _indexed(url, size, limits)
    write_json(memo, index)
    return index


def _description(directory: str) -> Described:
    """Return what the dataset.json of this program says beside the tars, nothing without one.

    Other programs' files of this name say no class_names.
    """
    folder = directory.rpartition("/")[0] if directory.endswith(".tar") else directory
    url = join_url(folder or ".", _DESCRIPTION)
    size = file_size(url) if is_listable(folder) else None
    if size is None:
        return Described()
    with reading(url, "a description of tars"):
        found = json.loads(FileRanges(url).read(0, min(size, _MOST_DESCRIPTION_BYTES)))
        if not isinstance(found, dict) or "class_names" not in found:
            return Described()
        names = found["class_names"]
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(
            names
        ):
            raise ValueError("class_names are expected to be different texts")
        splits = {
            str(split): {str(tar["url"]): int(tar["nsamples"]) for tar in tars}
            for split, tars in found.get("splits", {}).items()
        }
    return Described(url=url, names=tuple(names), splits=splits)


def _relative(url: str, directory: str) -> str:
    return url.removeprefix(join_url(directory, "")).lstrip("/") if url != directory else ""


def _listed_as(url: str, directory: str) -> str:
    return _relative(url, directory) or url.rpartition("/")[2]


def _check_listed(url: str, directory: str, rows: int, described: Described) -> None:
    if not described.splits:
        return
    _, expected = described.split_of(_listed_as(url, directory))
    if rows != expected:
        raise BadFileError(
            f"{url} has {rows} samples, {described.url} says {expected}: copy both again"
        )


def _missing(
    directory: str, described: Described, urls: Sequence[str]
) -> list[tuple[str, BadFileError]]:
    """Return the tars that dataset.json lists and that are not there, unless one tar is the source."""
    if urls == [directory]:
        return []
    listed = [join_url(directory, name) for tars in described.splits.values() for name in tars]
    return [
        (url, BadFileError(f"{url}, which {described.url} lists, is not there: copy it again"))
        for url in listed
        if url not in urls
    ]


def _splits(urls: Sequence[str], directory: str, described: Described) -> list[dict[str, str]]:
    if not described.splits:
        return splits_of(urls)
    return [{"split": described.split_of(_listed_as(url, directory))[0]} for url in urls]


def _empty_splits(
    directory: str, described: Described, names: Sequence[str], how: str
) -> Iterator[SourceFile]:
    """Yield a file of no rows for each split that dataset.json has and that has no tar."""
    if directory.endswith(".tar"):
        return
    for split in (split for split, tars in described.splits.items() if not tars):
        yield SourceFile(
            url=described.url,
            format="webdataset",
            class_name=None,
            rows=0,
            bytes=0,
            digest=f"sha256:{digest_of(['webdataset split', split])}",
            layout={"labels": list(names), "starts": [], "how": how, "split": split},
        )
