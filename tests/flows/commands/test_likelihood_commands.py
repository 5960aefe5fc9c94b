"""`sketchmill evaluate` and `sketchmill score` on a model that knows rows from columns of ink."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import strokes

from flows.cli import run_command_line
from model.network.config import ConditionConfig
from model.network.pixelcnn import PixelCNN
from pipelines.store.artifacts import open_store

SCRIBBLE, MISLABELED, NUM = 5, 10, 24
PLAIN = dataclasses.replace(strokes.CONFIG, condition=ConditionConfig())
BYTES = dataclasses.replace(strokes.CONFIG, high=255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model, and a test split with a scribble and a wrong label planted."""
    folder = tmp_path_factory.mktemp("likelihood")
    store = open_store(str(folder / "store"))
    dataset = strokes.publish_drawings(store, *planted())
    strokes.publish_model(store, strokes.trained(), dataset, "knows")
    strokes.publish_model(store, PixelCNN(PLAIN).eval(), dataset, "plain")
    strokes.publish_model(store, PixelCNN(BYTES).eval(), dataset, "bytes")
    return folder


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Return drawings and labels with a scribble and a wrong label among them."""
    images, labels = strokes.drawings(NUM, seed=100)
    images[SCRIBBLE] = np.tile([[0, 3], [3, 0]], (2, 2))
    labels[MISLABELED] = 1 - labels[MISLABELED]
    return images, labels


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(folder / "cache"))


def call(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    given = [*arguments, "--store", str(folder / "store"), "--json", "--quiet"]
    assert run_command_line(given) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_bayes_tells_the_classes_apart_and_shows_the_wrong_label(folder: Path, capsys):
    found = call(folder, capsys, "evaluate", "--model", "knows", "--bayes")
    bayes = found["bayes"]
    confusion = np.array(bayes["confusion"])
    assert confusion.sum() == NUM
    # The wrong label counts as a mistake; on which side the scribble falls is not said.
    assert bayes["accuracy"] == pytest.approx(np.trace(confusion) / NUM)
    assert NUM - 2 <= np.trace(confusion) < NUM
    assert bayes["class_names"] == ["row", "column"]
    assert bayes["recall"]["row"] == confusion[0, 0] / confusion[0].sum()
    assert bayes["chance"] == 0.5


def test_bits_per_dim_is_the_same_with_bayes_and_without(folder: Path, capsys):
    plain = call(folder, capsys, "evaluate", "--model", "knows")
    bayes = call(folder, capsys, "evaluate", "--model", "knows", "--bayes")
    del bayes["bayes"]
    assert plain.keys() == bayes.keys()
    assert plain["bits_per_dim"] == pytest.approx(bayes["bits_per_dim"], rel=1e-5)
    assert plain["num_drawings"] == NUM


def test_limit_measures_the_same_drawings_again(folder: Path, capsys):
    first = call(folder, capsys, "evaluate", "--model", "knows", "--limit", "7")
    assert first["num_drawings"] == 7
    assert call(folder, capsys, "evaluate", "--model", "knows", "--limit", "7") == first
    assert call(folder, capsys, "evaluate", "--model", "knows", "--limit", "99") == call(
        folder, capsys, "evaluate", "--model", "knows"
    )


def test_a_histogram_is_printed_beside_the_model(folder: Path, capsys):
    given = ("evaluate", "--model", "bytes", "--baseline")
    found = call(folder, capsys, *given)["histogram"]
    images, labels = planted()
    # Smoothed by 0.1 a level, for each pixel and class, over 256 levels.
    nats = 0.0
    for image, label in zip(images, labels, strict=True):
        own = images[labels == label]
        counts = (own == image).sum(axis=0)
        nats -= np.log((counts + 0.1) / (len(own) + 25.6)).sum()
    assert found["bits_per_dim"] == pytest.approx(nats / (NUM * 16 * np.log(2)))
    assert call(folder, capsys, *given, "--limit", "3")["histogram"]["num_drawings"] == 3


def test_a_histogram_of_other_levels_is_refused(folder: Path, capsys):
    given = ["evaluate", "--model", "knows", "--baseline", "--store", str(folder / "store")]
    assert run_command_line(given) == 2
    assert "the histogram has 256 levels, the model 4" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "score"])
def test_a_model_without_labels_is_refused_before_the_split_is_read(
    folder: Path, capsys, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path))
    given = [command, "--model", "plain", "--bayes", "--store", str(folder / "store")]
    assert run_command_line(given) == 2
    assert "a classifier needs a model of one label" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ranks_find_the_same_as_one_process(folder: Path, capsys):
    given = ("evaluate", "--model", "knows", "--bayes", "--limit", "9")
    alone = call(folder, capsys, *given)
    ranks = call(folder, capsys, *given, "--nproc-per-node", "2")
    assert ranks["bayes"] == alone["bayes"]
    assert ranks["nats"] == pytest.approx(alone["nats"], rel=1e-5)


def test_score_puts_the_scribble_and_the_wrong_label_first(folder: Path, capsys, tmp_path: Path):
    sheet = tmp_path / "worst.png"
    given = ("score", "--model", "knows", "--worst", "3", "--sheet", str(sheet), "--bayes")
    found = call(folder, capsys, *given)["worst"]
    assert {row["row"] for row in found[:2]} == {SCRIBBLE, MISLABELED}
    bits = [row["bits_per_dim"] for row in found]
    assert bits == sorted(bits, reverse=True)
    mislabeled = next(row for row in found if row["row"] == MISLABELED)
    assert mislabeled["likely_class"] != mislabeled["class_name"]
    assert mislabeled["own_probability"] < 0.1
    assert found[2]["own_probability"] > 0.5

    picture = np.array(Image.open(io.BytesIO(sheet.read_bytes())))
    images, _ = planted()
    # Twice enlarged, after a gap of 4, in the order of the list; ink is dark.
    for place, row in enumerate(found):
        left = 4 + place * 12
        shown = 255 - picture[4:12:2, left : left + 8 : 2]
        np.testing.assert_array_equal(shown, images[row["row"]])


def test_score_of_no_drawings_is_refused(folder: Path, capsys):
    given = ["score", "--model", "knows", "--worst", "0", "--store", str(folder / "store")]
    assert run_command_line(given) == 2
    assert "--worst must be at least 1" in capsys.readouterr().err


def test_score_looks_for_the_folder_of_its_sheet_before_the_work(folder: Path, capsys, monkeypatch):
    monkeypatch.setattr("model.evaluation.rank.rank_split", pytest.fail)
    given = ["score", "--model", "knows", "--sheet", "no/such/worst.png"]
    assert run_command_line([*given, "--store", str(folder / "store")]) == 2
    assert "there is no folder" in capsys.readouterr().err
