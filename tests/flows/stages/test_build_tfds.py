"""`sketchmill build` on what TFDS has prepared, as people have it: versions, formats, damage."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, named, some_drawings
from prepared import (
    CLASS_LABEL,
    CORE,
    NAMES,
    pngs_of,
    write_tfds,
)

from flows.cli import run_command_line

pytestmark = [
    pytest.mark.slow,
    # TFDS's own calls of protobuf and NumPy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


WHOLE_NUMBER = {
    "pythonClassName": CORE + "scalar.Scalar",
    "tensor": {"shape": {}, "dtype": "int64", "encoding": "none"},
}


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def expected(images: np.ndarray, labels: list[int], names=NAMES) -> list[tuple[str, bytes]]:
    return named(images, [names[label] for label in labels])


@pytest.mark.parametrize("records", ["tfrecord", "array_record"])
def test_every_drawing_of_a_prepared_folder_has_its_own_class(build, tmp_path, records):
    # More than one read, so that the batches of a split follow each other.
    images, labels = some_drawings(2_500), [i % 2 for i in range(2_500)]
    folder = write_tfds(tmp_path / "1.0.0", pngs_of(images), labels, records=records)
    code, plan = build(folder, "--dry-run")
    assert (code, plan["rows"]) == (0, 2_500), plan
    assert build.drawings(folder) == expected(images, labels)
    assert build.drawings(folder, "--classes", "Sun") == expected(images[1::2], labels[1::2])


def test_of_several_versions_the_newest_is_taken_or_the_one_that_is_named(build, tmp_path):
    old, new = some_drawings(20, 1), some_drawings(20, 2)
    # 10 is newer than 9, though not in the order of text.
    write_tfds(tmp_path / "data" / "mine" / "9.0.0", pngs_of(old), [0, 1] * 10)
    write_tfds(tmp_path / "data" / "mine" / "10.0.0", pngs_of(new), [0, 1] * 10)
    for source, images in [("mine", new), (".", new), ("mine/9.0.0", old)]:
        found = build.drawings(tmp_path / "data" / source, "--name", "any")
        assert found == expected(images, [0, 1] * 10), source
    _, answer = build(tmp_path / "data" / "mine")
    assert build.manifest(answer).summary["source"] == "mine/10.0.0"
    write_tfds(tmp_path / "data" / "other" / "1.0.0", pngs_of(old), [0, 1] * 10)
    answer = build.refused(tmp_path / "data")
    assert "mine/10.0.0, mine/9.0.0, other/1.0.0; give one as the source" in answer


def test_numbers_mean_what_the_file_of_names_says_and_nothing_without_it(build, tmp_path):
    images, labels = some_drawings(20), [0, 1] * 10
    for label in (CLASS_LABEL, WHOLE_NUMBER):
        root = tmp_path / label["pythonClassName"]
        folder = write_tfds(root / "named" / "1.0.0", pngs_of(images), labels, label=label)
        assert build.drawings(folder) == expected(images, labels)
        folder = write_tfds(
            root / "nameless" / "1.0.0", pngs_of(images), labels, label=label, names=None
        )
        answer = build.refused(folder)
        assert "has no label.labels.txt, so its labels have no names: write one" in answer


def test_more_names_than_classes_are_not_guessed_at(build, tmp_path):
    names = ("ant", *NAMES)
    folder = write_tfds(tmp_path / "1.0.0", pngs_of(some_drawings(4)), [0, 1] * 2, names=names)
    assert "has 3 names for the 2 classes of features.json" in build.refused(folder)


def test_rows_that_are_no_drawings_are_named_and_left_out_if_that_is_asked_for(build, tmp_path):
    images, labels = some_drawings(30), [0, 1] * 15
    pngs = pngs_of(images)
    pngs[7] = pngs[20] = b"no picture"
    labels[12] = 2
    folder = write_tfds(tmp_path / "mine" / "1.0.0", pngs, labels)
    code, answer = build(folder)
    assert code == 2
    assert "--on-bad-row skip" in answer
    code, answer = build(folder, "--on-bad-row", "skip")
    assert code == 0, answer
    good = [i for i in range(30) if i not in (7, 12, 20)]
    assert build.drawings(folder, "--on-bad-row", "skip") == expected(
        images[good], [labels[i] for i in good]
    )
    bad = build.manifest(answer).summary["bad_rows"]
    assert [each["place"] for each in bad] == ["row 7", "row 12", "row 20"]


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def link_away(folder: Path) -> None:
    path = folder / "mine-train.tfrecord-00001-of-00002"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/shard")


def cut(folder: Path) -> None:
    path = folder / "mine-train.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-10])


def more_in_the_list(folder: Path) -> None:
    text = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(text.replace('["10", "10"]', '["10", "12"]'))


def blank_first_name(folder: Path) -> None:
    (folder / "label.labels.txt").write_text("\nsun\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("mine-train.tfrecord-00001-of-00002"), "00001-of-00002: it is not there"),
        (link_away, "run `git annex get`"),
        (cut, "damaged records: "),
        (more_in_the_list, "expected to contain 22 elements but contained only 20"),
        (
            lambda folder: (folder / "dataset_info.json").write_text("{"),
            "cannot be read as a dataset that TFDS has prepared: Failed to load JSON",
        ),
        (remove("features.json"), "records without features.json, which say how to read them"),
        (remove("dataset_info.json"), "records without dataset_info.json"),
        (blank_first_name, "label.labels.txt, line 1: expected the name of label 0"),
    ],
)
def test_what_is_missing_or_damaged_is_named(build, tmp_path, damage, message):
    folder = write_tfds(tmp_path / "mine" / "1.0.0", pngs_of(some_drawings(20)), [0, 1] * 10)
    damage(folder)
    code, answer = build(folder)
    assert (code, answer.count("\n")) == (2, 1), answer
    assert message in answer


def test_of_pictures_in_color_no_channel_is_taken_for_the_drawing(build, tmp_path):
    for channels in (3, 4):
        folder = write_tfds(
            tmp_path / f"{channels}.0.0", pngs_of(some_drawings(4)), [0, 1] * 2, channels=channels
        )
        answer = build.refused(folder)
        assert f"shape (28, 28, {channels}) and uint8, expected" in answer


def test_records_of_another_format_are_refused_by_its_name(build, tmp_path):
    folder = write_tfds(
        tmp_path / "1.0.0", pngs_of(some_drawings(4)), [0, 1] * 2, records="riegeli"
    )
    assert "records in the format riegeli, expected tfrecord or array_record" in build.refused(
        folder
    )


def test_a_chain_starts_from_a_prepared_folder(build, tmp_path):
    folder = write_tfds(tmp_path / "mine" / "1.0.0", pngs_of(some_drawings(20)), [0, 1] * 10)
    code, answer = build(folder, "--dry-run", verb="run")
    assert code == 0, answer


@pytest.mark.parametrize("format_", ["png", "raw"])
def test_our_own_records_are_read_back(build, tmp_path, format_):
    images, labels = some_drawings(60), [0, 1] * 30
    folder = write_tfds(tmp_path / "mine" / "1.0.0", pngs_of(images), labels)
    code, first = build(folder, "--format", "tfrecord", "--tfrecord-images", format_)
    assert code == 0, first
    records = build.store / build.manifest(first).prefix
    assert build.drawings(records, "--name", "back") == expected(images, labels)


def test_an_export_for_tfds_is_read_back_from_its_root(build, tmp_path, capsys):
    images, names = some_drawings(40), ("my sketch", "caf\u00e9")
    folder = write_tfds(tmp_path / "1.0.0", pngs_of(images), [0, 1] * 20, names=names)
    code, answer = build(folder, "--name", "mine")
    assert code == 0, answer
    store = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--quiet"]
    assert run_command_line(["export", "mine", "--format", "tfds", *store]) == 0
    capsys.readouterr()
    assert build.drawings(tmp_path / "out", "--name", "back") == expected(
        images, [0, 1] * 20, names
    )
