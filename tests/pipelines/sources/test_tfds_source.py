"""What TFDS has prepared as a source, where it is damaged or holds no drawings."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.sources.base import BadFileError
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import open_store

# TFDS's own call of protobuf.
pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")


def some_drawings(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    return images


def make_tfds(root: Path, images: np.ndarray, labels: list[int]) -> Path:
    """Let TFDS write these pictures and labels, and return the directory of the version."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Pictures that need not be drawings."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=images.shape[1:]),
                "label": tfds.features.ClassLabel(names=["bee", "sun"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, image in enumerate(images):
                yield str(i), {"image": image, "label": labels[i]}

    Odd(data_dir=str(root / "data")).download_and_prepare()
    return root / "data" / "odd" / "1.0.0"


@pytest.mark.slow
def test_of_colored_tfds_pictures_no_channel_is_taken_for_the_drawing(tmp_path):
    colored = np.random.default_rng(0).integers(0, 256, (10, 28, 28, 3), np.uint8)
    directory = make_tfds(tmp_path, colored, [0] * 10)
    with pytest.raises(BadFileError, match=r"shape \(28, 28, 3\).*which channel is the drawing"):
        open_source(str(directory), ["bee"], tmp_path / "cache")


def truncate_records(directory: Path) -> None:
    path = next(directory.glob("*.tfrecord*"))
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "damage", "message"),
    [
        (0, truncate_records, "damaged records: "),
        (-1, lambda _: None, r"row \d+: the label -1, expected 0 to 1 .20 unreadable of 40 rows"),
    ],
)
def test_damaged_tfds_records_are_a_bad_file(tmp_path, label, damage, message):
    images = some_drawings(40)[..., None]
    directory = make_tfds(tmp_path, images, [label, 1] * 20)
    damage(directory)
    source = open_source(str(directory), None, tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(BadFileError, match=message):
        build_dataset(DatasetSpec(class_names=("bee", "sun")), source, store, "damaged")
