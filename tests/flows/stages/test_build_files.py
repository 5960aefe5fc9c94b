"""`sketchmill build` on folders as people fill them: copies, links, two kinds, odd headers."""

import gzip
import io
import struct
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, fill_with, named, parquet_of, some_drawings

from flows.cli import run_command_line
from pipelines.sources.doodles.make import google_npy, write_doodles
from pipelines.sources.registry import open_reader, open_source

IMAGES = some_drawings(30)
NPY = google_npy(IMAGES)


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


@pytest.fixture(scope="module")
def strokes(tmp_path_factory) -> Path:
    """A folder of strokes of bees and suns, and the bitmaps beside it."""
    return write_doodles(tmp_path_factory.mktemp("doodles"), ("bee", "sun"), per_class=30)


def fill(root: Path, **files: bytes) -> Path:
    return fill_with(root, files)


@pytest.mark.parametrize(
    "copy",
    ["bee (1)", "bee(2)", "bee 2", "bee copy", "bee copy 3", "bee - Copy", "Copy of bee", "Bee"],
)
def test_a_second_copy_of_a_file_is_no_class_of_its_own(build, tmp_path, copy):
    source = fill_with(tmp_path / "in", {"bee.npy": NPY, f"{copy}.npy": NPY, "sun.npy": NPY})
    answer = build.refused(source)
    assert "has 2 files of class" in answer
    assert f"{copy}.npy" in answer
    code, plan = build(source, "--classes", "sun", "--dry-run")
    assert (code, plan["rows_by_class"]) == (0, {"sun": 30})


@pytest.mark.parametrize(
    ("file", "class_name"),
    [
        ("bee (1)", "bee"),
        ("sea+turtle", "sea turtle"),
        ("sea%20turtle", "sea turtle"),
        ("full_numpy_bitmap_sea turtle", "sea turtle"),
        ("mine (1)", "mine (1)"),
        ("C++", "C++"),
        ("100%", "100%"),
        (unicodedata.normalize("NFD", "caf\u00e9"), "caf\u00e9"),
    ],
)
def test_a_file_name_means_one_class(build, tmp_path, file, class_name):
    source = fill_with(tmp_path / "in", {f"{file}.npy": NPY})
    for classes in ("all", class_name, unicodedata.normalize("NFD", class_name)):
        code, plan = build(source, "--dry-run", "--classes", classes)
        assert (code, plan["rows_by_class"]) == (0, {class_name: 30}), plan


def test_two_forms_of_one_name_are_two_files_of_one_class(build, tmp_path):
    forms = {unicodedata.normalize(form, "caf\u00e9.npy"): NPY for form in ("NFC", "NFD")}
    assert "has 2 files of class 'caf\u00e9'" in build.refused(fill_with(tmp_path / "in", forms))


def test_what_systems_leave_behind_is_no_class(build, tmp_path):
    files = {"bee.npy": NPY, "._bee.npy": b"\x00\x05\x16\x07", ".DS_Store": b"x"}
    files[".ipynb_checkpoints/bee-checkpoint.npy"] = NPY
    code, plan = build(fill_with(tmp_path / "in", files), "--dry-run")
    assert (code, plan["rows_by_class"]) == (0, {"bee": 30})


@pytest.mark.parametrize(
    ("target", "hint"),
    [(".git/annex/objects/x/bee.npy", "run `git annex get`"), ("/far/bee.npy", "copy what it")],
)
def test_a_link_that_leads_nowhere_is_named_with_its_target(build, tmp_path, target, hint):
    source = fill(tmp_path / "in", **{"sun.npy": NPY})
    (source / "bee.npy").symlink_to(target)
    answer = build.refused(source)
    assert f"bee.npy: it is a link to {target}, which is not there: {hint}" in answer
    code, plan = build(source, "--dry-run", "--on-bad-file", "skip")
    assert (code, plan["rows_by_class"]) == (0, {"sun": 30})
    (source / "sun.npy").unlink()
    (source / "bee.npy").rename(source / "bee.parquet")
    assert f"it is a link to {target}" in build.refused(source, "--classes", "bee")


@pytest.mark.slow
def test_each_class_is_read_from_the_kind_of_file_that_has_it(build, tmp_path, strokes):
    lines = (strokes / "simplified" / "sun.ndjson").read_bytes()
    source = fill_with(tmp_path / "in", {"bee.npy": NPY, "sun.ndjson": lines})
    found = build.drawings(source)
    assert [each for each in found if each[0] == "bee"] == named(IMAGES, ["bee"] * 30)
    assert len(found) == 60
    assert "bee.npy holds bitmaps of 28x28; only strokes can be drawn at 32" in build.refused(
        source, "--image-size", "32"
    )
    code, plan = build(source, "--dry-run", "--image-size", "32", "--classes", "sun")
    assert (code, plan["rows_by_class"]) == (0, {"sun": 30})


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("sun.npz", "an .npz archive that has not the drawings of sketch-rnn"),
        ("train.csv", "CSV without the columns drawing and word"),
        ("sun.npy.gz", "compressed with gzip"),
        ("sun.csv.zip", "a zip archive"),
        ("sun.jsonl", "JSON lines without drawings"),
        ("sun.jsonl.gz", "JSON lines without drawings"),
        ("sun.png", "a picture"),
        ("sun.NPY", "read only if its name ends in .npy"),
        ("sun.npy.1", "a copy that some tool numbered"),
        ("sun.npy.crdownload", "an unfinished download"),
    ],
)
def test_a_file_of_another_kind_is_not_left_out_without_a_word(build, tmp_path, file, message):
    source = fill_with(tmp_path / "in", {"bee.npy": NPY, file: b"x", "README.md": b"x"})
    assert f"{file} is {message}" in build.refused(source)
    for arguments in (["--classes", "bee"], ["--on-bad-file", "skip"]):
        code, plan = build(source, "--dry-run", *arguments)
        assert (code, plan["rows_by_class"]) == (0, {"bee": 30}), plan
    (source / "bee.npy").unlink()
    assert f"{file} is {message}" in build.refused(source, "--classes", "bee")


@pytest.mark.parametrize("below", ["numpy_bitmap/sun.npy", "train.parquet", "data/a.parquet"])
def test_a_stray_file_above_a_real_folder_is_refused_with_both_places(build, tmp_path, below):
    content = NPY if below.endswith(".npy") else parquet_of(IMAGES, ["sun"] * 30)
    source = fill_with(tmp_path / "in", {"bee.npy": NPY, below: content})
    answer = build.refused(source)
    assert "can be read in 2 ways: .npy in " in answer
    assert str((source / below).parent if content == NPY else "parquet in") in answer
    assert "give the one that is meant" in answer


def test_one_file_is_a_source(build, tmp_path, strokes):
    simplified = (strokes / "simplified" / "sun.ndjson").read_bytes()
    drawing = struct.pack("<Q2sBIHH3B3B", 1, b"US", 1, 1_488_000_000, 1, 3, 0, 255, 9, 0, 200, 7)
    binary = drawing * 30
    files = {"bee (1).npy": NPY, "sun.ndjson": simplified, "sun.bin": binary, "README.md": b"x"}
    source = fill_with(tmp_path / "in", files | {"bee.npz": b"PK"})
    for file, name in [("bee (1).npy", "bee"), ("sun.ndjson", "sun"), ("sun.bin", "sun")]:
        code, plan = build(source / file, "--dry-run")
        assert code == 0, plan
        assert plan["rows_by_class"] == {name: 30}
    assert "bee.npz cannot be read as an .npz archive" in build.refused(source / "bee.npz")
    assert "a source is one .npy, .ndjson," in build.refused(source / "README.md")
    assert "it has sun" in build.refused(source / "sun.bin", "--classes", "bee")


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("bee.npy", NPY)
    return sink.getvalue()


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("bee.npy"), io.BytesIO())
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(NPY), "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed with zstd"),
        (zipped(), "a zip archive"),
        (tarred(), "a tar archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (parquet_of(IMAGES, ["bee"] * 30), "Parquet: name it .parquet"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    ],
)
def test_a_file_under_a_wrong_name_is_told_by_its_first_bytes(build, tmp_path, content, message):
    for file in ("bee.npy", "bee.ndjson"):
        source = fill_with(tmp_path / file, {file: content})
        assert f"it is {message}" in build.refused(source), file


def saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array(sink, array, version)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            saved(IMAGES / 255),
            "float64 values of 0 to 1, expected integers 0 to 255: save (255 * x)",
        ),
        (
            saved(IMAGES.astype("f4")),
            "float32 values of 0 to 255, expected integers 0 to 255: save x.",
        ),
        (saved(IMAGES / 127.5 - 1), "of -1 to 1, expected integers 0 to 255: scale them"),
        (
            saved(np.zeros(3, [("x", "u1"), ("y", "u1")])),
            "holds records of x, y, expected drawings",
        ),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': broken", 'it begins with b"\\x93NUMPY\\x01\\x00'),
        (NPY.replace(b"'|u1'", b"'|q9'"), "it says {'descr': '|q9'"),
    ],
)
def test_a_header_that_cannot_be_read_says_what_it_holds(build, tmp_path, content, message):
    assert message in build.refused(fill_with(tmp_path / "in", {"bee.npy": content}))


VARIATIONS = {
    "|u1": lambda images: images,
    "<i2": lambda images: images.astype("<i2"),
    ">u4": lambda images: images.astype(">u4"),
    "|b1": lambda images: images > 0,
}
SHAPES = [(-1, 784), (-1, 28, 28), (-1, 1, 28, 28), (-1, 28, 28, 1), (-1, 1, 784)]


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(sorted(VARIATIONS)),
    shape=st.sampled_from(SHAPES),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    count=st.integers(1, 90),
)
def test_whatever_way_an_array_is_saved_its_drawings_are_the_same(
    tmp_path_factory, kind, shape, version, count
):
    images, root = some_drawings(count), tmp_path_factory.mktemp("npy")
    array = VARIATIONS[kind](images).reshape(shape)
    fill_with(root, {"bee.npy": saved(array, version)})
    source = open_source(str(root), None, root / "cache")
    reader = open_reader(source.files[0], 28)
    expected = images if kind != "|b1" else (images > 0) * np.uint8(255)
    assert np.array_equal(reader.read(0, count).images, expected)
    rows = np.arange(0, count, 2)
    assert np.array_equal(reader.read_rows(rows), expected[rows])
    assert bool(source.repairs) == (kind != "|u1" or 1 in array.shape[1:])


def test_numpy_of_python_2_wrote_long_numbers(build, tmp_path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (30L, 784L), }".ljust(69) + "\n"
    content = NPY[:8] + b"\x46\x00" + header.encode() + IMAGES.tobytes()
    code, plan = build(fill_with(tmp_path / "in", {"bee.npy": content}), "--dry-run")
    assert (code, plan["rows_by_class"]) == (0, {"bee": 30}), plan


@pytest.fixture
def exported(build, tmp_path, capsys):
    """Return a function that exports drawings of odd names in some formats; the folder."""
    names = ["my sketch", "caf\u00e9", "bread, white", "Sun", "sun"] * 6
    source = fill(tmp_path / "tables", **{"a.parquet": parquet_of(IMAGES, names)})
    assert build.drawings(source, "--name", "own") == named(IMAGES, names)

    def export(*formats: str) -> Path:
        where = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--quiet"]
        assert run_command_line(["export", "own", "--format", ",".join(formats), *where]) == 0
        capsys.readouterr()
        return tmp_path / "out"

    return export, named(IMAGES, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "folders"),
    [("numpy_bitmap", (".", "numpy_bitmap")), ("hf", (".", "hf")), ("png", (".", "png"))],
)
def test_an_export_is_read_back_under_the_names_it_had(build, exported, format_, folders):
    export, expected = exported
    root = export(format_)
    for folder in folders:
        assert build.drawings(root / folder, "--name", "back") == expected, folder


@pytest.mark.slow
def test_of_two_exports_in_one_folder_the_one_meant_is_asked_for(build, exported):
    export, expected = exported
    root = export("numpy_bitmap", "hf")
    assert "can be read in 2 ways: .npy in " in build.refused(root)
    assert build.drawings(root / "numpy_bitmap", "--name", "back") == expected
