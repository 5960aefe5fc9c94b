"""Records of tf.train.Example as a source: TFRecord and ArrayRecord that TFDS did not prepare.

    train.tfrecord  train.tfrecords  train.tfrecord-00000-of-00010  train.array_record

example_features.py says which features are read, row_labels.py what labels mean. Another size is
refused unless `fit` is given.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from pipelines.drawings.batch import Drawings
from pipelines.drawings.fitting import REPAIRS, fit_drawing
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
    file_size,
    file_version,
    find_below,
    join_url,
    list_files,
)
from pipelines.sources.metadata import COLUMN_TYPES, NOTHING, parse_record
from pipelines.sources.records.features import Chosen, choose, metadata_of
from pipelines.sources.records.files import Record, is_records, read_records
from pipelines.sources.records.proto import parse_features
from pipelines.sources.row_index import (
    INDEX_ROWS,
    digests_of,
    index_of,
    kept_index,
    labels_in,
)
from pipelines.sources.row_labels import LabelNames, RowLabel, Seen, names_of
from pipelines.sources.tables.places import splits_of
from pipelines.sources.tfds.kind import is_prepared
from pipelines.store.errors import reading

_WHAT = "records of tf.train.Example"
_NAMING = "or write the names as a feature, class_name"
# Part of the name of a kept index: bumped when its meaning changes.
_INDEX_MEANING = "examples 1"
# Directories of splits below the one that is given.
_NEAR = ("*.tfrecord*", "*/*.tfrecord*", "*.array*record*", "*/*.array*record*")


@functools.lru_cache(maxsize=1_024)
def _index(url: str, size: int, version: str, limits: Limits) -> Mapping[str, Any]:
    """Return rows, where every 256th begins, features and different labels of a file.

    Raises BadFileError if it is damaged or its first record has no picture or label.
    """
    del version
    starts: list[int] = []
    seen, chosen, rows = Seen(url), None, 0
    with reading(url, _WHAT), doing("index", url.rpartition("/")[2], total=size):
        for rows, record in enumerate(read_records(url, size, 0, limits), 1):
            if rows % INDEX_ROWS == 1:
                advance(record.place - (starts or [0])[-1])
                starts.append(record.place)
            try:
                features = _features(record)
                chosen = chosen or choose(features, limits)
                label = chosen.label(features)
            except BadFileError:
                raise
            except ValueError as error:
                if chosen is None:
                    raise BadFileError(f"{url}, record {rows - 1}: {error}") from error
                continue
            seen.add(label)
    if rows and not seen.labels:
        raise BadFileError(f"{url}: no record says its class")
    features = None if chosen is None else asdict(chosen)
    return {"rows": rows, "starts": starts, "features": features, "labels": seen.pairs()}


def _features(record: Record) -> dict[str, bytes]:
    if record.problem:
        raise ValueError(record.problem)
    return parse_features(record.content)


class ExampleReader(Reader):
    """Reads the pictures of one file of records."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        how = json.loads(file.layout["how"])
        self.fit, features = how["fit"], how["features"]
        self.chosen = Chosen(**features | {"shape": tuple(features["shape"])})
        self.labels = LabelNames(file.layout["labels"], are_positions=how["numbers"])
        # Batches follow each other.
        self._records: Iterator[Record] = iter(())
        self._next = -1

    def read(self, start: int, stop: int) -> Drawings:
        """Return the records [start, stop); labels are positions in the source's names.

        A record without such a picture and class, with a picture that is no drawing or has another
        size, or a bad value of metadata has a problem. Raises BadFileError for damaged records.
        """
        with reading(f"{self.file.url} from record {start}", _WHAT):
            if start != self._next:
                place = self.file.layout["starts"][start // INDEX_ROWS]
                found = read_records(self.file.url, self.file.bytes, place, self.file.limits)
                self._records = islice(found, start % INDEX_ROWS, None)
            self._next = -1
            parsed = [self._parsed(record) for record in islice(self._records, stop - start)]
        if len(parsed) < stop - start:
            raise BadFileError(f"{self.file.url} has fewer records than before: fetch it again")
        self._next = stop
        pictures, labels, metadata, problems = zip(*parsed, strict=True)
        images, problem, repair = self._drawn(pictures)
        for row, said in enumerate(problems):
            if said:
                images[row], problem[row] = 0, said
        columns = {
            name: np.array([values[name] for values in metadata], COLUMN_TYPES[name])
            for name in self.file.columns
        }
        label = np.array(labels, np.int64)
        return Drawings(images=images, label=label, problem=problem, repair=repair, **columns)

    def _parsed(self, record: Record) -> tuple[Any, int, Mapping[str, Any], str]:
        """Return picture, label, metadata and problem of a record."""
        try:
            features = _features(record)
            picture = self.chosen.picture(features)
            label = self.labels.position(self.chosen.label(features))
            values: Mapping[str, Any] = {}
            if self.file.columns:
                values = parse_record(metadata_of(features, self.file.columns), self.file.columns)
        except BadFileError:
            raise
        except ValueError as error:
            return None, -1, NOTHING, str(error)
        return picture, label, values, ""

    def _drawn(self, pictures: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """Return drawings, problems and repairs of encoded pictures or of pixels."""
        if not self.chosen.is_raw:
            return decode_drawings(pictures, self.image_size, self.file.limits, fit=self.fit)
        images = np.zeros((len(pictures), self.image_size, self.image_size), np.uint8)
        problems, repairs = (np.full(len(pictures), None, object) for _ in range(2))
        is_fitted = self.chosen.shape != images.shape[1:]
        for row, pixels in enumerate(pictures):
            if pixels is not None:
                images[row] = (
                    fit_drawing(pixels, self.image_size, self.fit) if is_fitted else pixels
                )
                repairs[row] = REPAIRS[self.fit] if is_fitted else None
        return images, problems, repairs


class Examples(SourceKind):
    """All files of records in a directory and right below, or one, in order of names."""

    endings = (".tfrecord", ".tfrecords", ".array_record", ".arrayrecord")
    formats: Mapping[str, FileFormat] = {"examples": FileFormat(read=ExampleReader, per_sec=7_000)}

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the directory if it has records that TFDS did not prepare."""
        del image_size
        if is_prepared(names):
            return []
        is_here = any(map(is_records, names))  # beside what another kind reads: two ways
        if is_here or (not is_known and _below(directory)):
            return [Place(kind="examples", directory=directory)]
        return []

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the names that the options or the records give.

        Raises BadFileError if there are only numbers.
        """
        if options.label_names:
            return options.label_names
        labels, problem = set[RowLabel](), None
        for url, size in _files(place.directory):
            try:
                labels |= labels_in(index_of(_index, url, size, options.limits))
            except BadFileError as error:
                problem = problem or error
        if problem is not None and not labels:
            raise problem
        return names_of(place.directory, labels, _NAMING)

    def open(self, place: Place, request: Request) -> Source:
        """Return all files, of all classes.

        Raises BadFileError for a file that is damaged, or has no pictures of the size or labels; if
        such files are skipped, only if no other is left.
        """
        options, sizes, bad = request.options, dict(_files(place.directory)), []
        digests = digests_of(sizes, place.directory, request)
        found: dict[str, Mapping[str, Any]] = {}
        for url, size in sizes.items():
            try:
                index = kept_index(_index, _INDEX_MEANING, url, size, digests[url], request)
                _check_shape(url, index["features"], options)
                found[url] = index
            except BadFileError as error:
                bad.append((url, error))
        if bad and not (options.skip_bad_files and found):
            raise bad[0][1]
        names = options.label_names
        if not names:
            labels = set[RowLabel]().union(*map(labels_in, found.values()))
            names = names_of(place.directory, labels, _NAMING)
        how = {"fit": options.fit, "numbers": bool(options.label_names)}
        files = [
            SourceFile(
                url=url,
                format="examples",
                class_name=None,
                rows=index["rows"],
                bytes=sizes[url],
                digest=digests[url],
                version=file_version(url),
                layout={
                    "labels": list(names),
                    "how": json.dumps(how | {"features": index["features"]}),
                    "starts": index["starts"],
                }
                | split,
            )
            for (url, index), split in zip(found.items(), splits_of(list(found)), strict=True)
        ]
        return Source(
            class_names=names,
            files=tuple(files),
            image_size=options.image_size,
            bad_files=tuple((url, str(error)) for url, error in bad),
        )


def _below(directory: str) -> list[str]:
    """Return the addresses of records in the local directories below that TFDS did not prepare."""
    paths = [path for path in find_below(directory, _NEAR) if is_records(path.name)]
    folders = {path.parent for path in paths}
    prepared = {folder for folder in folders if is_prepared(list(list_files(str(folder))))}
    return [str(path) for path in sorted(paths) if path.parent not in prepared]


def _files(directory: str) -> list[tuple[str, int]]:
    """Return address and size of each file of records: of the one named, or of all, in order."""
    if directory.endswith(Examples.endings) and (size := file_size(directory)) is not None:
        return [(directory, size)]
    here = {
        join_url(directory, n): size for n, size in list_files(directory).items() if is_records(n)
    }
    for url in _below(directory):
        with contextlib.suppress(FileNotFoundError):
            here.setdefault(url, file_size(url) or 0)
    return sorted(here.items())


def _check_shape(url: str, features: Mapping[str, Any] | None, options: SourceOptions) -> None:
    """Raise BadFileError if a file's first picture has another size and is not to be fitted."""
    if features is None:
        return
    height, width = features["shape"]
    side = options.image_size
    if problem := options.limits.problem("max_pixels", height * width):
        raise BadFileError(f"{url} has pictures of {problem}")
    if (height, width) not in ((0, 0), (side, side)) and not options.fit:
        raise BadFileError(
            f"{url} has pictures of {height}x{width} pixels, expected {side}x{side}: give "
            "--image-size, or --fit pad or crop"
        )
