"""Folders of MNIST's format IDX as a source: EMNIST, Fashion-MNIST, exports of this program.

idx_files.py says how the files are named, idx_names.py what their labels mean. Pixels are read in
place. `transpose` swaps rows and columns: EMNIST's pictures lie on their side, by way of MATLAB.
Another size is refused unless `fit` is given.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.drawings.fitting import REPAIRS, fit_drawing
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
from pipelines.sources.bitmaps import BitmapReader
from pipelines.sources.files import (
    FileRanges,
    content_digest,
    file_size,
    file_version,
    find_below,
    hashing,
    join_url,
    list_tree,
)
from pipelines.sources.idx.files import (
    Pair,
    find_pairs,
    is_images,
    open_content,
    pieces_of,
    unpacked,
)
from pipelines.sources.idx.names import has_label_map, label_names
from pipelines.sources.idx.rows import RowTable, open_rows
from pipelines.sources.metadata import COLUMN_NAMES, parse_column
from pipelines.store.errors import reading
from pipelines.store.manifest import digest_of

_EXPORTED = "idx"
_ENDINGS = ("-ubyte", "-ubyte.gz")
_SHOWN = 12


class IdxReader(Reader):
    """Reads images and labels of one split."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        """Open both files; raises BadFileError if that of the labels has changed."""
        self.file, self.image_size, layout = file, image_size, file.layout
        if file_version(layout["labels_url"]) != layout["labels_version"]:
            raise BadFileError(f"{layout['labels_url']} changed while it was read: run it again")
        how = json.loads(layout["how"])
        self.is_transposed, self.fit = how["transpose"], how["fit"]
        self.numbers = np.array(how["numbers"], np.int64)
        self.shape = tuple(layout["shape"])
        self.pixels = FileRanges(layout["pixels"])
        self.labels = FileRanges(layout["label_values"])
        self.dtype = np.dtype(layout["dtype"])
        self.table = None if file.metadata is None else RowTable(file.metadata.layout["table"])

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop); labels are positions in the source's names.

        A label that has no name and a bad value of metadata are problems of their rows.
        """
        size = self.shape[0] * self.shape[1]
        offset = self.file.layout["offset"]
        content = self.pixels.read(offset + start * size, (stop - start) * size)
        images = self._upright(np.frombuffer(content, np.uint8).reshape(-1, *self.shape))
        repair = None
        if images.shape[1:] != (self.image_size, self.image_size):
            images = np.stack([fit_drawing(image, self.image_size, self.fit) for image in images])
            repair = np.full(len(images), REPAIRS[self.fit], object)
        label, found, problems = self._labels(start, stop)
        columns = {} if self.table is None else self._columns(start, stop, found, problems)
        problem = np.full(len(images), None, object) if problems else None
        if problem is not None:
            rows = list(problems)
            images, problem[rows] = images.copy(), list(problems.values())
            images[rows] = 0
        return Drawings(images=images, label=label, problem=problem, repair=repair, **columns)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the images of these rows, which ascend."""
        layout = {"offset": self.file.layout["offset"], "side": self.image_size, "dtype": "|u1"}
        return self._upright(BitmapReader(self.file.layout["pixels"], layout).read_rows(rows))

    def _upright(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(images.transpose(0, 2, 1)) if self.is_transposed else images

    def _labels(
        self, start: int, stop: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], dict[int, str]]:
        """Return positions, numbers, and what is wrong by row."""
        width = self.dtype.itemsize
        content = self.labels.read(8 + start * width, (stop - start) * width)
        found = np.frombuffer(content, self.dtype).astype(np.int64)
        places = np.searchsorted(self.numbers, found).clip(max=len(self.numbers) - 1)
        is_known = self.numbers[places] == found
        problems = {
            row: f"the label is {found[row]}, which has no name; {len(self.numbers)} have, "
            f"{self.numbers[0]} to {self.numbers[-1]}"
            for row in np.flatnonzero(~is_known).tolist()
        }
        return np.where(is_known, places, -1), found, problems

    def _columns(
        self, start: int, stop: int, labels: npt.NDArray[Any], problems: dict[int, str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of metadata, and add what is wrong with them to `problems`."""
        assert self.table is not None
        table = self.table.read(start, stop)
        differing = np.flatnonzero(table["label"].to_numpy() != labels.astype(str).astype(object))
        if len(differing):
            row = int(differing[0])
            raise BadFileError(
                f"{self.file.metadata and self.file.metadata.url}, row {start + row}, has the label "
                f"{table['label'][row]}, {self.file.layout['labels_url']} has {labels[row]}: copy "
                "both again"
            )
        columns = {}
        for name in self.file.columns:
            column = next(other for other in COLUMN_NAMES[name] if other in table.column_names)
            columns[name], bad = parse_column(name, column, table[column])
            problems |= bad
        return columns


class IdxFolder(SourceKind):
    """A folder of images and labels of each split."""

    title = "folder of IDX files as MNIST's"
    formats: Mapping[str, FileFormat] = {"idx": FileFormat(read=IdxReader, per_sec=100_000)}

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the folders with images of IDX: this one, that of an export, or all below."""
        del image_size
        if is_known:
            folders = [_EXPORTED] if find_below(directory, [f"{_EXPORTED}/*-ubyte"]) else []
        elif any(map(is_images, names)):
            folders = [""]
        else:
            found = [path for ending in _ENDINGS for path in list_tree(directory, ending)]
            paths = [path.rpartition("/") for path in found]
            folders = sorted({folder for folder, _, name in paths if is_images(name)})
        return [Place(kind="idx", directory=_below(directory, folder)) for folder in folders]

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the names in the order of the labels; raise BadFileError if they have none."""
        pairs = find_pairs(place.directory)
        dataset = _dataset(place.directory, pairs)
        names = label_names(place.directory, dataset, options.label_names)
        if not names:
            raise _nameless(place.directory, pairs)
        return tuple(names.values())

    def open(self, place: Place, request: Request) -> Source:
        """Return all splits, of all classes.

        Raises BadFileError for files that are damaged or of different numbers of rows, or labels
        without names; ValueError for EMNIST without `transpose`, several sets in one folder, and
        metadata that are not there.
        """
        directory, options = place.directory, request.options
        pairs = find_pairs(directory)
        dataset = _dataset(directory, pairs)
        if dataset.lower().startswith("emnist") and not options.transpose:
            raise ValueError(
                f"{directory} is EMNIST, whose pictures lie on their side, rows and columns swapped: "
                "give --transpose (a copy that is upright must not be named emnist-...)"
            )
        names = label_names(directory, dataset, options.label_names)
        if not names:
            raise _nameless(directory, pairs)
        sizes = dict(each for pair in pairs for each in (pair.images, pair.labels))
        files, bad = [], []
        with hashing(sizes, directory):
            for pair in pairs:
                try:
                    files.append(_open_pair(pair, dataset, names, request))
                except BadFileError as error:
                    bad.append((pair.images[0], error))
        if bad and not (options.skip_bad_files and files):
            raise bad[0][1]
        return Source(
            class_names=tuple(names.values()),
            files=tuple(files),
            image_size=options.image_size,
            bad_files=tuple((url, str(error)) for url, error in bad),
        )


def _below(directory: str, folder: str) -> str:
    return join_url(directory, folder) if folder else directory


def _dataset(directory: str, pairs: Sequence[Pair]) -> str:
    """Return what the names of all files begin with before the split, "" for plain ones.

    Raises ValueError if there are several.
    """
    if has_label_map(directory):
        return ""
    found = sorted({pair.stem.rpartition("-")[0] for pair in pairs})
    if len(found) > 1:
        raise ValueError(
            f"{directory} has several sets: {', '.join(name or 'train-...' for name in found)}; put "
            "the files of one into a folder of their own"
        )
    return found[0]


def _nameless(directory: str, pairs: Sequence[Pair]) -> BadFileError:
    """Return the error of labels without names, with what they are."""
    found: set[int] = set()
    for pair in pairs:
        url, size = pair.labels
        with reading(url, "labels"):
            header, content = open_content(url, size, 1)
            for piece in pieces_of(url, header, content):
                found |= set(np.unique(np.frombuffer(piece, header.dtype)).tolist())
    shown = ", ".join(map(str, sorted(found)[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
    return BadFileError(
        f"{directory} has the labels {shown}, which nothing names: give their names in the order of "
        "the numbers, from 0 on, with --label-names a,b,c or --label-names @FILE"
    )


def _open_pair(pair: Pair, dataset: str, names: Mapping[int, str], request: Request) -> SourceFile:
    """Return one split; raise BadFileError if it is damaged or has pictures of another size."""
    options, cache_dir = request.options, request.cache_dir
    url, sizes = pair.images[0], dict([pair.images, pair.labels])
    with reading(url, "IDX"):
        images, labels = (
            open_content(file, size, dimensions)[0]
            for (file, size), dimensions in zip(sizes.items(), (3, 1), strict=True)
        )
    rows, *shape = images.shape
    if rows != labels.shape[0]:
        raise BadFileError(
            f"{url} has {rows} images, {pair.labels[0]} has {labels.shape[0]} labels: fetch both "
            "again"
        )
    _check_shape(url, shape, rows, request)
    digests = [content_digest(file, cache_dir) for file in sizes]
    plain = [
        str(unpacked(file, size, digest, dimensions, cache_dir) or file)
        for (file, size), digest, dimensions in zip(sizes.items(), digests, (3, 1), strict=True)
    ]
    how = {"transpose": options.transpose, "fit": options.fit, "numbers": list(names)}
    is_known = all(digest.startswith("sha256:") for digest in digests)
    return SourceFile(
        url=url,
        format="idx",
        class_name=None,
        rows=rows,
        bytes=pair.images[1] + pair.labels[1],
        digest=f"{'sha256' if is_known else 'etag'}:{digest_of(digests)}",
        version=file_version(url),
        is_direct=shape == [options.image_size] * 2,
        metadata=_metadata(pair, rows, request) if options.columns else None,
        layout={
            "labels": list(names.values()),
            "how": json.dumps(how),
            "split": pair.stem.removeprefix(f"{dataset}-"),
            "shape": shape,
            "offset": images.offset,
            "pixels": plain[0],
            "label_values": plain[1],
            "dtype": labels.dtype,
            "labels_url": pair.labels[0],
            "labels_version": file_version(pair.labels[0]),
        },
    )


def _check_shape(url: str, shape: Sequence[int], rows: int, request: Request) -> None:
    options = request.options
    if problem := options.limits.problem("max_pixels", shape[0] * shape[1]):
        raise BadFileError(f"{url} has pictures of {problem}")
    side = options.image_size
    if rows and (0 in shape or (list(shape) != [side, side] and not options.fit)):
        raise BadFileError(
            f"{url} has pictures of {shape[0]}x{shape[1]} pixels, expected {side}x{side}: give "
            "--image-size, or --fit pad or crop"
        )


def _metadata(pair: Pair, rows: int, request: Request) -> SourceFile:
    """Return the table of rows beside a split; raise ValueError if there is none."""
    url = pair.images[0].rpartition("/")[0]
    url = join_url(url, f"{pair.stem}-rows.csv")
    size = file_size(url)
    if size is None:
        raise ValueError(
            f"{url} is not there, and IDX itself has no {', '.join(request.options.columns)}"
        )
    return open_rows(url, size, rows, request.options.columns, request.cache_dir)
