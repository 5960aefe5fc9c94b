"""WebDataset as a source: tars of pictures with their classes beside them.

    train-000000.tar    000017.png  000017.cls  000017.json    a picture, its label, more of it
    dataset.json        names of the classes and splits, in exports of this program

tar_index.py says what is read of a sample, row_labels.py what its label means. Pictures of another
size are padded unless `fit` says otherwise. Where the ink is dark is not guessed at.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from pipelines.drawings.batch import Drawings
from pipelines.drawings.pictures import decode_drawings
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
    list_tree,
)
from pipelines.sources.metadata import COLUMN_TYPES, NOTHING, parse_record
from pipelines.sources.pieces import PieceFile
from pipelines.sources.row_index import (
    INDEX_ROWS,
    digests_of,
    index_of,
    kept_index,
    labels_in,
)
from pipelines.sources.row_labels import LabelNames, RowLabel, check_given, names_of
from pipelines.sources.tars.description import Description, describe_tars
from pipelines.sources.tars.index import INDEX_MEANING, WHAT, SampleReader, tar_index
from pipelines.sources.tars.samples import Sample, samples
from pipelines.store.errors import reading
from pipelines.store.manifest import digest_of

_NAMING = "or let each sample say the name, in .cls or .json"
_EXPORTED = "webdataset"


class WebDatasetReader(Reader):
    """Decodes the pictures of one tar."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        self.file, self.image_size = file, image_size
        how = json.loads(file.layout["how"])
        self.fit = how["fit"]
        self.labels = LabelNames(file.layout["labels"], are_positions=how["numbers"])
        self.tar = PieceFile(file.url, file.bytes)
        self.reader = SampleReader(self.tar, file.limits)
        # Batches follow each other.
        self._samples: Iterator[Sample] = iter(())
        self._next = -1

    def read(self, start: int, stop: int) -> Drawings:
        """Return the samples [start, stop); labels are positions in the source's names.

        A sample without one picture and one class, with a picture that is no drawing, or a bad
        value of metadata has a problem. Raises BadFileError if the tar is damaged.
        """
        with reading(f"{self.file.url} from sample {start}", WHAT):
            if start != self._next:
                first = self.file.layout["starts"][start // INDEX_ROWS]
                self._samples = islice(samples(self.tar, first), start % INDEX_ROWS, None)
            self._next = -1
            keys, parsed = [], []
            for sample in islice(self._samples, stop - start):
                keys.append(sample.named())
                parsed.append(self._parsed(sample))
        if len(parsed) < stop - start:
            raise BadFileError(f"{self.file.url} has fewer samples than before: fetch it again")
        self._next = stop
        pictures, labels, metadata, problems = zip(*parsed, strict=True)
        images, problem, repair = decode_drawings(
            pictures, self.image_size, self.file.limits, fit=self.fit
        )
        for row, (key, said) in enumerate(zip(keys, problems, strict=True)):
            if said or problem[row]:
                images[row], problem[row] = 0, f"{key}: {said or problem[row]}"
        columns = {
            name: np.array([values[name] for values in metadata], COLUMN_TYPES[name])
            for name in self.file.columns
        }
        label = np.array(labels, np.int64)
        return Drawings(images=images, label=label, problem=problem, repair=repair, **columns)

    def _parsed(self, sample: Sample) -> tuple[bytes, int, Mapping[str, Any], str]:
        """Return picture, label, metadata and problem of a sample."""
        try:
            content = self.reader.picture(sample)
            label = self.labels.position(self.reader.label(sample))
            values: Mapping[str, Any] = {}
            if self.file.columns:
                values = parse_record(self.reader.record(sample), self.file.columns)
        except BadFileError:
            raise
        except ValueError as error:
            return b"", -1, NOTHING, str(error)
        return content, label, values, ""


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
        if names := options.label_names or _description(place.directory).names:
            return names
        labels, problem = set[RowLabel](), None
        for url, size in _tars(place.directory):
            try:
                labels |= labels_in(index_of(tar_index, url, size, options.limits))
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
        sizes, bad = dict(_tars(place.directory)), []
        digests = digests_of(sizes, place.directory, request)
        found: dict[str, Mapping[str, Any]] = {}
        for url, size in sizes.items():
            try:
                index = kept_index(tar_index, INDEX_MEANING, url, size, digests[url], request)
                described.check(url, index["rows"])
                found[url] = index
            except BadFileError as error:
                bad.append((url, error))
        is_one = list(sizes) == [place.directory]
        bad += [] if is_one else described.missing(list(sizes))
        if bad and not (options.skip_bad_files and found):
            raise bad[0][1]
        names = options.label_names or described.names
        how = json.dumps({"fit": options.fit or "pad", "numbers": bool(names)})
        if not names:
            labels = set[RowLabel]().union(*map(labels_in, found.values()))
            names = names_of(place.directory, labels, _NAMING)
        layout = {"labels": list(names), "how": how}
        files = [
            SourceFile(
                url=url,
                format="webdataset",
                class_name=None,
                rows=index["rows"],
                bytes=sizes[url],
                digest=digests[url],
                version=file_version(url),
                layout=layout | split | {"starts": index["starts"]},
            )
            for (url, index), split in zip(
                found.items(), described.splits_of(list(found)), strict=True
            )
        ]
        files += [] if is_one else _empty_splits(described, layout)
        return Source(
            class_names=names,
            files=tuple(files),
            image_size=options.image_size,
            bad_files=tuple((url, str(error)) for url, error in bad),
        )


def _tars(directory: str) -> list[tuple[str, int]]:
    """Return address and size of each tar: of the one named, or of all below, in order."""
    if directory.endswith(".tar") and (size := file_size(directory)) is not None:
        return [(directory, size)]
    found = list_tree(directory, ".tar")
    return [(join_url(directory, name), size) for name, size in found.items()]


def _description(directory: str) -> Description:
    if not directory.endswith(".tar"):
        return describe_tars(directory)
    return describe_tars(directory.rpartition("/")[0] or ".")


def _empty_splits(described: Description, layout: Mapping[str, Any]) -> list[SourceFile]:
    """Return a file of no rows for each split without a tar, so that its name is kept."""
    return [
        SourceFile(
            url=described.url,
            format="webdataset",
            class_name=None,
            rows=0,
            bytes=0,
            digest=f"sha256:{digest_of(['webdataset', split])}",
            layout={**layout, "split": split, "starts": []},
        )
        for split in described.empty_splits()
    ]
