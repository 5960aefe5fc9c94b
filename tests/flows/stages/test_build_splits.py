"""`--splits source` keeps the splits that a source has; a dataset comes out as it went in."""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, fill_with, named, parquet_of, some_drawings

from flows.cli import run_command_line
from pipelines.drawings.parquet import read_images
from pipelines.sources.doodles.make import google_npy, write_doodles

# In no order that a program would choose, and names that paths and tables must escape.
NAMES = ("zebra", "a, b", "100% sure", "s\u00e9same", "ant")
FORMATS = ("hf", "tfds", "webdataset", "numpy_bitmap", "idx", "png")
# Whose readers know Google's four columns too.
WITH_METADATA = ("hf", "webdataset", "idx", "png")
# SKETCHMILL_TEST_ROWS=1000000 reads back a million rows.
ROWS = int(os.environ.get("SKETCHMILL_TEST_ROWS", "500"))


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def members(build: Builder, answer: dict) -> set[tuple[str, int, str, bytes]]:
    """Return split, label, class and pixels of every drawing of a dataset."""
    manifest, found = build.manifest(answer), []
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            table = pq.read_table(build.store / manifest.prefix / entry.path)
            pixels = [image.tobytes() for image in read_images(table["image"])]
            labels = table["label"].to_pylist()
            names = [manifest.summary["class_names"][label] for label in labels]
            found += zip([entry.split] * len(pixels), labels, names, pixels, strict=True)
    assert len(set(found)) == len(found)
    return set(found)


def in_two_parts(root: Path, test: str = "test-0.parquet") -> Path:
    """Forty drawings of train, of which one is in test too, and twenty of test."""
    images = some_drawings(60)
    images[50] = images[3]
    names = ["bee", "sun"] * 30
    parts = {"data/train-0.parquet": slice(40), f"data/{test}": slice(40, 60)}
    return fill_with(
        root, {name: parquet_of(images[part], names[part]) for name, part in parts.items()}
    )


def test_drawings_stay_in_their_split_and_none_is_cleaned(build, tmp_path):
    code, answer = build(in_two_parts(tmp_path / "in"), "--splits", "source")
    assert (code, answer["drawings"]) == (0, {"test": 20, "train": 40})
    assert "merged_splits" not in answer
    manifest = build.manifest(answer)
    assert manifest.summary["dropped"] == {}
    images, names = some_drawings(60), ["bee", "sun"] * 30
    images[50] = images[3]
    for split, part in {"train": slice(40), "test": slice(40, 60)}.items():
        own = [e for e in manifest.files if e.split == split and e.path.endswith(".parquet")]
        tables = [pq.read_table(build.store / manifest.prefix / entry.path) for entry in own]
        found = [
            (manifest.summary["class_names"][label], image.tobytes())
            for table in tables
            for label, image in zip(
                table["label"].to_pylist(), read_images(table["image"]), strict=True
            )
        ]
        assert sorted(found) == named(images[part], names[part])


def test_splits_are_part_of_the_address(build, tmp_path):
    _, one = build(in_two_parts(tmp_path / "one"), "--splits", "source", "--name", "x")
    _, other = build(
        in_two_parts(tmp_path / "two", "validation-0.parquet"), "--splits", "source", "--name", "x"
    )
    assert other["drawings"] == {"train": 40, "validation": 20}
    assert one["dataset"] != other["dataset"]
    _, plain = build(in_two_parts(tmp_path / "one"), "--name", "x")
    assert sum(plain["merged_splits"].values()) == 60
    _, again = build(in_two_parts(tmp_path / "one"), "--splits", "source", "--name", "x")
    assert again["dataset"] == one["dataset"]


def test_a_part_of_train_becomes_validation(build, tmp_path):
    source = in_two_parts(tmp_path / "in")
    code, plain = build(source, "--splits", "source")
    part = ["--splits", "source", "--validation-part", "0.3"]
    code, answer = build(source, *part)
    assert code == 0, answer
    counts = answer["drawings"]
    assert counts["train"] + counts["validation"] == 40
    assert (counts["test"], counts["validation"] > 4) == (20, True)
    moved = {split: "train" if split == "validation" else split for split in counts}
    found = {(moved[split], *rest) for split, *rest in members(build, answer)}
    assert found == members(build, plain)
    assert "without validation" in build.refused(
        in_two_parts(tmp_path / "two", "validation-0.parquet"), *part
    )
    assert "--splits source" in build.refused(source, "--validation-part", "0.3")


def test_what_has_no_splits_is_refused(build, tmp_path):
    source = fill_with(tmp_path / "in", {"bee.npy": google_npy(some_drawings(9))})
    assert "has none of its own to keep" in build.refused(source, "--splits", "source")
    assert "packed" in build.refused(
        in_two_parts(tmp_path / "two"), "--splits", "source", "--layout", "linked"
    )


def exported(build: Builder, name: str, kind: str, folder: Path) -> Path:
    arguments = ["export", name, "--format", kind, "--out", folder, "--store", build.store]
    assert run_command_line([*map(str, arguments), "--json", "--quiet"]) == 0
    build.capsys.readouterr()
    return folder


@pytest.fixture(scope="module")
def drawings() -> dict[str, np.ndarray]:
    return {name: some_drawings(12 + n, seed=n) for n, name in enumerate(NAMES)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorFlow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "splits", ["train=0.7,test=0.3", pytest.param("train=0.5,extra=0.5", marks=pytest.mark.slow)]
)
def test_an_export_read_back_is_the_dataset(build, tmp_path, drawings, kind, splits):
    files = {f"{n}.npy": google_npy(images) for n, images in enumerate(drawings.values())}
    source = fill_with(tmp_path / "in" / "numpy_bitmap", files)
    lines = [f'{n},"{name}",{n}.npy' for n, name in enumerate(drawings)]
    table = "\n".join(["label,class_name,file", *lines])
    (tmp_path / "in" / "numpy_bitmap-classes.csv").write_text(table)
    classes = ["--classes", ",".join(f'"{name}"' for name in NAMES)]
    code, made = build(source, *classes, "--splits", splits, "--name", "one")
    assert code == 0, made
    folder = exported(build, "one", kind, tmp_path / "out")
    code, back = build(folder, "--splits", "source", "--name", "back")
    assert code == 0, back
    assert back["drawings"] == made["drawings"]
    assert build.manifest(back).summary["class_names"] == list(NAMES)
    assert members(build, back) == members(build, made)


@pytest.fixture(scope="module")
def strokes(tmp_path_factory) -> Path:
    """Lines with all of Google's columns, of two classes."""
    return write_doodles(tmp_path_factory.mktemp("doodles"), ("bee", "sun"), per_class=25)


def columns_of(build: Builder, answer: dict) -> list[tuple]:
    manifest, found = build.manifest(answer), []
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            table = pq.read_table(build.store / manifest.prefix / entry.path)
            names = ("key_id", "country_code", "recognized", "timestamp", "label")
            found += zip(*(table[name].to_pylist() for name in names), strict=True)
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_METADATA)
def test_an_export_keeps_the_columns_of_its_drawings(build, tmp_path, strokes, kind):
    code, made = build(strokes / "simplified", "--with-metadata", "--name", "one")
    assert code == 0, made
    folder = exported(build, "one", kind, tmp_path / "out")
    code, back = build(folder, "--splits", "source", "--with-metadata", "--name", "back")
    assert code == 0, back
    assert columns_of(build, back) == columns_of(build, made)
    assert members(build, back) == members(build, made)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorFlow
@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_of_many_rows_read_back_has_the_content(build, tmp_path, kind):
    """The content digest is a sum over all drawings as members of their class and split."""
    numbers = np.arange(ROWS, dtype="<u4").view(np.uint8).reshape(ROWS, 4)
    images = np.zeros((ROWS, 28, 28), np.uint8)
    images[:, 9, :4], images[:, 0, 0], images[:, 1] = numbers, 255, 200
    half = ROWS // 2
    files = {"sun.npy": google_npy(images[:half]), "bee.npy": google_npy(images[half:])}
    source = fill_with(tmp_path / "in", files)
    code, made = build(source, "--classes", "sun,bee", "--name", "one")
    assert code == 0, made
    folder = exported(build, "one", kind, tmp_path / "out")
    code, back = build(folder, "--splits", "source", "--name", "back")
    assert code == 0, back
    one, other = (build.manifest(each).summary for each in (made, back))
    assert other["class_names"] == one["class_names"] == ["sun", "bee"]
    assert other["counts"] == one["counts"]
    assert other["content_sum"] == one["content_sum"]
    assert other["num_drawings"] == ROWS
