"""From drawings to a dataset to an export and back: the same drawings, real ones among them."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.export.formats.numpy_bitmap import npy_header
from pipelines.export.run import export_dataset
from pipelines.export.spec import FORMATS, ExportSpec
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import Store, open_store

CLASSES = ("bee", "sea turtle", "The Eiffel Tower")


def build(store: Store, directory: Path, cache: Path, name: str):
    spec = DatasetSpec(class_names=CLASSES, max_per_class=700)
    return build_dataset(spec, open_source(str(directory), CLASSES, cache), store, name)


def there_and_back(tmp_path: Path, directory: Path):
    """Build, export every format, build again from the exported bitmaps."""
    store = open_store(str(tmp_path / "store"))
    first = build(store, directory, tmp_path / "cache", "first")
    export = export_dataset(first, store, ExportSpec(formats=FORMATS), name="first")
    bitmaps = store.local_path(export.prefix) / "numpy_bitmap"
    return store, first, export, build(store, bitmaps, tmp_path / "cache", "again")


@pytest.mark.slow
def test_exported_bitmaps_build_the_same_dataset(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for index, name in enumerate(CLASSES):
        rng = np.random.default_rng(index)
        pixels = rng.integers(1, 256, (50 + index, 784), np.uint8)
        pixels[rng.random(pixels.shape) < 0.8] = 0
        content = npy_header(len(pixels), 784) + pixels.tobytes()
        (source / f"{name}.npy").write_bytes(content)
    store, first, export, again = there_and_back(tmp_path, source)
    assert again.summary["content_digest"] == first.summary["content_digest"]
    assert export.summary["counts"] == dict(zip(CLASSES, (50, 51, 52), strict=True))
    assert store.damaged(export) == []


@pytest.mark.slow
def test_real_drawings_survive_every_format(tmp_path, quickdraw_sample):
    source = quickdraw_sample / "rendered" / "numpy_bitmap"
    store, first, export, again = there_and_back(tmp_path, source)
    assert again.summary["content_digest"] == first.summary["content_digest"]
    assert export.summary["num_drawings"] == first.summary["num_drawings"] > 2_000
    assert store.damaged(export) == []
