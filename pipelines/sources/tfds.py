"""A prepared TFDS directory as a source, read through tensorflow-datasets.

    dataset_info.json features.json label.labels.txt NAME-train.tfrecord-00000-of-00001

TFRecord and ArrayRecord are read. What the numbers of labels mean is in label.labels.txt alone;
without it nothing is read. Needs TensorFlow, which is imported only where such a source is used.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.drawings.pictures import PictureError, pillow_within, pixels_problem
from pipelines.drawings.tfrecord import RECORD_FRAME_BYTES, RECORD_HEAD_BYTES, record_length
from pipelines.processes.progress import advance, doing
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.files import (
    content_digest,
    first_line,
    hashing,
    is_hidden,
    local_path,
    why_absent,
)
from pipelines.store.errors import LackError, reading
from pipelines.store.local_files import write_atomically
from pipelines.store.manifest import digest_of

_READ_FORMATS = ("tfrecord", "array_record")
LABEL_NAMES = "label.labels.txt"

_Example = Mapping[str, Any]


def open_prepared(
    directory: str, cache_dir: Path, *, name: str | None = None, limits: Limits = DEFAULT
) -> Source:
    """Return the source of a directory such as `quickdraw_bitmap/3.0.0`, all its splits.

    Raises BadFileError if TFDS cannot open it, a file of it is missing, or it has no drawings
    and labels with names.
    """
    root = local_path(directory)
    names = prepared_names(directory)
    with reading(directory, "a dataset that TFDS has prepared"):
        info = _builder(str(root)).info
        side = _side(directory, info.features)
        _check_label(directory, info.features["label"], len(names))
        _check_format(directory, info.file_format)
        for split in info.splits.values():
            _check_shards(directory, split)
    found = [path for path in sorted(root.iterdir()) if path.is_file() and not is_hidden(path.name)]
    with hashing({str(path): path.stat().st_size for path in found}, directory):
        digests = {path.name: content_digest(str(path), cache_dir) for path in found}
    for name_, digest in digests.items() if info.file_format.value == "tfrecord" else ():
        if ".tfrecord" in name_:
            _check_records(root / name_, digest, cache_dir, limits)
    files = [
        SourceFile(
            url=str(root),
            format="tfds",
            class_name=None,
            rows=split.num_examples,
            bytes=split.num_bytes,
            digest=f"sha256:{digest_of([split_name, digests])}",
            layout={"labels": list(names), "split": split_name, "side": side},
        )
        for split_name, split in info.splits.items()
    ]
    return Source(
        name=name or "/".join(root.parts[-2:]),
        class_names=names,
        files=tuple(files),
        image_size=side,
    )


def prepared_names(directory: str) -> tuple[str, ...]:
    """Return the class names of a dataset that TFDS has prepared, in the order of its labels.

    Raises BadFileError if nothing names them, or one name is given twice.
    """
    path = local_path(directory) / LABEL_NAMES
    if not path.is_file():
        raise BadFileError(
            f"{directory} has no {LABEL_NAMES}, so nothing names its labels: write one, a name a "
            "line in the order of the labels"
        )
    try:
        lines = unicodedata.normalize("NFC", path.read_text("utf-8-sig")).splitlines()
    except UnicodeDecodeError as error:
        raise BadFileError(f"{path} is not UTF-8 text: {first_line(error)}") from error
    names = tuple("\n".join(lines).rstrip().split("\n"))
    if blank := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise BadFileError(f"{path}, line {blank[0]}: expected the name of label {blank[0] - 1}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadFileError(f"{path} names the class {twice!r} twice")
    return names


class PreparedReader:
    """Reads examples of one split in the order of the files."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        """Open the split; raises BadFileError if its drawings have another size."""
        self.file, self.side = file, int(file.layout["side"])
        if self.side != image_size:
            raise BadFileError(
                f"{file.url} holds bitmaps of {self.side}x{self.side}; only strokes can be drawn at "
                f"{image_size}"
            )
        self.builder = _builder(file.url)
        # Opening anew would pass over all examples before: batches are taken one after the other.
        self._batches: Iterator[_Example] = iter(())
        self._next, self._batch_rows = -1, 0

    def read(self, start: int, stop: int) -> Drawings:
        """Return the examples [start, stop); an undecodable picture or unknown label is a problem.

        Raises BadFileError for damaged records.
        """
        if self.builder.info.file_format.value == "array_record":
            return self._gather(self._array_records(start, stop))
        import tensorflow as tf  # takes seconds and half a gigabyte

        if start != self._next or stop - start > self._batch_rows:
            self._batch_rows = stop - start
            self._batches = self._dataset(start).batch(self._batch_rows).as_numpy_iterator()
        self._next = -1
        try:
            batch = next(self._batches)
        except tf.errors.InvalidArgumentError:  # a picture, or the sizes of several, not the file
            return self._gather(self._one_by_one(start, stop))
        except (tf.errors.OpError, StopIteration) as error:
            raise self._damaged(start, error) from error
        rows = len(batch["label"])
        if rows < stop - start:
            raise self._damaged(start, EOFError(f"{rows} examples are left"))
        if rows == stop - start:  # else the rest of the batch is lost
            self._next = stop
        images = batch["image"][: stop - start].reshape(-1, self.side, self.side)
        return self._judged(images, batch["label"][: stop - start].astype(np.int64), {})

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Records are decoded once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("records are not read row by row")

    def _dataset(self, start: int) -> Any:
        """Return the examples from `start` on as a tf.data.Dataset, no feature but these two."""
        import tensorflow_datasets as tfds

        part = tfds.core.ReadInstruction(self.file.layout["split"], from_=start, unit="abs")
        return self.builder.as_dataset(
            split=part,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
            decoders=tfds.decode.PartialDecoding({"image": True, "label": True}),
        )

    def _one_by_one(self, start: int, stop: int) -> Iterator[_Example | str]:
        """Yield each example, or why it is none; the dataset goes on behind such a one."""
        import tensorflow as tf

        examples = self._dataset(start).take(stop - start).as_numpy_iterator()
        for row in range(start, stop):
            try:
                yield next(examples)
            except tf.errors.InvalidArgumentError:
                yield "the picture cannot be decoded"
            except (tf.errors.OpError, StopIteration) as error:
                raise self._damaged(row, error) from error

    def _array_records(self, start: int, stop: int) -> Iterator[_Example | str]:
        """Yield each example, or why it is none, from files that are read by place."""
        try:
            records = self.builder.as_data_source(self.file.layout["split"])
        except ImportError as error:
            raise LackError(
                f"{self.file.url} is in the format ArrayRecord: install the package array-record"
            ) from error
        if len(records) < stop:
            raise self._damaged(start, EOFError(f"{len(records)} examples"))
        for row in range(start, stop):
            try:
                with pillow_within(self.file.limits):
                    record = records[row]
                yield record
            except PictureError as error:
                yield str(error)
            except (OSError, SyntaxError):  # Pillow's, of what is no picture
                yield "the picture cannot be decoded"
            except (ValueError, RuntimeError, IndexError) as error:
                raise self._damaged(row, error) from error

    def _gather(self, examples: Iterator[_Example | str]) -> Drawings:
        """Return examples as a batch; those of another size have a problem."""
        images, labels, problems = [], [], {}
        for row, example in enumerate(examples):
            image = np.zeros((self.side, self.side), np.uint8)
            if isinstance(example, str):
                problems[row] = example
            elif example["image"].size != image.size:
                problems[row] = f"a picture of {example['image'].shape[:2]} pixels"
            else:
                image = example["image"].reshape(image.shape)
            images.append(image)
            labels.append(-1 if isinstance(example, str) else int(example["label"]))
        return self._judged(np.stack(images), np.array(labels, np.int64), problems)

    def _judged(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        problems: dict[int, str],
    ) -> Drawings:
        """Return the batch; a number that names no class, such as -1, must not name the last."""
        known = len(self.file.layout["labels"])
        for row in np.flatnonzero((labels < 0) | (labels >= known)).tolist():
            problems.setdefault(row, f"the label {labels[row]}, expected 0 to {known - 1}")
        if not problems:
            return Drawings(images=np.ascontiguousarray(images), label=labels)
        bad = np.array(list(problems))
        images, labels, problem = images.copy(), labels.copy(), np.full(len(labels), None, object)
        images[bad], problem[bad] = 0, list(problems.values())
        labels[(labels < 0) | (labels >= known)] = -1
        return Drawings(images=images, label=labels, problem=problem)

    def _damaged(self, row: int, error: Exception) -> BadFileError:
        where = f"{self.file.url}, {self.file.layout['split']} from example {row}"
        return BadFileError(f"{where}: damaged records: {first_line(error)}; copy them again")


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


def _check_records(path: Path, digest: str, cache_dir: Path, limits: Limits) -> None:
    """Raise BadFileError for a record or a picture that is too large, for TensorFlow makes room.

    What is torn or damaged the reader tells. A file that is fine is looked at once.
    """
    memo = cache_dir / "records" / digest_of([digest, limits.max_line_bytes, limits.max_pixels])
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
                    f"{path}, record {row} has {problem}: raise the limit if it is meant"
                )
            place, row = place + length + RECORD_FRAME_BYTES, row + 1
            file.seek(place)
            advance(length + RECORD_FRAME_BYTES)
    write_atomically(memo, b"")


def _builder(directory: str) -> Any:
    # TensorFlow's own messages say nothing of the drawings; it prints most while it is imported.
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}.items():
        os.environ.setdefault(name, value)
    import tensorflow_datasets as tfds  # TensorFlow takes seconds and half a gigabyte

    with reading(directory, "a dataset that TFDS has prepared"):
        return tfds.builder_from_directory(directory)
