"""A prepared TFDS directory as a source, read through tensorflow-datasets.

Needs TensorFlow, which is imported only where such a source is used.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings import Drawings
from pipelines.schema import digest_of
from pipelines.sources.base import BadFileError, Source, SourceFile
from pipelines.sources.files import content_digest, first_line, local_path


def open_prepared(directory: str, cache_dir: Path, *, name: str | None = None) -> Source:
    """Return the source of a directory such as `quickdraw_bitmap/3.0.0`, all its splits.

    Raises BadFileError if TFDS cannot open it or it has no image and label.
    """
    root = local_path(directory)
    info = _builder(str(root)).info
    missing = {"image", "label"} - set(info.features)
    if missing:
        raise BadFileError(f"{directory} has no feature {' or '.join(sorted(missing))}")
    digests = {
        path.name: content_digest(str(path), cache_dir)
        for path in sorted(root.iterdir())
        if path.is_file()
    }
    names = tuple(info.features["label"].names)
    side = _side(directory, info.features["image"])
    files = [
        SourceFile(
            url=str(root),
            format="tfds",
            class_name=None,
            rows=split.num_examples,
            bytes=split.num_bytes,
            digest=f"sha256:{digest_of([split_name, digests])}",
            layout={"labels": list(names), "split": split_name},
        )
        for split_name, split in info.splits.items()
    ]
    return Source(name=name or directory, class_names=names, files=tuple(files), image_size=side)


def prepared_names(directory: str) -> tuple[str, ...]:
    """Return the class names of a dataset that TFDS has prepared."""
    label = _builder(str(local_path(directory))).info.features.get("label")
    return tuple(getattr(label, "names", ()))


class PreparedReader:
    """Reads examples of one split in the order of the files."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.builder = _builder(file.url)

    def read(self, start: int, stop: int) -> Drawings:
        """Return the examples [start, stop).

        Raises BadFileError for damaged records and labels that name no class.
        """
        import tensorflow as tf  # takes seconds and half a gigabyte
        import tensorflow_datasets as tfds

        where = f"{self.file.url}, {self.file.layout['split']} from example {start}"
        part = tfds.core.ReadInstruction(
            self.file.layout["split"], from_=start, to=stop, unit="abs"
        )
        dataset = self.builder.as_dataset(
            split=part,
            batch_size=stop - start,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        try:
            batch = next(iter(dataset.as_numpy_iterator()))
        except (tf.errors.OpError, StopIteration) as error:
            raise BadFileError(f"{where}: damaged records: {first_line(error)}") from error
        labels = batch["label"].astype(np.int64)
        last = len(self.file.layout["labels"]) - 1
        if len(labels) != stop - start or labels.min() < 0 or labels.max() > last:
            raise BadFileError(
                f"{where}: {len(labels)} examples with labels {labels.min()} to {labels.max()}, "
                f"expected {stop - start} with 0 to {last}"
            )
        return Drawings(images=np.ascontiguousarray(batch["image"][..., 0]), label=labels)

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Records are decoded once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("records are not read row by row")


def _side(directory: str, feature: Any) -> int:
    """Return the pixels a side; raise BadFileError for pictures that are no drawings."""
    shape, dtype = tuple(feature.shape), np.dtype(feature.np_dtype)
    if len(shape) != 3 or shape[2] != 1 or dtype != np.uint8:
        raise BadFileError(
            f"{directory} has pictures of shape {shape} and {dtype.name}, expected "
            "(28, 28, 1) and uint8: which channel is the drawing is not guessed at"
        )
    if shape[0] is None or shape[0] != shape[1]:
        raise BadFileError(
            f"{directory} has pictures of {shape[0]}x{shape[1]} pixels, expected squares"
        )
    return shape[0]


def _builder(directory: str) -> Any:
    import tensorflow_datasets as tfds  # TensorFlow takes seconds and half a gigabyte

    try:
        return tfds.builder_from_directory(directory)
    except (ValueError, OSError, KeyError) as error:
        raise BadFileError(
            f"{directory} is no dataset that TFDS has prepared: {first_line(error)}"
        ) from error
