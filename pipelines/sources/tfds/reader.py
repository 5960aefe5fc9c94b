"""Read the examples of a prepared TFDS dataset through tensorflow-datasets.

TFRecord and ArrayRecord are read. TensorFlow is imported only where such a source is used.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.batch import Drawings
from pipelines.drawings.pictures import PictureError, pillow_within
from pipelines.sources.base import BadFileError, Reader, SourceFile, check_side
from pipelines.sources.files import first_line
from pipelines.store.errors import LackError, reading

PREPARED = "a dataset that TFDS has prepared"
_Example = Mapping[str, Any]


def open_builder(directory: str) -> Any:
    """Return the builder of a directory; raise BadFileError if TFDS cannot open it."""
    # TensorFlow prints messages, most of them while it is imported; none is about the drawings.
    for name, value in {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}.items():
        os.environ.setdefault(name, value)
    import tensorflow_datasets as tfds  # TensorFlow takes seconds and half a gigabyte

    with reading(directory, PREPARED):
        return tfds.builder_from_directory(directory)


class PreparedReader(Reader):
    """Reads examples of one split in the order of the files."""

    def __init__(self, file: SourceFile, image_size: int) -> None:
        """Open the split; raises BadFileError if its drawings have another size."""
        self.file, self.side = file, int(file.layout["side"])
        check_side(file.url, self.side, image_size)
        self.builder = open_builder(file.url)
        # Opening again would skip all earlier examples: batches are read one after the other.
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
        return self._checked(images, batch["label"][: stop - start].astype(np.int64), {})

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
        return self._checked(np.stack(images), np.array(labels, np.int64), problems)

    def _checked(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        problems: dict[int, str],
    ) -> Drawings:
        """Return the batch; a label out of range, such as -1, must not index the names."""
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
