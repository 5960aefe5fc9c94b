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
from pipelines.sources.files import content_digest, local_path


def is_prepared(directory: Path) -> bool:
    """Whether TFDS has prepared a dataset right in this directory."""
    return (directory / "dataset_info.json").is_file() and (directory / "features.json").is_file()


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
    height, width = info.features["image"].shape[:2]
    if height != width:
        raise BadFileError(f"{directory} has pictures of {height}x{width} pixels, expected squares")
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
    return Source(name=name or directory, class_names=names, files=tuple(files), image_size=height)


class PreparedReader:
    """Reads examples of one split in the order of the files."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.builder = _builder(file.url)

    def read(self, start: int, stop: int) -> Drawings:
        """Return the examples [start, stop)."""
        import tensorflow_datasets as tfds  # TensorFlow takes seconds and half a gigabyte

        part = tfds.core.ReadInstruction(
            self.file.layout["split"], from_=start, to=stop, unit="abs"
        )
        dataset = self.builder.as_dataset(
            split=part,
            batch_size=stop - start,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )
        batch = next(iter(dataset.as_numpy_iterator()))
        images = np.ascontiguousarray(batch["image"][..., 0])
        return Drawings(images=images, label=batch["label"].astype(np.int64))

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Records are decoded once, in order; their pixels are then read as bitmaps."""
        raise NotImplementedError("records are not read row by row")


def _builder(directory: str) -> Any:
    import tensorflow_datasets as tfds  # TensorFlow takes seconds and half a gigabyte

    try:
        return tfds.builder_from_directory(directory)
    except (ValueError, OSError, KeyError) as error:
        raise BadFileError(f"{directory} is no dataset that TFDS has prepared: {error}") from error
