"""`sketchmill build` on files of strokes as people have them: drawn right, counted, or refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run_command_line
from pipelines.drawings.parquet import open_shard, read_images
from pipelines.sources.strokes.cairo import render_drawings
from pipelines.sources.strokes.simplify import simplify
from pipelines.store.artifacts import open_store

NUM = 24
WHO = {
    "word": "bee",
    "countrycode": "DE",
    "timestamp": "2017-03-06 00:28:58.85688 UTC",
    "recognized": True,
    "key_id": "4727732971765760",
}


def some_strokes() -> list[list[list[list[int]]]]:
    """Drawings as Google simplifies them, each as large as the page."""
    rng = np.random.default_rng(0)
    drawings = []
    for _ in range(NUM):
        others = [rng.integers(0, 256, (2, rng.integers(2, 7))).tolist() for _ in range(2)]
        drawings.append([[[0, 255, 20, 90], [0, 255, 200, 17]], *others])
    return drawings


STROKES = some_strokes()


def points_of(drawing: list) -> list[np.ndarray]:
    return [np.array(stroke, np.float64).T for stroke in drawing]


def pairs(drawing: list) -> list:
    return [list(zip(*stroke, strict=True)) for stroke in drawing]


def on_canvas(drawing: list) -> list:
    return [[[4 * value for value in part] for part in stroke] for stroke in drawing]


def in_percent(drawing: list) -> list:
    return [[[value / 2.55 for value in part] for part in stroke] for stroke in drawing]


def on_small_canvas(drawing: list) -> list:
    return [[[value // 4 for value in part] for part in stroke] for stroke in drawing]


def with_times(drawing: list) -> list:
    return [[*stroke, list(range(len(stroke[0])))] for stroke in on_canvas(drawing)]


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    """Return a function that writes lines and builds: (exit code, the summary or the error)."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def command(lines: list[str], *arguments: str) -> tuple[int, dict | str]:
        write(tmp_path, lines)
        options = ["--classes", "all", "--store", "store", "--json", "--quiet", *arguments]
        code = run_command_line(["build", "--source", "drawings", *options])
        said = capsys.readouterr()
        if code:
            return code, said.err
        return 0, summary_of(tmp_path, json.loads(said.out.splitlines()[-1])["dataset"])

    return command


def write(root: Path, lines: list[str]) -> None:
    (root / "drawings").mkdir(exist_ok=True)
    (root / "drawings" / "bee.ndjson").write_text("\n".join(lines))


def summary_of(root: Path, dataset: str) -> dict:
    return open_store(str(root / "store")).resolve("datasets", dataset).summary


def pixels_in(root: Path) -> list[bytes]:
    """Return the drawings of all datasets of the store, sorted."""
    store = open_store(str(root / "store"))
    found = []
    for manifest in store.manifests("datasets"):
        for entry in manifest.files:
            if entry.path.endswith(".parquet"):
                table = open_shard(store.read(manifest, entry.path)).read()
                found += [one.tobytes() for one in read_images(table["image"].combine_chunks())]
    return sorted(found)


def lines_of(drawings: list, **fields: object) -> list[str]:
    return [json.dumps(WHO | fields | {"drawing": drawing}) for drawing in drawings]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write_drawing", "is_simplified", "repair"),
    [
        (list, False, None),
        (with_times, True, None),
        (on_canvas, True, "coordinates of another page"),
        (in_percent, True, "coordinates of another page"),
        (on_small_canvas, True, "coordinates of another page"),
        (pairs, False, "points as pairs"),
    ],
)
def test_strokes_of_any_form_and_scale_are_the_same_drawings(
    build, tmp_path, write_drawing, is_simplified, repair
):
    lines = lines_of([[], *map(write_drawing, STROKES)])
    code, summary = build(lines)
    assert code == 0, summary
    assert summary["dropped"]["blank"] == {"bee": 1}
    assert summary.get("repaired", {}) == ({repair: {"bee": NUM}} if repair else {})
    strokes = [points_of(drawing) for drawing in STROKES]
    if is_simplified:
        written = [points_of(write_drawing(drawing)) for drawing in STROKES]
        strokes = [simplify([points[:, :2] for points in drawing]) for drawing in written]
    expected = render_drawings(strokes)
    assert pixels_in(tmp_path) == sorted(image.tobytes() for image in expected)


@pytest.mark.slow
def test_a_torn_line_stops_a_build_or_is_left_out_and_named(build, tmp_path):
    lines = lines_of(STROKES)
    lines[4] = lines[4][:100]
    code, error = build(lines)
    assert code == 2
    assert "bee.ndjson line 5: not a drawing in JSON" in error
    assert "--on-bad-row skip" in error
    code, summary = build(lines, "--on-bad-row", "skip")
    assert code == 0, summary
    assert summary["dropped"] == {"unreadable": {"bee": 1}}
    (bad,) = summary["bad_rows"]
    assert (bad["file"], bad["place"], bad["reason"]) == ("bee.ndjson", "line 5", "unreadable")
    expected = render_drawings([points_of(drawing) for drawing in STROKES[:4] + STROKES[5:]])
    assert pixels_in(tmp_path) == sorted(image.tobytes() for image in expected)


@pytest.mark.slow
def test_metadata_are_looked_at_only_where_they_are_wanted(build):
    lines = lines_of(STROKES, countrycode=None, key_id=1.5, timestamp=None)
    code, summary = build(lines)
    assert (code, summary["num_drawings"]) == (0, NUM)
    code, summary = build(lines, "--recognized-only")
    assert (code, summary["num_drawings"]) == (0, NUM)
    code, error = build(lines, "--countries", "DE")
    assert code == 2
    assert "line 1: countrycode is null, expected two capital letters" in error


@pytest.mark.slow
def test_the_text_false_is_not_true(build):
    lines = lines_of(STROKES[:4], recognized="False") + lines_of(STROKES[4:], recognized="True")
    code, summary = build(lines, "--recognized-only")
    assert (code, summary["num_drawings"]) == (0, NUM - 4)


@pytest.mark.slow
def test_a_file_with_points_in_two_ways_is_refused_by_the_installed_command(tmp_path):
    write(tmp_path, lines_of([*STROKES, pairs(STROKES[0])]))
    options = ["--classes", "all", "--on-bad-row", "skip", "--store", "store"]
    command = Path(sys.executable).parent / "sketchmill"
    ran = subprocess.run(
        [command, "build", "--source", "drawings", *options],
        cwd=tmp_path,
        env={**os.environ, "SKETCHMILL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert f"line {NUM + 1} has points as pairs, the first lines as lists" in ran.stderr
    assert "Traceback" not in ran.stderr
