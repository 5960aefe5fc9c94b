"""Values that end parsers in Python's own words: exit 2, and what was expected of which file."""

import errno
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from built import Builder, some_drawings
from mutations import DEEP, KINDS, png_of

from pipelines.store.errors import LackError, reading

MIB = 1 << 20


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def npy_with(descr: str, shape: str) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(784)


@pytest.mark.parametrize(
    ("descr", "shape", "words"),
    [
        ("'|u1'", "{}", "has the shape {}, expected (drawings, 784)"),
        ("'|u1'", "None", "has the shape None, expected (drawings, 784)"),
        ("'|u1'", "784", "has the shape 784, expected (drawings, 784)"),
        ("'|u1'", "(1, {})", "expected (drawings, 784)"),
        ("'|u1'", "((1, 784),)", "expected (drawings, 784)"),
        ("'|u1'", "(-1, 784)", "expected (drawings, 784)"),
        ("'|u1'", "(2000000000, 784)", "should have 1568000000079 bytes by its header"),
        ("'|u1'", f"({'9' * 300}, 784)", "has the shape (9999"),
        ("'|u1'", f"({'9' * 3_000}, 784)", "has the shape (9999"),
        ("'|u1'", "(True, 784)", "has the shape (True, 784)"),
        ("'|u1'", "(" * 500, "has a damaged .npy header"),
        ("'|O'", "(1, 784)", "holds pickled Python objects, which sketchmill never opens"),
        ("[]", "(1, 784)", "holds void values, expected integers 0 to 255"),
        ("('|u1', (2000000000,))", "(1, 784)", "holds void16000000000 values"),
        ("'<f8'", "(98, 1)", "holds float64 values"),
    ],
)
def test_header_of_npy_that_is_none_is_refused(build, tmp_path, descr, shape, words):
    source = tmp_path / "source"
    source.mkdir()
    (source / "bee.npy").write_bytes(npy_with(descr, shape))
    said = build.refused(source)
    assert "source/bee.npy" in said
    assert words in said


def table_of(label: pa.Array, names: str | None = None) -> pa.Table:
    pngs = [png_of(image) for image in some_drawings(len(label))]
    table = pa.table({"image": pngs, "label": label})
    if names is None:
        return table
    features = json.dumps({"info": {"features": {"label": {"names": 0}}}}).replace("0", names)
    return table.replace_schema_metadata({b"huggingface": features.encode()})


LABELS = {
    "float": (pa.array([0.5, 1e308]), None, "nothing names the numbers"),
    "decimal": (pa.array(["1.5"] * 2).cast(pa.decimal128(9, 2)), None, "holds decimal128(9, 2)"),
    "list": (pa.array([[1]] * 2), None, "holds list<element: int64>, expected names of classes"),
    "struct": (pa.array([{"a": 1}] * 2), None, "holds struct<a: int64>, expected names"),
    "binary": (pa.array([b"\xff"] * 2), None, "Invalid UTF8 payload"),
    "names that are ints": (pa.array([0, 1]), "[1, 2]", "are [1, 2], expected a list of texts"),
    "names that are null": (pa.array([0, 1]), "[null, {}]", "are [null, {}], expected a list"),
    "names in one text": (pa.array([0, 1]), '"bee"', 'are "bee", expected a list of texts'),
    "names in a dict": (pa.array([0, 1]), '{"bee": 0}', "expected a list of texts"),
    "a name twice": (pa.array([0, 1]), '["bee", "bee"]', "'bee' is the name of two classes"),
    "a surrogate": (pa.array([0, 1]), '["\\ud800", "bee"]', "is empty, is not UTF-8"),
    "nested deep": (pa.array([0, 1]), "[" * DEEP, "`huggingface` cannot be read as features"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_name_no_class_are_refused(build, tmp_path, case):
    label, names, words = LABELS[case]
    (tmp_path / "source").mkdir()
    pq.write_table(table_of(label, names), tmp_path / "source" / "train.parquet")
    said = build.refused(tmp_path / "source")
    assert "source" in said
    assert words in said


def test_numbers_that_are_no_label_are_bad_rows(build, tmp_path):
    (tmp_path / "source").mkdir()
    label = pa.array([0.5, 1e308, float("nan"), *[0.0, 1.0] * 5])
    pq.write_table(table_of(label, '["bee", "sun"]'), tmp_path / "source" / "train.parquet")
    code, answer = build(tmp_path / "source", "--on-bad-row", "skip")
    assert code == 0, answer
    assert sum(answer["drawings"].values()) == 10
    code, said = build(tmp_path / "source")
    assert code == 2
    assert "train.parquet row 0: label is 0.5, expected 0 to 1 (3 unreadable of 13 rows)" in said


def test_values_of_1e308_are_bad_rows_without_a_warning(build, tmp_path):
    (tmp_path / "source").mkdir()
    file = KINDS["simplified"].write(tmp_path / "source")
    lines = file.read_text().splitlines()
    odd = [json.loads(line) for line in lines[:2]]
    odd[0]["drawing"][0][0][0] = 1e308
    odd[1]["timestamp"] = 1e308
    file.write_text("\n".join([*lines, *map(json.dumps, odd)]))
    code, answer = build(tmp_path / "source", "--with-metadata", "--on-bad-row", "skip")
    assert code == 0, answer
    assert sum(answer["drawings"].values()) == len(lines)
    code, said = build(tmp_path / "source", "--with-metadata")
    assert code == 2
    assert f"bee.ndjson line {len(lines) + 1}: a coordinate is 1e+308" in said


@pytest.mark.slow
def test_a_name_that_is_not_utf8_stops_only_who_wants_it(build, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    good = KINDS["npy"].write(folder)
    shutil.copy(good, folder / os.fsdecode(b"caf\xe9.npy"))
    code, found = build(folder, "--classes", "bee")
    assert code == 0
    repeats = build.store / build.manifest(found).prefix / "build.toml"
    assert (
        "# --source is left out: it is not UTF-8, as a TOML file must be\n" in repeats.read_text()
    )
    said = build.refused(folder)
    assert r"class name 'caf\udce9' is empty, is not UTF-8" in said


@pytest.mark.slow
def test_memory_that_runs_out_is_said_in_a_sentence(tmp_path):
    (tmp_path / "source").mkdir()
    KINDS["npy"].write(tmp_path / "source")
    done = run_limited(tmp_path, 260)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("sketchmill: memory ran out: give this process more")
    assert done.stderr.count("\n") == 1


def test_memory_and_threads_that_run_out_blame_no_file():
    for error, words in [
        (MemoryError(), "bee.npy cannot be read: memory ran out"),
        (RuntimeError("can't start new thread"), "bee.npy cannot be read: no more threads"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "bee.npy cannot be read: memory"),
    ]:
        with pytest.raises(LackError, match=words), reading("bee.npy"):
            raise error


@pytest.mark.slow
def test_one_value_that_stands_for_many_rows_takes_little_memory(tmp_path):
    (tmp_path / "source").mkdir()
    table = pa.table({"image": [bytes(2 * MIB)] * 200, "label": ["x" * MIB] * 200})
    pq.write_table(table, tmp_path / "source" / "train.parquet", compression="zstd")
    done = run_limited(tmp_path, 2_500)
    assert done.returncode == 2, done.stderr
    assert "train.parquet row 0" in done.stderr


@pytest.mark.slow
def test_a_picture_of_a_gigabyte_is_refused_by_what_its_row_group_says(tmp_path):
    (tmp_path / "source").mkdir()
    table = pa.table({"image": [b"", bytes(512 * MIB)], "label": ["bee"] * 2})
    pq.write_table(table, tmp_path / "source" / "train.parquet", compression="zstd")
    done = run_limited(tmp_path, 3_000)
    assert done.returncode == 2, done.stderr
    assert "bytes in the 2 rows of a row group" in done.stderr


def run_limited(folder: Path, mib: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Build `source` with the installed command in so much memory."""
    program = str(Path(sys.executable).with_name("sketchmill"))
    return subprocess.run(
        [program, "build", "--source", "source", "--classes", "all", "--quiet", *more],
        cwd=folder,
        # OpenBLAS takes memory for each core, and ends the process itself where there is none.
        env=os.environ | {"SKETCHMILL_CACHE": str(folder / "cache"), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * MIB, mib * MIB)),
    )
