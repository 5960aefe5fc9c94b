"""`--splits source` keeps the splits that a source has; a dataset comes out as it went in."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, fill_with, named, parquet_of, some_drawings

from flows.cli import run_command_line
from pipelines.drawings.parquet import read_images
from pipelines.sources.doodles.make import google_npy

# In no order that a program would choose, and names that paths and tables must escape.
NAMES = ("zebra", "a, b", "100% sure", "s\u00e9same", "ant")
FORMATS = ("hf", "tfds", "webdataset", "numpy_bitmap", "idx", "png")
READ = FORMATS


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
@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("splits", ["train=0.7,test=0.3", "train=0.5,extra=0.5"])
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
