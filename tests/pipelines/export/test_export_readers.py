"""The lines of an export's README, each run by the reader it names on three exports in turn.

The installed command makes the first one. Readers keep what they have read, so the second and the
third export, at the place of the first, would show the first one's drawings if they could not be
told apart.
"""

import contextlib
import csv
import gc
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from flows.cli import run_command_line
from pipelines.sources.doodles.make import google_npy

# Names with a blank, a letter beyond ASCII, what pandas takes for nothing or for a number, what a
# file system or a reader takes for something else; numbers of drawings that differ.
EXPORTS = {
    "mnist": {"sea turtle": 30, "caf\u00e9": 21, "NA": 25, "train": 20},
    "2nd-set": {"sun": 40, "NA": 22, "\u00dcber bee": 28, "C++": 17, "007": 16},
    "third": {"owl": 30, "sea turtle": 21, "null": 25, "Train": 20},
}
FORMATS = ("hf", "tfds", "webdataset", "numpy_bitmap", "idx", "png")

Drawing = tuple[str, bytes]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Path:
    """A folder with the sources under `sources` and the exports under their names."""
    root = tmp_path_factory.mktemp("exports")
    for seed, (name, classes) in enumerate(EXPORTS.items()):
        write_source(root / "sources" / name, seed, classes)
        source = ["--source", f"sources/{name}", "--classes", "all"]
        run = run_here if seed else run_installed
        run("build", *source, "--name", name, cwd=root)
        options = ["--format", ",".join(FORMATS), "--rows-per-shard", "30", "--out", name]
        run("export", name, *options, cwd=root)
    return root


def write_source(folder: Path, seed: int, classes: Mapping[str, int]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        images = rng.integers(1, 256, (count, 28, 28), np.uint8)
        images[rng.random(images.shape) < 0.7] = 0
        (folder / f"{name}.npy").write_bytes(google_npy(images))


def run_here(*arguments: str, cwd: Path) -> None:
    with contextlib.chdir(cwd):
        assert run_command_line([*arguments, "--quiet"]) == 0


def run_installed(*arguments: str, cwd: Path) -> None:
    command = [str(Path(sys.executable).with_name("sketchmill")), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def in_turn(exports, tmp_path, monkeypatch) -> Iterator[tuple[str, Path]]:
    """Each export's name and folder: two places of the same last name, then the first again."""

    def places() -> Iterator[tuple[str, Path]]:
        for name, place in zip(EXPORTS, ("one", "two", "one"), strict=True):
            (tmp_path / place).mkdir(exist_ok=True)
            link = tmp_path / place / "out"
            link.unlink(missing_ok=True)
            link.symlink_to(exports / name)
            monkeypatch.chdir(link)
            yield name, exports / "sources" / name

    yield places()
    gc.collect()  # readers leave files open


def run_lines(title: str) -> dict[str, Any]:
    """Run the lines that README.md has under a title; return the names they leave."""
    text = Path("README.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"### {re.escape(title)}\n\n```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def check(found: list[Drawing], source: Path, split: str = "train") -> None:
    """Assert that these are as many drawings as the split has, all of the source, no two equal."""
    drawn = {
        (path.stem, image.tobytes()) for path in source.glob("*.npy") for image in np.load(path)
    }
    manifest = json.loads(Path("manifest.json").read_text())
    assert len(found) == len(set(found)) == manifest["summary"]["splits"][split] > 30
    assert set(found) <= drawn


# The readers' own.
quiet = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
    "ignore:label\\(\\) is deprecated:DeprecationWarning",
    "ignore:The inplace keyword:DeprecationWarning",
    "ignore:ConjunctiveGraph:DeprecationWarning",
)


@quiet
@pytest.mark.parametrize("title", ["hf", "png"])
def test_datasets_tells_exports_apart(in_turn, tmp_path, monkeypatch, title):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for _, source in in_turn:
        rows = run_lines(title)["drawings"]
        names = rows.features["label"].names
        found = [(names[row["label"]], np.asarray(row["image"]).tobytes()) for row in rows]
        check(found, source)


@quiet
def test_tfds_opens_the_export_not_its_own_dataset_of_that_name(in_turn):
    import tensorflow_datasets as tfds

    for _, source in in_turn:
        left = run_lines("tfds")
        name = left["builder"].info.features["label"].int2str
        rows = tfds.as_numpy(left["drawings"])
        check([(name(row["label"]), row["image"].tobytes()) for row in rows], source)


@quiet
def test_webdataset_reads_every_tar_as_gray(in_turn):
    for _, source in in_turn:
        names = json.loads(Path("webdataset/dataset.json").read_text())["class_names"]
        rows = run_lines("webdataset")["drawings"]
        check([(names[row["cls"]], row["png"].tobytes()) for row in rows], source)


def test_numpy_bitmap_has_the_drawings_of_each_split_in_order(in_turn):
    for _ in in_turn:
        left = run_lines("numpy_bitmap")
        for split in ("train", "validation", "test"):
            found = []
            for row in left["table"].to_dict("records"):
                before = sum(row[s] for s in ("train", "validation", "test")[: ORDER[split]])
                of_split = left["drawings"][row["class_name"]][before : before + row[split]]
                found += [(row["class_name"], image.tobytes()) for image in of_split]
            expected = idx_rows(split)
            assert sorted(found) == sorted(expected), split
        assert sum(map(len, left["drawings"].values())) == left["table"].drawings.sum()


ORDER = {"train": 0, "validation": 1, "test": 2}


def idx_rows(split: str) -> list[Drawing]:
    prefix = f"idx/{'t10k' if split == 'test' else split}"
    labels = Path(f"{prefix}-labels-idx1-ubyte").read_bytes()[8:]
    pixels = Path(f"{prefix}-images-idx3-ubyte").read_bytes()[16:]
    with Path("idx/label_map.csv").open(encoding="utf-8") as file:
        names = [row["class_name"] for row in csv.DictReader(file)]
    return [(names[n], pixels[784 * i : 784 * i + 784]) for i, n in enumerate(labels)]


def test_numpy_and_pandas_read_idx(in_turn):
    for _, source in in_turn:
        left = run_lines("idx")
        rows = zip(left["labels"], left["images"], strict=True)
        found = [(left["names"][label], image.tobytes()) for label, image in rows]
        check(found, source)
        assert found == idx_rows("train")


@quiet
def test_mlcroissant_reads_the_pictures_and_the_classes(in_turn):
    import mlcroissant

    for _, source in in_turn:
        read = mlcroissant.Dataset("croissant.json")
        assert not read.metadata.ctx.issues.errors
        names = {r["classes/label"]: r["classes/class_name"] for r in read.records("classes")}
        files = {r["classes/class_name"]: r["classes/file"] for r in read.records("classes")}
        assert all(Path(file).exists() for file in files.values())
        rows = [row for row in read.records("pictures") if row["pictures/split"] == b"train"]
        assert all(row["pictures/image"].mode == "RGB" for row in rows)  # what it makes of gray
        pixels = [np.asarray(row["pictures/image"])[..., 0].tobytes() for row in rows]
        labels = [names[row["pictures/label"]] for row in rows]
        check(list(zip(labels, pixels, strict=True)), source)
        rows = list(read.records("drawings"))
        found = {(names[r["drawings/label"]], r["drawings/image"].tobytes()) for r in rows}
        assert found >= set(zip(labels, pixels, strict=True))


@quiet
@pytest.mark.parametrize("name", FORMATS)
def test_croissant_is_valid_for_any_format_and_name(name, exports, tmp_path):
    import mlcroissant

    run_here("export", "2nd-set", "--format", name, "--out", str(tmp_path), cwd=exports)
    read = mlcroissant.Dataset(tmp_path / "croissant.json")
    assert not read.metadata.ctx.issues.errors
    classes = [record["classes/class_name"] for record in read.records("classes")]
    assert set(classes) == set(EXPORTS["2nd-set"])
    described = json.loads((tmp_path / "croissant.json").read_text())["distribution"]
    urls = {unquote(each["contentUrl"]) for each in described if "contentUrl" in each}
    assert all((tmp_path / url).is_file() for url in urls)
    assert len(urls) > 3


@quiet
def test_keras_has_the_labels_of_the_export_whatever_the_order_of_folders(in_turn):
    for _, source in in_turn:
        left = run_lines("png in Keras")
        rows = left["drawings"].unbatch().as_numpy_iterator()
        found = [(left["names"][n], image.astype(np.uint8).tobytes()) for image, n in rows]
        check(found, source)
