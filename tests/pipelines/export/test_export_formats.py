"""Each format is opened by its own reader and holds the dataset's drawings, in order."""

import csv
import gc
import io
import json
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.drawings.parquet import open_shard, read_images
from pipelines.export.formats.idx import label_type
from pipelines.export.formats.numpy_bitmap import npy_header
from pipelines.export.run import export_dataset
from pipelines.export.spec import ExportSpec


def leaves_files_open(test):
    """Mark a test of a reader that leaves its files to the garbage collector."""
    ignored = "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
    return pytest.mark.usefixtures("collected")(pytest.mark.filterwarnings(ignored)(test))


@pytest.fixture
def collected():
    yield
    gc.collect()


EXTRA = {"sample_index": pa.int64(), "model": pa.string(), "bits_per_dim": pa.float32()}


@pytest.fixture
def export(store):
    """Export a dataset in one format and return the directory of that format."""

    def make(drawn, name, **spec):
        made = export_dataset(
            drawn.manifest, store, ExportSpec(formats=(name,), **spec), name="small"
        )
        return store.local_path(made.prefix) / name

    return make


@pytest.mark.slow
@leaves_files_open
def test_datasets_opens_hf_as_pictures_with_class_names(export, dataset, tmp_path):
    import datasets

    loaded = datasets.load_dataset(str(export(dataset, "hf")), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    for split, rows in loaded.items():
        assert np.array_equal(
            np.stack([np.asarray(r["image"]) for r in rows]), dataset.images[split]
        )
        assert rows["label"][:] == dataset.labels[split].tolist()
        assert rows.features["label"].names == ["bee", "The Eiffel Tower", "sea turtle"]


@pytest.mark.slow
def test_a_large_parquet_file_is_written_a_row_group_at_a_time(export, make_dataset, store):
    drawn = make_dataset(store, {"train": (30_000, 50_000, 20_000)})
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        root = export(drawn, "hf", rows_per_file=1_000_000)
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 60 << 20  # the file has 88 MB of pictures
    shard = open_shard(root / "data/train-00000-of-00001.parquet")
    groups = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
    assert groups == [8_192] * 12 + [1_696]
    table = shard.read()
    assert np.array_equal(read_images(table["image"]), drawn.images["train"])
    assert table["label"].to_pylist() == drawn.labels["train"].tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated:DeprecationWarning")  # TFDS's own
def test_tfds_opens_records_by_directory_and_by_name(export, dataset):
    import tensorflow_datasets as tfds

    root = export(dataset, "tfds", rows_per_file=4)
    read = tfds.ReadConfig(interleave_cycle_length=1)
    by_directory = tfds.builder_from_directory(str(root / "small" / "1.0.0"))
    for builder in (by_directory, tfds.builder("small", data_dir=str(root))):
        for split, images in dataset.images.items():
            rows = list(tfds.as_numpy(builder.as_dataset(split=split, read_config=read)))
            assert np.array_equal(np.stack([row["image"][..., 0] for row in rows]), images)
            assert [row["label"] for row in rows] == dataset.labels[split].tolist()
    assert by_directory.info.features["label"].names[1] == "The Eiffel Tower"
    assert by_directory.info.splits["train"].num_examples == 19


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated:DeprecationWarning")  # TFDS's own
def test_tfds_rows_carry_their_provenance(export, make_dataset, store):
    import tensorflow_datasets as tfds

    drawn = make_dataset(store, {"train": (6,)}, kind="samples", extra=EXTRA)
    root = export(drawn, "tfds")
    builder = tfds.builder_from_directory(str(root / "small" / "1.0.0"))
    rows = list(tfds.as_numpy(builder.as_dataset(split="train")))
    assert np.array_equal(np.stack([r["image"][..., 0] for r in rows]), drawn.images["train"])
    label = int(drawn.labels["train"][4])
    names = ("bee", "The Eiffel Tower", "sea turtle")
    found = {name: value for name, value in rows[4].items() if name != "image"}
    expected = {"sample_index": 4, "model": b"4", "bits_per_dim": 4.0}
    assert found == expected | {"label": label, "class_name": names[label].encode()}


@pytest.mark.slow
@leaves_files_open
def test_webdataset_decodes_pictures_and_labels(export, dataset):
    import webdataset

    root = export(dataset, "webdataset", rows_per_file=8)
    urls = sorted(str(path) for path in root.glob("train-*.tar"))
    assert len(urls) == 3
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("l8"))
    assert np.array_equal(np.stack([s["png"] for s in samples]), dataset.images["train"])
    assert [s["cls"] for s in samples] == dataset.labels["train"].tolist()
    assert [s["__key__"] for s in samples] == [f"{row:09d}" for row in range(19)]
    described = json.loads((root / "dataset.json").read_text())
    assert described["class_names"][1] == "The Eiffel Tower"
    assert sum(tar["nsamples"] for tar in described["splits"]["train"]) == 19


@pytest.mark.slow
@leaves_files_open
def test_webdataset_rows_carry_their_provenance(export, make_dataset, store):
    import webdataset

    drawn = make_dataset(store, {"train": (6,)}, kind="samples", extra=EXTRA)
    root = export(drawn, "webdataset")
    samples = list(
        webdataset.WebDataset(str(root / "train-000000.tar"), shardshuffle=False).decode()
    )
    assert samples[4]["json"] == {
        "label": int(drawn.labels["train"][4]),
        "class_name": ("bee", "The Eiffel Tower", "sea turtle")[drawn.labels["train"][4]],
        "sample_index": 4,
        "model": "4",
        "bits_per_dim": 4,
    }


@pytest.mark.parametrize("extra", [None, EXTRA])
def test_a_tar_is_what_tarfile_writes(export, make_dataset, store, extra):
    names = tuple(f"class {i}" for i in range(120))  # labels of one, two and three digits
    drawn = make_dataset(store, {"train": (600,)}, names=names, extra=extra)
    path = export(drawn, "webdataset") / "train-000000.tar"
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]
    assert len(members) == 600 * (3 if extra else 2)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert buffer.getvalue() == path.read_bytes()


def test_numpy_opens_a_file_for_each_class(export, dataset):
    root = export(dataset, "numpy_bitmap")
    images = np.concatenate(list(dataset.images.values()))
    labels = np.concatenate(list(dataset.labels.values()))
    for label, name in enumerate(("bee", "The Eiffel Tower", "sea turtle")):
        loaded = np.load(root / f"{name}.npy")
        assert np.array_equal(loaded.reshape(-1, 28, 28), images[labels == label]), name
        assert (root / f"{name}.npy").stat().st_size == 80 + 784 * len(loaded)


def test_the_npy_header_is_the_one_google_wrote(quickdraw_sample):
    official = quickdraw_sample / "official" / "numpy_bitmap"
    for path in sorted(official.glob("*.npy")):
        rows = len(np.load(path, mmap_mode="r"))
        with path.open("rb") as file:
            assert file.read(80) == npy_header(rows, 784), path.name


@pytest.mark.parametrize("rows", [0, 10, 345_000, 999_999_999, 10**12])
def test_numpy_parses_the_header_of_any_row_count(rows):
    header = npy_header(rows, 784)
    version = np.lib.format.read_magic(file := io.BytesIO(header))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert (version, shape, fortran, dtype) == ((1, 0), (rows, 784), False, np.uint8)
    assert file.tell() == len(header)
    assert len(header) % 16 == 0


def read_idx(path):
    """Read an IDX file as the format's description says, without our writer's code."""
    content = path.read_bytes()
    _, code, dimensions = struct.unpack_from(">HBB", content)
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    kind = {0x08: ">u1", 0x0B: ">i2"}[code]
    values = np.frombuffer(content, kind, offset=4 + 4 * dimensions)
    return values.reshape(shape)


def test_idx_has_the_names_and_bytes_of_mnist(export, dataset):
    root = export(dataset, "idx")
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images = read_idx(root / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(root / f"{prefix}-labels-idx1-ubyte")
        assert np.array_equal(images, dataset.images[split])
        assert np.array_equal(labels, dataset.labels[split])
    with (root / "label_map.csv").open() as file:
        assert list(csv.reader(file))[2] == ["1", "The Eiffel Tower"]


def test_idx_has_a_line_of_provenance_for_each_drawing(export, make_dataset, store):
    drawn = make_dataset(store, {"train": (3, 3)}, kind="samples", extra=EXTRA)
    root = export(drawn, "idx")
    with (root / "train-rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("bee", "The Eiffel Tower", "sea turtle")
    assert [row["sample_index"] for row in rows] == [row["row"] for row in rows] == list("012345")
    assert [row["class_name"] for row in rows] == [names[i] for i in drawn.labels["train"]]
    assert len(read_idx(root / "train-images-idx3-ubyte")) == 6


@pytest.mark.slow
def test_numpy_bitmap_has_the_line_of_each_drawing(export, make_dataset, store, monkeypatch):
    monkeypatch.setattr("pipelines.export.formats.numpy_bitmap._ROWS_PER_GROUP", 4)
    drawn = make_dataset(store, {"train": (7, 4), "test": (5,)}, kind="samples", extra=EXTRA)
    root = export(drawn, "numpy_bitmap")
    for label, name in enumerate(("bee", "The Eiffel Tower", "sea turtle")):
        with (root.parent / "numpy_bitmap-rows" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {(row["label"], row["class_name"]) for row in rows} == {(str(label), name)}
        images = [drawn.images[row["split"]][int(row["sample_index"])] for row in rows]
        assert np.array_equal(np.load(root / f"{name}.npy").reshape(-1, 28, 28), images)
        labels = [drawn.labels[row["split"]][int(row["sample_index"])] for row in rows]
        assert labels == [label] * len(rows)


def test_idx_labels_take_two_bytes_above_256_classes(export, make_dataset, store):
    names = tuple(f"class {i}" for i in range(300))
    drawn = make_dataset(store, {"train": (50,)}, names=names)
    root = export(drawn, "idx")
    assert np.array_equal(read_idx(root / "train-labels-idx1-short"), drawn.labels["train"])
    assert not (root / "train-labels-idx1-ubyte").exists()
    assert label_type(256)[1] == np.uint8


def test_pillow_opens_every_picture_that_metadata_names(export, dataset):
    root = export(dataset, "png")
    for split, images in dataset.images.items():
        with (root / split / "metadata.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row, image, label in zip(rows, images, dataset.labels[split], strict=True):
            assert np.array_equal(np.asarray(Image.open(root / split / row["file_name"])), image)
            assert int(row["label"]) == label
    assert rows[0]["file_name"].startswith(("bee/", "The Eiffel Tower/", "sea turtle/"))


@pytest.mark.slow
@leaves_files_open
def test_datasets_opens_the_picture_tree_as_imagefolder(export, dataset, tmp_path):
    import datasets

    root = export(dataset, "png")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(root), cache_dir=str(tmp_path / "cache")
    )
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 19, "test": 5}
    assert loaded["train"]["label"][:] == dataset.labels["train"].tolist()


@pytest.mark.parametrize("name", ["hf", "tfds", "webdataset", "numpy_bitmap", "idx", "png"])
def test_drawings_of_other_sizes_are_exported_too(export, make_dataset, store, name):
    drawn = make_dataset(store, {"train": (9,)}, shape=(16, 20))
    root = export(drawn, name)
    if name == "png":
        path = min(root.glob("train/*/000000003.png"))
        assert np.array_equal(np.asarray(Image.open(path)), drawn.images["train"][3])
    assert any(path.is_file() for path in root.rglob("*"))


@pytest.mark.slow
def test_class_names_never_become_paths(export, make_dataset, store):
    names = ("../../etc", "CON", "a/b", "Sun", "sun", "\N{SNOWMAN}", "sun", "..", "a\0b", "x" * 300)
    drawn = make_dataset(store, {"train": (60,)}, names=names)
    for name in ("png", "numpy_bitmap"):
        root = export(drawn, name)
        files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        assert all(str(path).isascii() and ".." not in path.parts for path in files)
        with (root.parent / f"{name}-classes.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["class_name"] for row in rows] == list(names)
        loaded = sum(len(np.load(root / path)) for path in files if path.suffix == ".npy")
        assert loaded == (60 if name == "numpy_bitmap" else 0)
