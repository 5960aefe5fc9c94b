"""`sketchmill inspect` says what a source is, and its last line builds it."""

import io
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import fill_with, some_drawings

from flows.cli import run_command_line
from pipelines.sources.doodles.make import google_npy

IMAGES = some_drawings(30)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = run_command_line([*map(str, arguments), "--quiet"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def report_of(capsys, *arguments) -> dict:
    code, out, err = run(capsys, "inspect", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def png(image: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


def parquet(rows: int, split_seed: int) -> bytes:
    """Pictures with class names as `datasets` writes them, by PyArrow and Pillow."""
    pictures = [{"bytes": png(each), "path": None} for each in some_drawings(rows, split_seed)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["b", "a"]}}
    table = pa.table({"image": pictures, "label": [i % 2 for i in range(rows)]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def test_folder_of_bitmaps(tmp_path, capsys):
    files = {"bee.npy": google_npy(IMAGES), "sea turtle.npy": google_npy(IMAGES[:7])}
    source = fill_with(tmp_path / "in", files)
    found = report_of(capsys, source)
    assert found["classes"] == {"bee": 30, "sea turtle": 7}
    assert (found["drawings"], found["formats"], found["splits"]) == (37, ["npy"], {})
    assert found["values"] == [int(IMAGES.min()), int(IMAGES.max())]
    assert "Quick, Draw! layout" in found["source"]
    assert shlex.split(found["build"])[1:] == ["build", "--source", str(source), "--classes", "all"]


def test_last_line_is_a_command_that_builds(tmp_path, capsys):
    parts = {
        "train-00000-of-00001.parquet": parquet(40, 0),
        "test-00000-of-00001.parquet": parquet(20, 1),
    }
    source = fill_with(tmp_path / "in data", parts)
    code, out, _ = run(capsys, "inspect", source)
    command = shlex.split(out.splitlines()[-1].removeprefix("build").strip())
    assert code == 0
    assert command[-2:] == ["--splits", "source"]
    assert "splits    test 20, train 40" in out
    store = tmp_path / "store"
    code, out, err = run(capsys, *command[1:], "--store", store, "--json")
    assert code == 0, err
    assert json.loads(out)["drawings"] == {"test": 20, "train": 40}
    code, out, _ = run(capsys, "ls", "--store", store)
    assert "in-data" in out


def test_what_would_be_refused_and_converted(tmp_path, capsys):
    inverted = IMAGES.copy()
    inverted[3] = 255 - inverted[3]
    wide = io.BytesIO()
    np.save(wide, inverted.reshape(30, 784).astype(np.int64))
    files = {"bee.npy": wide.getvalue(), "sun.npy": google_npy(IMAGES)[:-50]}
    found = report_of(capsys, fill_with(tmp_path / "in", files))
    assert found["bad_rows"] == {"inverted": 1}
    assert "bee.npy row 3" in found["first_bad_row"]
    assert "truncated" in found["bad_files"][0]
    assert found["repaired_files"] == {"int64 pixels": 1}
    assert found["build"].endswith("--on-bad-file skip --on-bad-row skip")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"<html>please sign in</html>", "a web page"), (google_npy(255 - IMAGES), "white paper")],
)
def test_nothing_that_can_be_read_is_an_error(tmp_path, capsys, content, says):
    source = fill_with(tmp_path / "in", {"bee.npy": content})
    code, out, err = run(capsys, "inspect", source)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_sheet_shows_eight_of_each_class(tmp_path, capsys):
    files = {"bee.npy": google_npy(IMAGES), "sun.npy": google_npy(IMAGES[:3])}
    source, sheet = fill_with(tmp_path / "in", files), tmp_path / "sheet.png"
    report_of(capsys, source, "--sheet", sheet)
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    # A cell is 28 pixels twice as large, with a gap of 4.
    cells = [
        [pixels[4 + 60 * r :][:56:2, 4 + 60 * c :][:, :56:2] for c in range(8)] for r in (0, 1)
    ]
    for row, number in enumerate((8, 3)):
        for column in range(8):
            drawn = IMAGES[column].reshape(28, 28) if column < number else 0
            assert np.array_equal(255 - cells[row][column], np.broadcast_to(drawn, (28, 28)))


def test_chosen_classes_alone(tmp_path, capsys):
    files = {"bee.npy": google_npy(IMAGES), "a, b.npy": google_npy(IMAGES), "sun.npy": b"bad"}
    source = fill_with(tmp_path / "in", files)
    found = report_of(capsys, source, "--classes", '"a, b",bee')
    assert found["classes"] == {"a, b": 30, "bee": 30}
    assert found["bad_files"] == []
    assert shlex.split(found["build"])[-1] == '"a, b",bee'


def test_address_without_a_source(tmp_path, capsys):
    code, _, err = run(capsys, "inspect", fill_with(tmp_path / "in", {"notes.txt": b"hello"}))
    assert code == 2
    assert "has no .npy" in err


def test_size_of_the_pictures_is_in_the_command(tmp_path, capsys):
    images = np.zeros((20, 56, 56), np.uint8)
    for row, image in enumerate(images):
        image[8 + 2 * row : 12 + 2 * row, 4:50] = 255
    pictures = [{"bytes": png(image)} for image in images]
    (tmp_path / "in").mkdir()
    table = pa.table({"image": pictures, "label": ["bee"] * len(pictures)})
    pq.write_table(table, tmp_path / "in" / "train.parquet")
    found = report_of(capsys, tmp_path / "in")
    assert found["image_size"] == 56
    assert found["build"].endswith("--classes all --image-size 56")
    assert report_of(capsys, tmp_path / "in", "--fit", "pad")["build"].endswith("--fit pad")
