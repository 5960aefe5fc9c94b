"""`sketchmill build` on Parquet of pixels in lists, numbered labels, other sizes and own splits.

The files are written by pyarrow, pandas, Polars and `datasets`.
"""

import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))

from built import Builder, named, parquet_of, some_drawings

from pipelines.sources.base import SourceOptions
from pipelines.sources.registry import open_source

pytestmark = pytest.mark.slow

LABELS = ["bee", "sun"] * 10


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Builder:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def save(path: Path, image: object, label: object = LABELS, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": image, "label": label}), path, **options)


def lists(images: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(images.tolist(), kind)


def png(image: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


def nested(kind: pa.DataType, *lengths: int) -> pa.DataType:
    for length in reversed(lengths):
        kind = pa.list_(kind, length)
    return kind


WAYS = {
    "784 uint8": ((784,), nested(pa.uint8(), -1), None),
    "784 int64": ((784,), nested(pa.int64(), -1), "int64 pixels"),
    "784 fixed": ((784,), nested(pa.int32(), 784), "int32 pixels"),
    "784 large": ((784,), pa.large_list(pa.int16()), "int16 pixels"),
    "28x28": ((28, 28), nested(pa.uint8(), -1, -1), None),
    "28x28 fixed": ((28, 28), nested(pa.uint8(), 28, 28), None),
    "28x28x1": ((28, 28, 1), nested(pa.uint8(), -1, 28, 1), "shape (28, 28, 1)"),
    "1x28x28": ((1, 28, 28), nested(pa.int64(), -1, -1, -1), "int64 pixels"),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_lists_of_pixels_are_drawings_however_they_are_nested(build, root, way):
    shape, kind, repair = WAYS[way]
    images = some_drawings(20)
    column = lists(images.reshape(20, *shape), kind)
    save(root / "a.parquet", column, row_group_size=7)
    assert build.drawings(root) == named(images, LABELS)
    assert build(root)[1].get("repaired", {}) == ({repair: 20} if repair else {})


def as_pandas(path: Path, images: np.ndarray) -> None:
    rows = {"image": [*images.reshape(len(images), -1)], "label": LABELS}
    pd.DataFrame(rows).to_parquet(path)


def as_polars(path: Path, images: np.ndarray) -> None:
    kinds = {"image": pl.Array(pl.UInt8, (28, 28)), "label": pl.Categorical}
    pl.DataFrame({"image": images, "label": LABELS}, schema=kinds).write_parquet(path)


def as_tensors(path: Path, images: np.ndarray) -> None:
    save(path, pa.FixedShapeTensorArray.from_numpy_ndarray(images))


def as_datasets(path: Path, images: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Array2D((28, 28), "uint8"),
            "label": datasets.ClassLabel(names=["sun", "bee"]),
        }
    )
    datasets.Dataset.from_dict({"image": images, "label": LABELS}, features).to_parquet(path)


def as_values(path: Path, images: np.ndarray) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"image": images.tolist(), "label": LABELS}).to_parquet(path)


@pytest.mark.parametrize("write", [as_pandas, as_polars, as_tensors, as_datasets, as_values])
def test_arrays_of_other_writers_are_drawings(build, root, write):
    images = some_drawings(20)
    write(root / "train.parquet", images)
    assert build.drawings(root) == named(images, LABELS)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(784)])
def test_bytes_that_are_no_pictures_but_a_square_are_pixels(build, root, kind):
    images = some_drawings(20)
    save(root / "a.parquet", pa.array([image.tobytes() for image in images], kind))
    assert build.drawings(root) == named(images, LABELS)
    assert build(root)[1]["repaired"] == {"bytes as pixels": 20}


def test_bytes_of_several_lengths_or_of_pictures_are_no_pixels(build, root):
    images = some_drawings(20)
    raw = [image.tobytes() for image in images]
    save(root / "a.parquet", [*raw[:19], raw[19][:783]])
    assert "row 0: the picture cannot be decoded: unknown format of 784" in str(build(root)[1])
    save(root / "a.parquet", [*raw[:19], png(images[19])])
    assert "row 0: the picture cannot be decoded: unknown format of 784" in str(build(root)[1])
    # A length that only later rows have, and a picture whose bytes are a square's.
    many = [*raw * 60, raw[0][:400]]
    save(root / "a.parquet", many, ["bee"] * len(many))
    assert "row 1200: the drawing has 20x20 pixels, expected 28x28" in str(build(root)[1])
    broken = b"\x89PNG".ljust(784, b"\1")
    save(root / "a.parquet", [broken] * 20)
    assert "row 0: the picture cannot be decoded" in str(build(root)[1])


def test_rows_of_pixels_that_are_no_drawing_are_bad_ones(build, root):
    images = some_drawings(20)
    rows: list = images.astype(int).tolist()
    rows[3], rows[4], rows[5] = None, [row[:20] for row in rows[4]], [[*rows[5][0][:9]], *rows[5]]
    rows[6][0][0], rows[7][0][0] = 256, -1
    rows[8][0][0] = None
    save(root / "a.parquet", rows)
    code, error = build(root)
    assert (code, "row 4: the drawing has 28x20 pixels" in error) == (2, True), error
    code, result = build(root, "--on-bad-row", "skip")
    assert code == 0, result
    found = {row["place"]: row["found"] for row in build.manifest(result).summary["bad_rows"]}
    ragged = "the drawing is no rows of numbers of one length"
    assert found == {
        "row 3": "the drawing is null",
        "row 4": "the drawing has 28x20 pixels, expected 28x28",
        "row 5": ragged,
        "row 6": "the drawing has pixels of 0 to 256, expected 0 to 255",
        "row 7": "the drawing has pixels of -1 to 255, expected 0 to 255",
        "row 8": ragged,
    }
    kept = [0, 1, 2, *range(9, 20)]
    drawn = build.drawings(root, "--on-bad-row", "skip")
    assert drawn == named(images[kept], [LABELS[row] for row in kept])


def test_truth_values_are_ink_and_floats_are_refused(build, root):
    truth = some_drawings(20) > 0
    save(root / "a.parquet", lists(truth, nested(pa.bool_(), -1, -1)))
    assert build.drawings(root) == named(truth.astype(np.uint8) * 255, LABELS)
    save(root / "a.parquet", lists(truth.astype(float), nested(pa.float32(), -1, -1)))
    error = build.refused(root)
    assert "'image' holds float32 values of 0 to 1, expected integers 0 to 255: save (255" in error


def test_a_tensor_whose_axes_are_in_another_order_is_refused(build, root):
    kind = pa.fixed_shape_tensor(pa.uint8(), (28, 28), permutation=[1, 0])
    storage = lists(some_drawings(20).reshape(20, 784), nested(pa.uint8(), 784))
    save(root / "a.parquet", pa.ExtensionArray.from_storage(kind, storage))
    assert "'image' holds extension<arrow.fixed_shape_tensor" in build.refused(root)


def test_a_group_whose_lists_are_too_long_for_its_rows_is_refused(build, root):
    numbers = pa.array(np.zeros(34_000_000, np.uint8))
    save(root / "a.parquet", pa.ListArray.from_arrays([0, len(numbers)], numbers), ["bee"])
    error = build.refused(root)
    assert "has 34000000 numbers in the 1 rows of a row group, expected 33555456 at most" in error


def padded(image: np.ndarray) -> np.ndarray:
    """Return a drawing of 20x30 padded to 30x30 and resized, by Pillow."""
    paper = Image.new("L", (30, 30))
    paper.paste(Image.fromarray(image), (0, 5))
    return np.array(paper.resize((28, 28), Image.Resampling.BILINEAR))


def test_pictures_of_other_sizes_are_fitted_where_asked_for(build, root):
    images = some_drawings(20)
    wide = np.random.default_rng(1).integers(0, 256, (20, 20, 30), np.uint8)
    wide[np.random.default_rng(2).random(wide.shape) < 0.7] = 0
    wide[:, 8:10, 12:15] = 255
    save(root / "a.parquet", [png(image) for image in images])
    save(root / "b.parquet", [png(image) for image in wide])
    save(root / "c.parquet", lists(wide[::-1] // 2 * 2, nested(pa.uint8(), 20, 30)))
    assert "row 0: the picture has 20x30 pixels, expected 28x28" in str(build(root)[1])
    drawn = build.drawings(root, "--fit", "pad")
    others = np.stack([padded(image) for image in [*wide, *(wide[::-1] // 2 * 2)]])
    assert drawn == named(np.concatenate([images, others]), LABELS * 3)
    assert build(root, "--fit", "pad")[1]["repaired"] == {"padded and resized": 40}
    cropped = build.drawings(root, "--fit", "crop")
    assert len(cropped) == 60
    assert cropped != drawn
    large = build.drawings(root, "--fit", "crop", "--image-size", "64")
    assert {len(pixels) for _, pixels in large} == {64 * 64}


def test_how_pictures_are_fitted_is_of_the_fingerprint_only_where_they_are(root, tmp_path):
    save(root / "a.parquet", [png(image) for image in some_drawings(20)])

    def opened(**options: object):
        return open_source(str(root), None, tmp_path / "cache", SourceOptions(**options))

    assert len({opened(fit=fit).fingerprint for fit in ("", "pad", "crop")}) == 3
    assert "how" not in opened().files[0].layout
    # Names that the file has itself, as text, are not the user's.
    assert opened(label_names=("bee", "sun")).fingerprint == opened().fingerprint


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.bool_(), pa.float64()])
def test_numbered_labels_get_the_names_that_are_given(build, root, kind):
    images = some_drawings(20)
    numbers = pa.array([0, 1] * 10).cast(kind)
    save(root / "a.parquet", [png(image) for image in images], numbers)
    error = build.refused(root)
    assert "nothing names the numbers in the column 'label'" in error
    assert "--label-names NAME,NAME" in error
    assert build.drawings(root, "--label-names", "bee,sun") == named(images, LABELS)
    swapped = build.drawings(root, "--label-names", "sun,bee")
    assert swapped == named(images, ["sun", "bee"] * 10)


def test_names_that_are_too_few_or_contradict_the_file_are_refused(build, root):
    images = some_drawings(20)
    save(root / "a.parquet", [png(image) for image in images], [0, 1] * 9 + [2, -1])
    _, error = build(root, "--label-names", "bee,sun")
    assert "row 18: label is 2, expected 0 to 1" in error
    features = {"label": {"_type": "ClassLabel", "names": ["bee", "sun"]}}
    said = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"image": [png(image) for image in images], "label": [0, 1] * 10})
    pq.write_table(table.replace_schema_metadata(said), root / "a.parquet")
    assert build.drawings(root, "--label-names", "bee,sun") == named(images, LABELS)
    error = build.refused(root, "--label-names", "sun,bee")
    assert 'names the numbers in the column \'label\' itself, ["bee", "sun"], otherwise' in error


def split_counts(build: Builder, source: Path) -> dict[str, Counter]:
    """Return the drawings of each split of a dataset with the source's own."""
    code, result = build(source, "--splits", "source")
    assert code == 0, result
    manifest, found = build.manifest(result), {}
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            table = pq.read_table(build.store / manifest.prefix / entry.path)
            split = entry.path.split("/")[-1].partition("-")[0]
            found.setdefault(split, Counter()).update(
                np.asarray(Image.open(io.BytesIO(row["bytes"]))).tobytes()
                for row in table["image"].to_pylist()
            )
    return found


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train.parquet", "eval.parquet"),
        ("data/train-00000-of-00001.parquet", "data/extra-00000-of-00001.parquet"),
    ],
)
def test_the_splits_of_a_repository_can_be_kept(build, root, names):
    images = some_drawings(60)
    for name, part in zip(names, (images[:40], images[40:]), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(parquet_of(part, ["bee"] * len(part)))
    found = split_counts(build, root)
    second = "extra" if "extra" in names[1] else "test"
    assert found == {
        "train": Counter(image.tobytes() for image in images[:40]),
        second: Counter(image.tobytes() for image in images[40:]),
    }


@pytest.mark.parametrize(
    "shard", ["train-00000-of-00001.parquet", "train/0000.parquet", "data/train.parquet"]
)
def test_configurations_beside_each_other_are_refused_by_name(build, root, shard):
    images = some_drawings(20)
    for name in ("full", "simple"):
        path = root / name / shard
        path.parent.mkdir(parents=True)
        path.write_bytes(parquet_of(images, LABELS))
        (path.parent / "README.md").write_text("card")
    error = build.refused(root)
    above = "/data" if shard.startswith("data") else ""
    assert (
        f"2 datasets beside each other, each with splits of its own, in the folders full{above}, simple{above}:"
        in error
    )
    assert f"such as {root}/simple{above}" in error
    assert build.drawings(root / "simple") == named(images, LABELS)
