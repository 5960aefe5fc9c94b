"""Tables of strokes (CSV) of Kaggle's Doodle Recognition: the drawings and columns of .ndjson."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from stroke_cases import Builder, fill_with, ndjson, pictures, some_strokes

from pipelines.drawings.batch import METADATA_COLUMNS
from pipelines.sources.base import BadFileError, SourceOptions
from pipelines.sources.registry import open_reader, open_source

DRAWINGS = some_strokes(600)
COLUMNS = ["countrycode", "drawing", "key_id", "recognized", "timestamp", "word"]


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Builder:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def records(drawings: list = DRAWINGS, word: str = "bee") -> list[dict]:
    """Return drawings with Google's metadata, each with its own."""
    return [
        {
            "countrycode": ["US", "DE", ""][i % 3],
            "drawing": drawing,
            "key_id": 4_600_000_000_000_001 + 2 * i,
            "recognized": i % 4 > 0,
            "timestamp": f"2017-03-13 18:{i // 60:02d}:{i % 60:02d}.31542",
            "word": word,
        }
        for i, drawing in enumerate(drawings)
    ]


def table(rows: list[dict], columns: list[str] = COLUMNS, **options: str) -> bytes:
    """Return rows as Python's csv writes them."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, extrasaction="ignore", **options)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def of_pandas(rows: list[dict], **options: object) -> bytes:
    frame = pd.DataFrame(rows)
    frame["drawing"] = [json.dumps(drawing, separators=(",", ":")) for drawing in frame["drawing"]]
    return frame.to_csv(**options).encode()


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(root, name: str, content: bytes, columns=METADATA_COLUMNS):
    """Return class names and drawings of a source of one file, read in two parts."""
    options = SourceOptions(columns=columns)
    source = open_source(
        str(fill_with(root / "in", {name: content}) / name), None, root / "cache", options
    )
    (file,) = source.files
    parts = [open_reader(file, 28).read(*rows) for rows in ((0, 300), (300, file.rows))]
    return source, parts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bee.csv", table(records())),
        ("train_simplified_bee.csv", table(records(), lineterminator="\n")),
        ("bee.csv", of_pandas(records())),
        ("bee.csv", "\ufeff".encode() + of_pandas(records(), index=False, lineterminator="\r\n")),
        ("bee.csv", table(records(), COLUMNS[::-1], quoting=csv.QUOTE_ALL)),
        ("bee.tsv", table(records(), delimiter="\t")),
        ("bee.tsv", of_pandas(records(), sep="\t", index=False, quoting=csv.QUOTE_NONE)),
        ("bee.csv", table(records()) + b"\r\n\r\n"),
    ],
)
def test_a_table_has_the_drawings_and_columns_of_the_lines(tmp_path, name, content):
    _, expected = read(tmp_path / "plain", "bee.ndjson", lines(records()))
    source, found = read(tmp_path, name, content)
    assert source.rows_by_class() == {"bee": 600}
    for one, other in zip(found, expected, strict=True):
        assert (one.problem, one.repair) == (other.problem, other.repair) == (None, None)
        for column in ("images", *METADATA_COLUMNS):
            assert np.array_equal(getattr(one, column), getattr(other, column)), column


def test_raw_drawings_have_times_and_long_fields(tmp_path):
    raw = [
        [[[x * 3.5 for x in np.repeat(stroke[0], 900).tolist()], np.repeat(stroke[1], 900).tolist()]
         for stroke in drawing]
        for drawing in DRAWINGS[:3]
    ]  # fmt: skip
    raw = [[[*stroke, list(range(len(stroke[0])))] for stroke in drawing] for drawing in raw]
    content = table(records(raw))
    assert max(map(len, content.split(b"\n"))) > 131_072
    options = SourceOptions()
    images = []
    for name, text in (("bee.csv", content), ("bee.ndjson", lines(records(raw)))):
        root = fill_with(tmp_path / name, {name: text})
        (file,) = open_source(str(root), None, tmp_path / "cache", options).files
        assert file.format.startswith("raw")
        images.append(open_reader(file, 28).read(0, 3).images)
    assert np.array_equal(*images)
    assert images[0].any(axis=(1, 2)).all()


@pytest.mark.slow
def test_kaggle_s_folder_is_a_source_and_one_table_of_all_classes_too(build, tmp_path):
    by_class = {"sea turtle": some_strokes(30, seed=1), "bee": some_strokes(30, seed=2)}
    expected = pictures(build, tmp_path / "plain", by_class)
    folder = {
        f"train_simplified/{name}.csv": table(records(drawings, name))
        for name, drawings in by_class.items()
    }
    assert build.drawings(fill_with(tmp_path / "in", folder)) == expected
    rows = [row for name, drawings in by_class.items() for row in records(drawings, name)]
    mixed = fill_with(tmp_path / "all", {"train.csv": table(rows[::2] + rows[1::2])}) / "train.csv"
    assert build.drawings(mixed) == expected
    bees = [drawing for drawing in expected if drawing[0] == "bee"]
    assert build.drawings(mixed, "--classes", "bee") == bees
    assert "has no drawings of sun" in build.refused(mixed, "--classes", "sun")
    code, answer = build(mixed)
    assert code == 0
    assert build.manifest(answer).summary["class_names"] == ["bee", "sea turtle"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "mnist_train.csv",
            ",".join(["label", *(f"pixel{i}" for i in range(784))]).encode() + b"\n",
            "mnist_train.csv has the columns label, pixel0, pixel1, .*, ...; expected those of Kaggle",
        ),
        (
            "test_simplified.csv",
            table(records(), ["key_id", "countrycode", "drawing"]),
            "has the columns key_id, countrycode, drawing; expected .* drawing and word at least",
        ),
        ("bee.csv", table(records(), delimiter=";"), "has the columns countrycode;drawing;"),
        (
            "bee.csv",
            table([*records()[:300], records()[0] | {"timestamp": "20\n17"}, *records()[:5]]),
            "line 302 ends within quotes: write every row of the table on one line",
        ),
        ("bee.csv", table([]), "bee.csv is not a table with rows"),
        ("bee.csv", table(records(word="sun")), "line 2 is a drawing of 'sun', .* says 'bee'"),
        ("bee.csv", b"\xff\xfed\x00r\x00", "is not CSV: it is text in UTF-16"),
        ("bee.csv", b"", "bee.csv has the columns ; expected|is not CSV: it is empty"),
        ("bee.csv", b"<html>\n", "bee.csv has the columns <html>; expected"),
        (
            "bee.csv",
            table([records()[0] | {"drawing": "[[[1, 2"}]),
            r"line 2: the drawing is the text '\[\[\[1, 2', expected strokes; none of the first 1",
        ),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, name, content, message):
    with pytest.raises(BadFileError, match=message):
        read(tmp_path, name, content)


def test_a_bad_row_is_told_from_the_others(tmp_path):
    rows = table(records()).split(b"\r\n")
    rows[10] += b",more"
    rows[20] = rows[20].replace(b'"[[[', b'"[[[x')
    rows[30] = rows[30].replace(b",bee", b",sun")
    rows[40] = b"\xff" + rows[40]
    rows[50] = rows[50].replace(b"46000000000", b"4.6e15")
    _, (first, _) = read(tmp_path, "bee.csv", b"\r\n".join(rows))
    problems = {row: text for row, text in enumerate(first.problem) if text is not None}
    assert sorted(problems) == [9, 19, 29, 39, 49]
    assert problems[9] == "a row of 7 fields, expected 6"
    assert "the drawing is the text '[[[x" in problems[19]
    assert "a drawing of 'sun', the file's name says 'bee'" in problems[29]
    assert "not a row of CSV" in problems[39]
    assert "key_id is" in problems[49]


@pytest.mark.slow
def test_a_row_without_a_word_in_a_table_of_classes_is_a_bad_row(build, tmp_path):
    rows = records(DRAWINGS[:30], "bee") + records(DRAWINGS[30:60], "sun")
    rows[40] |= {"word": ""}
    path = fill_with(tmp_path / "in", {"mine.csv": table(rows)}) / "mine.csv"
    code, answer = build(path)
    assert (code, "row 40" in answer and "which names no class" in answer) == (2, True), answer
    expected = pictures(
        build, tmp_path / "plain", {"bee": DRAWINGS[:30], "sun": DRAWINGS[30:40] + DRAWINGS[41:60]}
    )
    assert build.drawings(path, "--on-bad-row", "skip", "--max-bad-rows", "1") == expected


def test_packed_tables_are_refused_with_what_to_do(build, tmp_path):
    for name, what in (("bee.csv.zip", "a zip archive"), ("bee.csv.gz", "compressed with gzip")):
        path = fill_with(tmp_path / "in", {name: b"PK"}) / name
        assert f"{name} is {what}, packed: unpack it" in build.refused(path)


def test_ndjson_and_table_of_the_same_class_are_not_both_read(build, tmp_path):
    files = {"bee.ndjson": ndjson(DRAWINGS[:9]), "bee.csv": table(records())}
    files["sun.csv"] = table(records(word="sun"))
    code, plan = build(fill_with(tmp_path / "in", files), "--dry-run")
    assert (code, plan["rows_by_class"]) == (0, {"bee": 9, "sun": 600})
