"""`sketchmill build` on sources as people have them: real files, odd files, other classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import run_command_line
from pipelines.dataset.verify import verify_dataset
from pipelines.drawings.parquet import IMAGE_TYPE
from pipelines.drawings.stored_png import encode_pngs
from pipelines.store.artifacts import open_store

NOT_STROKES = "is not Google's binary format (its size is a multiple of 784"
# What each file of QUICKDRAW_SAMPLE/odd gets: an error, or a repair that is counted.
ODD_FILES = {
    "almost_all_blank": NOT_STROKES,
    "annex_pointer": "it is a git-annex pointer",
    "html_login_page": "it is a web page, probably of a sign-in",
    "int64": {"int64 pixels": 1},
    "inverted": NOT_STROKES,
    "lfs_pointer": "it is a Git LFS pointer",
    "not_first_rows": NOT_STROKES,
    "odd_shape_N_1_28_28": "they seem noisy, or pictures of something else",
    "odd_shape_N_1_784": {"shape (1, 784)": 1},
    "pickled_object_array": "holds pickled Python objects, which sketchmill never opens",
    "python_repr_not_json": "line 1: not a drawing in JSON",
    "shifted_one_byte": NOT_STROKES,
    "truncated": "(100 whole drawings): it is truncated or damaged",
}


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command: (exit code, its JSON or its error)."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))

    def command(source: Path, *arguments: str) -> tuple[int, dict | str]:
        store = ["--store", str(tmp_path / "store"), "--json", "--quiet"]
        code = run_command_line(["build", "--source", str(source), *arguments, *store])
        said = capsys.readouterr()
        return code, said.err if code else json.loads(said.out.splitlines()[-1])

    return command


def manifest_of(result: dict, tmp_path: Path):
    store = open_store(str(tmp_path / "store"))
    return store.resolve("datasets", result["dataset"]), store


def test_every_odd_file_of_the_sample_has_its_answer(quickdraw_sample):
    assert sorted(ODD_FILES) == sorted(p.name for p in (quickdraw_sample / "odd").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(ODD_FILES))
def test_an_odd_file_is_refused_or_put_right_and_counted(case, build, tmp_path, quickdraw_sample):
    (path,) = (quickdraw_sample / "odd" / case).iterdir()
    code, answer = build(path.parent, "--classes", "all")
    expected = ODD_FILES[case]
    if isinstance(expected, str):
        assert code == 2
        assert expected in answer
        assert answer.count("\n") == 1
        return
    assert code == 0, answer
    manifest, store = manifest_of(answer, tmp_path)
    assert manifest.summary["repairs"] == expected
    rows = np.load(path).reshape(-1, 28, 28)
    assert manifest.summary["num_drawings"] == len(np.unique(rows, axis=0))
    assert verify_dataset(manifest, store) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(k for k, v in ODD_FILES.items() if isinstance(v, str)))
def test_an_odd_file_is_left_out_and_named_if_that_is_asked_for(
    case, build, tmp_path, quickdraw_sample
):
    (odd,) = (quickdraw_sample / "odd" / case).iterdir()
    good = "simplified" if odd.suffix != ".npy" else "numpy_bitmap"
    if odd.suffix == ".bin":
        good = "binary"
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(quickdraw_sample / "official" / good / f"ant{odd.suffix}", source)
    shutil.copy(odd, source)
    arguments = ["--classes", "all", "--on-bad-file", "skip", "--max-per-class", "10"]
    code, answer = build(source, *arguments)
    assert code == 0, answer
    manifest, _ = manifest_of(answer, tmp_path)
    assert [bad["file"] for bad in manifest.summary["bad_files"]] == [odd.name]
    assert manifest.summary["num_drawings"] == 10


@pytest.mark.slow
def test_classes_are_those_of_the_source_where_it_has_others(build, tmp_path):
    images = np.random.default_rng(0).integers(0, 2, (90, 28, 28), np.uint8) * 255
    images[:, :14] = 0
    pictures = [{"bytes": png.tobytes(), "path": None} for png in encode_pngs(images)]
    labels = ["dress", "shoe", "hat"] * 30
    table = pa.table({"image": pa.array(pictures, IMAGE_TYPE), "label": labels})
    (tmp_path / "fashion").mkdir()
    pq.write_table(table, tmp_path / "fashion" / "train.parquet")
    for classes, expected in [("Dress,shoe", ["dress", "shoe"]), ("all", ["dress", "hat", "shoe"])]:
        code, answer = build(tmp_path / "fashion", "--classes", classes)
        assert code == 0, answer
        assert manifest_of(answer, tmp_path)[0].summary["class_names"] == expected
    code, answer = build(tmp_path / "fashion", "--classes", "dress,bee")
    assert code == 2
    assert "has no drawings of bee; it has dress, hat, shoe (--classes all takes" in answer
    code, answer = build(tmp_path / "fashion", "--classes", "dres")
    assert "did you mean 'dress'" in answer


@pytest.mark.slow
def test_real_drawings_become_a_dataset_that_holds(build, tmp_path, quickdraw_sample):
    source = quickdraw_sample / "official" / "numpy_bitmap"
    classes = "bee,sea turtle,The Eiffel Tower,pizza"
    splits = ["--splits", "train=0.8,test=0.2", "--format", "tfrecord,parquet"]
    code, answer = build(source, "--classes", classes, "--max-per-class", "300", *splits)
    assert code == 0, answer
    manifest, store = manifest_of(answer, tmp_path)
    assert verify_dataset(manifest, store) == []
    taken = [np.load(source / f"{name}.npy")[:300] for name in classes.split(",")]
    rows = {row.tobytes() for rows in taken for row in rows}
    assert manifest.summary["num_drawings"] == len(rows)
    assert set(manifest.summary["splits"]) == {"train", "test"}
    assert 0.75 < manifest.summary["splits"]["train"] / len(rows) < 0.85


@pytest.mark.slow
def test_the_seeds_slice_of_what_is_here_is_a_slice_of_what_is_here(
    build, tmp_path, quickdraw_sample
):
    source = quickdraw_sample / "rendered" / "numpy_bitmap"
    code, answer = build(source, "--tfds-slice", "train[:1000]")
    assert code == 0, answer
    summary = manifest_of(answer, tmp_path)[0].summary
    assert summary["num_drawings"] == 1_000
    assert summary["tfds_slice"]["of"] == "the classes of the source"


def test_the_directory_one_is_in_can_be_the_source(build, tmp_path, monkeypatch, quickdraw_sample):
    (tmp_path / "Drawings of mine").mkdir()
    shutil.copy(
        quickdraw_sample / "official" / "simplified" / "bee.ndjson", tmp_path / "Drawings of mine"
    )
    monkeypatch.chdir(tmp_path / "Drawings of mine")
    code, answer = build(Path(), "--classes", "bee")
    assert (code, answer["name"]) == (0, "drawings-of-mine")
