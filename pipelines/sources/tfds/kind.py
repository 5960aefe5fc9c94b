"""Datasets prepared by TFDS as a source.

    dataset_info.json features.json label.labels.txt NAME-train.tfrecord-00000-of-00001

Of several versions below a directory the newest is read. The names of the labels are in
label.labels.txt alone; without it nothing is read.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.drawings.pictures import pixels_problem
from pipelines.drawings.tfrecord import RECORD_FRAME_BYTES, RECORD_HEAD_BYTES, record_length
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
    content_digest,
    find_below,
    first_line,
    hashing,
    is_hidden,
    is_remote,
    list_files,
    list_tree,
    local_path,
    why_absent,
)
from pipelines.sources.fitted import FittedReader, fitted_layout, native_side
from pipelines.sources.tfds.reader import PREPARED, PreparedReader, open_builder
from pipelines.store.errors import reading
from pipelines.store.local_files import write_atomically
from pipelines.store.manifest import digest_of

LABEL_NAMES = "label.labels.txt"
_READ_FORMATS = ("tfrecord", "array_record")
_PREPARED = ("dataset_info.json", "features.json")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# As deep as exports of this program have them: tfds/NAME/1.0.0.
_PREPARED_BELOW = tuple(f"{'*/' * depth}{_PREPARED[0]}" for depth in (1, 2, 3))
_LOCAL_ONLY = "what TFDS prepared is read from a local copy of it"


def _read(file: SourceFile, image_size: int) -> Reader:
    reader = PreparedReader(file, native_side(file, image_size))
    return FittedReader(reader, image_size, file.layout) if "fit" in file.layout else reader


class Prepared(SourceKind):
    """A dataset that TFDS has prepared, such as `quickdraw_bitmap/3.0.0`, all its splits."""

    title = "TFDS dataset"
    formats: Mapping[str, FileFormat] = {"tfds": FileFormat(read=_read, per_sec=3_000)}

    def owns(self, names: Sequence[str]) -> bool:
        """Return whether TFDS made these files."""
        return is_prepared(names)

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the directory itself, or the newest version of the one dataset below it."""
        del image_size
        if is_prepared(names):
            return [_place(directory, names)]
        if is_remote(directory):
            return [] if is_known else _far_below(directory)
        return _below(directory)

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the names in the order of the labels.

        Raises BadFileError if nothing names them, or one name is given twice.
        """
        del options
        path = local_path(place.directory) / LABEL_NAMES
        if not path.is_file():
            raise BadFileError(
                f"{place.directory} has no {LABEL_NAMES}, so its labels have no names: write one, "
                "one name a line in the order of the labels"
            )
        try:
            lines = unicodedata.normalize("NFC", path.read_text("utf-8-sig")).splitlines()
        except UnicodeDecodeError as error:
            raise BadFileError(f"{path} is not UTF-8 text: {first_line(error)}") from error
        names = tuple("\n".join(lines).rstrip().split("\n"))
        if blank := [number for number, name in enumerate(names, 1) if not name.strip()]:
            raise BadFileError(
                f"{path}, line {blank[0]}: expected the name of label {blank[0] - 1}"
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadFileError(f"{path} names the class {twice!r} twice")
        return names

    def open(self, place: Place, request: Request) -> Source:
        """Return all splits, of all classes.

        Raises BadFileError if TFDS cannot open it, a file of it is missing, or it has no drawings
        and labels with names.
        """
        directory = place.directory
        root = local_path(directory)
        names = self.classes(place, request.options)
        with reading(directory, PREPARED):
            info = open_builder(str(root)).info
            side = _side(directory, info.features)
            _check_label(directory, info.features["label"], len(names))
            _check_format(directory, info.file_format)
            for split in info.splits.values():
                _check_shards(directory, split)
        found = [p for p in sorted(root.iterdir()) if p.is_file() and not is_hidden(p.name)]
        with hashing({str(path): path.stat().st_size for path in found}, directory):
            digests = {path.name: content_digest(str(path), request.cache_dir) for path in found}
        for name, digest in digests.items() if info.file_format.value == "tfrecord" else ():
            if ".tfrecord" in name:
                _check_records(root / name, digest, request)
        options = request.options
        fitted = fitted_layout(directory, side, options) if options.fit else {}
        files = [
            SourceFile(
                url=str(root),
                format="tfds",
                class_name=None,
                rows=split.num_examples,
                bytes=split.num_bytes,
                digest=f"sha256:{digest_of([split_name, digests])}",
                layout={"labels": list(names), "split": split_name, "side": side} | fitted,
            )
            for split_name, split in info.splits.items()
        ]
        return Source(
            name="/".join(root.parts[-2:]),
            class_names=names,
            files=tuple(files),
            image_size=options.image_size if fitted else side,
        )


def is_prepared(names: Sequence[str]) -> bool:
    """Whether TFDS made these files; `datasets` writes a dataset_info.json, too.

    Records with neither of TFDS's files beside them are somebody else's (examples.py).
    """
    if set(names) >= set(_PREPARED):
        return True
    return bool(set(names) & set(_PREPARED)) and any(map(_is_record, names))


def _is_record(name: str) -> bool:
    return re.search(r"\.(tfrecord|array_record)\b", name) is not None


def _place(directory: str, names: Sequence[str]) -> Place:
    if missing := [name for name in _PREPARED if name not in names]:
        raise ValueError(
            f"{directory} has records without {' and '.join(missing)}, which say how to read them "
            "(TFDS up to 3.2.1 wrote no features.json): prepare the dataset again with a newer TFDS"
        )
    if is_remote(directory):
        raise ValueError(f"{directory}: {_LOCAL_ONLY}")
    return Place(kind="tfds", directory=directory)


def _far_below(directory: str) -> list[Place]:
    """Raise ValueError for a dataset below a remote directory; return no place."""
    if found := list_tree(directory, f"/{_PREPARED[1]}"):
        folder = f"{directory.rstrip('/')}/{next(iter(found)).rpartition('/')[0]}"
        raise ValueError(f"{folder}: {_LOCAL_ONLY}")
    return []


def _below(directory: str) -> list[Place]:
    """Return the newest version of a dataset below a local directory."""
    folders = dict.fromkeys(path.parent for path in find_below(directory, _PREPARED_BELOW))
    found = [folder for folder in folders if is_prepared(list(list_files(str(folder))))]
    versions = [folder for folder in found if _VERSION.fullmatch(folder.name)]
    chosen = versions or found
    if len({folder.parent if versions else folder for folder in chosen}) > 1:
        root = local_path(directory)
        named = ", ".join(sorted(str(folder.relative_to(root)) for folder in chosen))
        raise ValueError(
            f"{directory} has several datasets that TFDS prepared: {named}; give one as the source"
        )
    newest = sorted(chosen, key=_version)[-1:]
    return [_place(str(folder), list(list_files(str(folder)))) for folder in newest]


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())


def _side(directory: str, features: Any) -> int:
    """Return the pixels a side; raise BadFileError for pictures that are no drawings."""
    if missing := {"image", "label"} - set(features):
        raise BadFileError(
            f"{directory} has no feature {' or '.join(sorted(missing))}; it has "
            f"{', '.join(sorted(features))}"
        )
    shape, dtype = tuple(features["image"].shape), np.dtype(features["image"].np_dtype)
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)) or dtype != np.uint8:
        raise BadFileError(
            f"{directory} has pictures of shape {shape} and {dtype.name}, expected "
            "(28, 28, 1) and uint8: which channel is the drawing is not guessed at"
        )
    if shape[0] is None or shape[0] != shape[1]:
        raise BadFileError(
            f"{directory} has pictures of {shape[0]}x{shape[1]} pixels, expected squares"
        )
    return shape[0]


def _check_label(directory: str, feature: Any, num_names: int) -> None:
    if tuple(feature.shape) or np.dtype(feature.np_dtype).kind not in "iu":
        raise BadFileError(
            f"{directory} has a feature `label` of shape {feature.shape} and {feature.np_dtype}, "
            "expected a whole number"
        )
    num_classes = getattr(feature, "num_classes", num_names)
    if num_classes != num_names:
        raise BadFileError(
            f"{directory}: {LABEL_NAMES} has {num_names} names for the {num_classes} classes of "
            "features.json: copy both from where they came"
        )


def _check_format(directory: str, file_format: Any) -> None:
    if file_format.value not in _READ_FORMATS:
        raise BadFileError(
            f"{directory} has records in the format {file_format.value}, expected "
            f"{' or '.join(_READ_FORMATS)}: `tfds convert_format` writes those"
        )


def _check_shards(directory: str, split: Any) -> None:
    absent = [Path(path) for path in split.filepaths if not Path(path).is_file()]
    if absent:
        raise BadFileError(
            f"{directory}: of the {len(split.filepaths)} files of {split.name} {len(absent)} are "
            f"missing, the first is {absent[0].name}: {why_absent(str(absent[0]))}"
        )


def _check_records(path: Path, digest: str, request: Request) -> None:
    """Raise BadFileError for a record or picture beyond the limits; TensorFlow would allocate it.

    The reader reports torn and damaged records. A file that is fine is checked once.
    """
    limits = request.options.limits
    memo = (
        request.cache_dir
        / "records"
        / digest_of([digest, limits.max_line_bytes, limits.max_pixels])
    )
    if memo.is_file():
        return
    size, place, row = path.stat().st_size, 0, 0
    with path.open("rb", buffering=1 << 20) as file, doing("check", path.name, total=size):
        while place + RECORD_HEAD_BYTES <= size:
            length = record_length(file.read(RECORD_HEAD_BYTES))
            if length is None:
                return
            problem = limits.problem("max_line_bytes", length)
            problem = problem or pixels_problem(file.read(length), limits)
            if problem:
                raise BadFileError(
                    f"{path}, record {row} has {problem}: raise the limit if this is intended"
                )
            place, row = place + length + RECORD_FRAME_BYTES, row + 1
            file.seek(place)
            advance(length + RECORD_FRAME_BYTES)
    write_atomically(memo, b"")
