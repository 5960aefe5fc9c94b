"""`sketchmill build` on pixels that are no drawing's: refused with the numbers, or counted."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, named

from pipelines.dataset.verify import verify_dataset
from pipelines.drawings.fitting import REPAIRS
from pipelines.store.artifacts import open_store


def drawings(count: int, seed: int = 0) -> np.ndarray:
    """Return crosses of one white line down and one across, with gray edges, all different."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    places = rng.permutation(24 * 24)[:count]
    for image, place in zip(images, places, strict=True):
        row, column = 2 + place // 24, 2 + place % 24
        image[row - 1 : row + 2, 2:26] = [[90], [255], [90]]
        image[2:26, column] = 255
    return images


def write_npy(folder: Path, **classes: np.ndarray) -> Path:
    folder.mkdir()
    for name, images in classes.items():
        np.save(folder / f"{name}.npy", images.reshape(len(images), -1))
    return folder


def write_parquet(folder: Path, **classes: np.ndarray) -> Path:
    """Write the classes' pictures as PNGs, by Pillow, in one file in turns."""
    folder.mkdir()
    rows = [(name, image) for name, images in classes.items() for image in images]
    rows.sort(key=lambda row: row[1].tobytes())
    table = pa.table({"image": [png(folder, i) for _, i in rows], "label": [n for n, _ in rows]})
    pq.write_table(table, folder / "train.parquet")
    return folder


def png(folder: Path, image: np.ndarray) -> bytes:
    Image.fromarray(image).save(folder / "x.png")
    content = (folder / "x.png").read_bytes()
    (folder / "x.png").unlink()
    return content


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def summary_of(result: dict, tmp_path: Path) -> dict:
    """Return the summary of a dataset, which verifies."""
    store = open_store(str(tmp_path / "store"))
    manifest = store.resolve("datasets", result["dataset"])
    assert verify_dataset(manifest, store) == []
    return manifest.summary


SCALES = {
    "of 0 and 1": (lambda images: images // 255, "ink of at most 1 of 255"),
    "0 to 15": (lambda images: images // 17, "ink of at most 15 of 255"),
    "0 to 100": (lambda images: (images * (100 / 255)).astype(np.uint8), "at most 100 of 255"),
    "inverted": (lambda images: 255 - images, "white paper with dark ink"),
}


@pytest.mark.parametrize(
    ("write", "bad", "scale"),
    [
        (write_npy, 30, "of 0 and 1"),
        (write_npy, 1, "0 to 15"),
        (write_npy, 15, "0 to 100"),
        (write_npy, 30, "inverted"),
        (write_parquet, 1, "inverted"),
        (write_parquet, 15, "of 0 and 1"),
    ],
)
def test_another_scale_of_all_half_or_one_is_refused_with_the_numbers(
    build, tmp_path, write, bad, scale
):
    change, message = SCALES[scale]
    images = drawings(30)
    images[30 - bad :] = change(images[30 - bad :])
    code, said = build(write(tmp_path / "source", bee=images, sun=drawings(30, 1)))
    assert code == 2
    assert message in said
    assert f"({bad} {'inverted' if scale == 'inverted' else 'faint'} of 30 rows)" in said
    assert "--on-bad-row skip" in said


@pytest.mark.parametrize("write", [write_npy, write_parquet])
def test_rows_that_are_no_drawings_are_left_out_counted_and_named(build, tmp_path, write):
    images = drawings(30)
    images[3] = 255 - images[3]
    images[7] //= 20
    source = write(tmp_path / "source", bee=images, sun=drawings(30, 1))
    code, result = build(source, "--on-bad-row", "skip", "--max-bad-rows", "2")
    assert code == 0, result
    assert result["dropped"] == {"inverted": 1, "faint": 1}
    summary = summary_of(result, tmp_path)
    assert summary["num_drawings"] == 58
    assert summary["dropped"] == {"inverted": {"bee": 1}, "faint": {"bee": 1}}
    assert summary["num_bad_rows"] == 2
    found = {each["reason"]: each["found"] for each in summary["bad_rows"]}
    assert found == {
        "inverted": "white paper with dark ink",
        "faint": "ink of at most 12 of 255",
    }
    if write is write_npy:
        assert [row["place"] for row in summary["bad_rows"]] == ["row 3", "row 7"]
        assert {row["file"] for row in summary["bad_rows"]} == {"bee.npy"}


def test_the_chain_takes_what_the_message_advises(build, tmp_path):
    images = drawings(30)
    images[3] = 255 - images[3]
    source = write_npy(tmp_path / "source", bee=images)
    code, built = build(source, "--on-bad-row", "skip")
    assert code == 0, built
    code, plan = build(source, "--on-bad-row", "skip", "--dry-run", verb="run")
    assert code == 0, plan
    assert plan["dataset"] == f"there: {built['dataset']}"


def test_more_bad_rows_than_the_limit_fail(build, tmp_path):
    images = drawings(30)
    images[3:6] = 255 - images[3:6]
    source = write_npy(tmp_path / "source", bee=images)
    code, said = build(source, "--on-bad-row", "skip", "--max-bad-rows", "2")
    assert code == 2
    assert "3 rows are not drawings, more than --max-bad-rows 2" in said
    assert "bee.npy row 3" in said
    assert build(source, "--max-bad-rows", "2")[0] == 2


@pytest.mark.slow
def test_the_limit_is_of_all_classes_of_a_linked_dataset(build, tmp_path):
    images = [drawings(30), drawings(30, 1)]
    for each in images:
        each[3:5] = 255 - each[3:5]
    source = write_npy(tmp_path / "source", bee=images[0], sun=images[1])
    linked = ["--layout", "linked", "--on-bad-row", "skip", "--max-bad-rows"]
    code, said = build(source, *linked, "3")
    assert code == 2
    assert "4 rows are not drawings, more than --max-bad-rows 3" in said
    code, result = build(source, *linked, "4")
    assert code == 0, result
    assert summary_of(result, tmp_path)["dropped"] == {"inverted": {"bee": 2, "sun": 2}}


def test_a_class_without_full_ink_is_refused(build, tmp_path):
    code, said = build(write_npy(tmp_path / "source", bee=drawings(30) // 2, sun=drawings(30)))
    assert code == 2
    assert "bee.npy: 30 drawings have pixels of 0 to 127" in said


def test_a_class_of_bad_rows_alone_is_refused_even_where_they_are_left_out(build, tmp_path):
    source = write_npy(tmp_path / "source", bee=255 - drawings(15), sun=drawings(30))
    code, said = build(source, "--on-bad-row", "skip")
    assert code == 2
    assert "no drawing of class 'bee' is left: all were dropped: {'inverted': 15}" in said


@pytest.mark.slow
def test_rows_that_are_not_chosen_refuse_nothing(build, tmp_path):
    images = drawings(30)
    images[20:] = 255 - images[20:]
    source = write_npy(tmp_path / "source", bee=images)
    code, result = build(source, "--max-per-class", "20")
    assert code == 0, result
    assert sum(result["drawings"].values()) == 20
    mixed = write_parquet(tmp_path / "mixed", bee=255 - drawings(30), sun=drawings(30, 1))
    code, result = build(mixed, "--classes", "sun")
    assert code == 0, result
    assert sum(result["drawings"].values()) == 30


@pytest.mark.slow
def test_a_few_blanks_are_dropped_and_a_class_of_blanks_is_refused(build, tmp_path):
    images = drawings(100)
    images[60:] = 0
    code, result = build(write_npy(tmp_path / "few", bee=images, sun=drawings(30)))
    assert code == 0, result
    assert result["dropped"] == {"blank": 40}
    images[40:] = 0
    # Among the drawings of another class they are no majority of the file.
    folder = write_parquet(tmp_path / "many", bee=images, sun=drawings(500, 1))
    code, said = build(folder)
    assert code == 2
    assert "60% of 100 drawings are blank" in said


def test_a_file_with_a_bad_row_is_left_out_where_files_may_be(build, tmp_path):
    images = drawings(30)
    images[3] = 255 - images[3]
    source = write_npy(tmp_path / "source", bee=images, sun=drawings(30, 1))
    code, result = build(source, "--on-bad-file", "skip")
    assert code == 0, result
    (bad,) = summary_of(result, tmp_path)["bad_files"]
    assert bad["file"] == "bee.npy"
    assert "row 3: white paper with dark ink" in bad["reason"]


def test_the_defaults_of_bad_rows_are_not_part_of_an_address(build, tmp_path):
    source = write_npy(tmp_path / "source", bee=drawings(30))
    _, plain = build(source, "--dry-run")
    _, said = build(source, "--dry-run", "--on-bad-row", "fail")
    _, skipping = build(source, "--dry-run", "--on-bad-row", "skip")
    assert plain["digest"] == said["digest"]
    assert "on_bad_row" not in plain["spec"]
    assert skipping["digest"] != plain["digest"]


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_bitmaps_of_another_size_are_fitted_where_that_is_said(build, tmp_path, fit):
    """Squares: both ways are Pillow's bilinear filter alone."""
    images = np.kron(drawings(30), np.ones((2, 2), np.uint8))
    source = write_npy(tmp_path / "in", bee=images)
    assert "only strokes can be drawn at 28: give --image-size 56, or fit" in build.refused(source)
    code, result = build(source, "--fit", fit)
    assert code == 0, result
    assert summary_of(result, tmp_path)["repaired"] == {REPAIRS[fit]: {"bee": 30}}
    expected = [
        np.asarray(Image.fromarray(each).resize((28, 28), Image.Resampling.BILINEAR))
        for each in images
    ]
    assert build.drawings(source, "--fit", fit) == named(np.array(expected), ["bee"] * 30)
