"""`sketchmill complete` as a person calls it: pictures, masks, drawings of a dataset."""

import dataclasses
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import strokes

from flows.cli import run_command_line
from flows.stages.complete import MOST_BYTES
from model.network.config import ConditionConfig
from model.network.pixelcnn import PixelCNN
from pipelines.store.artifacts import open_store

MODELS = {
    "knows": strokes.CONFIG,
    "bytes": dataclasses.replace(strokes.CONFIG, high=255),
    "color": dataclasses.replace(strokes.CONFIG, image_shape=(4, 4, 3), high=255),
    "guided": dataclasses.replace(
        strokes.CONFIG,
        high=255,
        condition=dataclasses.replace(strokes.CONFIG.condition, dropout_p=0.5),
    ),
    "plain": dataclasses.replace(strokes.CONFIG, condition=ConditionConfig()),
    "several": dataclasses.replace(
        strokes.CONFIG, condition=ConditionConfig(kind="multi_label", num_classes=2)
    ),
    "vector": dataclasses.replace(
        strokes.CONFIG, condition=ConditionConfig(kind="vector", shape=(2,))
    ),
    "spatial": dataclasses.replace(
        strokes.CONFIG, condition=ConditionConfig(kind="spatial", shape=(4, 4, 1))
    ),
}
SCALE, GAP = 4, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    store = open_store(str(folder / "store"))
    dataset = strokes.publish_drawings(store, *strokes.drawings(6, seed=3))
    for name, config in MODELS.items():
        torch.manual_seed(0)
        strokes.publish_model(store, PixelCNN(config).eval(), dataset, name)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(folder / "cache"))
    monkeypatch.chdir(tmp_path)


def call(folder: Path, *arguments: str) -> int:
    return run_command_line(
        ["complete", *arguments, "--store", str(folder / "store"), "--json", "--quiet"]
    )


def done(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert call(folder, *arguments) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def drawings(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what a picture shows: the given drawing, and the completions as (n, 4, 4)."""
    picture = np.array(Image.open(path))
    step = SCALE * 4 + GAP

    def cell(row: int, column: int) -> np.ndarray:
        top, left = GAP + row * step, GAP + column * step
        return picture[top : top + SCALE * 4 : SCALE, left : left + SCALE * 4 : SCALE]

    assert picture.shape[0] == GAP + 2 * step
    columns = (picture.shape[1] - GAP) // step
    return cell(0, 0), np.stack([cell(1, column) for column in range(columns)])


def save(path: str, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.slow
def test_opaque_pixels_of_a_picture_stay_and_the_rest_is_drawn(folder: Path, capsys):
    pixels = np.zeros((4, 4, 2), np.uint8)
    pixels[0] = (200, 255)
    png = save("half.png", pixels)
    given = (png, "--model", "bytes", "--class-name", "column", "--num", "3", "--out", "a.png")
    found = done(folder, capsys, *given)
    assert found["is_exact"] is True
    assert found["given_pixels"] == 4
    assert found["class_names"] == ["column"]
    shown, completions = drawings(Path("a.png"))
    assert (shown[0] == 255 - 200).all()
    assert completions.shape == (3, 4, 4)
    assert (completions[:, 0] == 255 - 200).all()
    assert len(np.unique(completions, axis=0)) == 3
    done(folder, capsys, *given[:-1], "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_guided_completion_keeps_what_is_given_and_is_not_called_exact(folder: Path, capsys):
    pixels = np.zeros((4, 4, 2), np.uint8)
    pixels[0] = (200, 255)
    given = (save("half.png", pixels), "--model", "guided", "--class-name", "column", "--num", "3")
    assert done(folder, capsys, *given, "--out", "a.png")["is_exact"] is True
    assert done(folder, capsys, *given, "--guidance", "2", "--out", "b.png")["is_exact"] is False
    cold = done(folder, capsys, *given, "--temperature", "0.5", "--out", "c.png")
    assert cold["is_exact"] is False
    _, completions = drawings(Path("b.png"))
    assert (completions[:, 0] == 255 - 200).all()
    assert Path("a.png").read_bytes() != Path("b.png").read_bytes()


def test_a_mask_says_what_of_a_picture_is_given(folder: Path, capsys):
    png = save("whole.png", np.full((4, 4), 77, np.uint8))
    mask = np.zeros((4, 4), np.uint8)
    mask[3] = 255
    given = (png, "--mask", save("mask.png", mask), "--model", "bytes", "--class-name", "row")
    found = done(folder, capsys, *given, "--num", "2", "--candidates", "2", "--out", "a.png")
    assert found["is_exact"] is False
    _, completions = drawings(Path("a.png"))
    assert (completions[:, 3] == 255 - 77).all()
    assert (completions[:, :3] != 255 - 77).any()


def test_a_drawing_of_a_dataset_is_completed_as_its_own_class(folder: Path, capsys):
    images, _ = strokes.drawings(6, seed=3)
    given = (
        "--dataset",
        "strokes",
        "--row",
        "5",
        "--model",
        "knows",
        "--num",
        "4",
        "--out",
        "a.png",
    )
    found = done(folder, capsys, *given)
    assert found["class_names"] == ["column"]
    assert found["given_pixels"] == 8
    _, completions = drawings(Path("a.png"))
    assert (completions[:, :2] == 255 - images[5, :2] * 85).all()
    found = done(folder, capsys, *given, "--rows-given", "3", "--class-name", "row")
    assert (found["given_pixels"], found["class_names"]) == (12, ["row"])


def test_color_models_take_and_make_color(folder: Path, capsys):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    given = (save("half.png", pixels), "--model", "color", "--class-name", "row", "--num", "2")
    done(folder, capsys, *given, "--out", "a.png")
    _, completions = drawings(Path("a.png"))
    assert completions.shape == (2, 4, 4, 3)
    assert (completions[:, :2] == (10, 20, 30)).all()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_any_dtype_and_several_labels_at_once(folder: Path, capsys, dtype: str):
    given = ("--dataset", "strokes", "--model", "several", "--class-name", "row,column")
    found = done(folder, capsys, *given, "--num", "2", "--dtype", dtype)
    assert found["class_names"] == ["row", "column"]


def test_an_unconditional_model_needs_no_class(folder: Path, capsys):
    found = done(folder, capsys, "--dataset", "strokes", "--model", "plain", "--num", "1")
    assert found["class_names"] == []


@pytest.mark.parametrize("option", [(), ("--mask",)])
def test_picture_that_is_too_large_is_not_completed(folder: Path, capsys, option):
    content = io.BytesIO()
    Image.new("L", (4, 4)).save(content, "PNG")
    # Another size in the header, with its checksum; the pixels stay those of 4x4.
    head = b"IHDR" + struct.pack(">II", 13_000, 13_000) + content.getvalue()[24:29]
    png = content.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head))
    Path("large.png").write_bytes(png + content.getvalue()[33:])
    Path("endless.png").write_bytes(bytes(MOST_BYTES + 1))
    half = (save("half.png", np.zeros((4, 4), np.uint8)),) if option else ()
    given = ("--model", "bytes", "--class-name", "row", *half, *option)
    assert call(folder, *given, "large.png") == 2
    assert "has 169000000 pixels, the model 4x4" in capsys.readouterr().err
    assert call(folder, *given, "endless.png") == 2
    assert f"endless.png has more than {MOST_BYTES} bytes" in capsys.readouterr().err


DATASET = ("--dataset", "strokes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "knows", *DATASET, "--num", "0"), "completions must be at least 1, found 0"),
        (("--model", "knows", *DATASET, "--candidates", "0"), "num_candidates must be at least 1"),
        (("--model", "knows", *DATASET, "--row", "6"), "row must be in 0..5"),
        (("--model", "knows", *DATASET, "--rows-given", "4"), "given rows must be in 0..3"),
        (("--model", "knows", *DATASET, "--class-name", "colum"), "did you mean column?"),
        (("--model", "knows", *DATASET, "--class-name", "row,column"), "takes one class, found 2"),
        (("--model", "vector", *DATASET), "conditioned on a vector, not on a class"),
        (("--model", "spatial", *DATASET), "conditioned on a spatial, not on a class"),
        (("--model", "color", *DATASET), "expected drawings (n, 3, 4, 4)"),
        (
            ("--model", "knows", "--class-name", "row"),
            "expected either a picture or a row of a dataset",
        ),
        (("half.png", "--model", "bytes"), "name the class of the drawing"),
        (
            ("half.png", "--model", "bytes", "--class-name", "row", "--rows-given", "2"),
            "transparent at given pixels",
        ),
        (("half.png", "--model", "knows", "--class-name", "row"), "whole numbers 0..3"),
        (("half.png", "--model", "bytes", "--out", "no/such/x.png"), "there is no folder"),
    ],
)
def test_what_does_not_fit_is_refused_with_words(
    folder: Path, capsys, arguments: tuple[str, ...], message: str
):
    pixels = np.zeros((4, 4, 2), np.uint8)
    pixels[0] = (200, 255)
    save("half.png", pixels)
    assert call(folder, *arguments) == 2
    assert message in capsys.readouterr().err
