"""`sketchmill build` on Parquet of strokes gives the drawings of the same strokes in .ndjson.

The files are written by pyarrow, Polars and `datasets`, as google/quickdraw has them on the Hub.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))

from built import Builder

from pipelines.store.artifacts import open_store

pytestmark = pytest.mark.slow

NAMES = ("bee", "sea turtle")
SAMPLE = os.environ.get("QUICKDRAW_SAMPLE")
Record = dict[str, Any]


def some_records(count: int, *, is_raw: bool = False, seed: int = 0) -> list[Record]:
    """Return drawings as lines of .ndjson have them: wandering strokes, in halves of pixels if raw."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        strokes = []
        for _ in range(rng.integers(1, 6)):
            steps = rng.integers(-25, 26, (2, rng.integers(2, 30)))
            x, y = np.clip(128 + steps.cumsum(axis=1), 0, 255).tolist()
            if is_raw:
                times = sorted(rng.integers(0, 9_999, len(x)).tolist())
                strokes.append([[v * 2.5 for v in x], [v * 2.5 + 7 for v in y], times])
            else:
                strokes.append([x, y])
        records.append(
            {
                "word": NAMES[number % 2],
                "countrycode": ("US", "DE", "SE")[number % 3],
                "timestamp": f"2017-03-{number % 28 + 1:02d} 00:28:58.855880 UTC",
                "recognized": number % 4 > 0,
                "key_id": str(5_201_136_883_597_312 + number),
                "drawing": strokes,
            }
        )
    return records


SIMPLE, RAW = some_records(40), some_records(40, is_raw=True, seed=1)


def write_lines(folder: Path, records: list[Record]) -> Path:
    folder.mkdir()
    for name in NAMES:
        lines = [json.dumps(record) for record in records if record["word"] == name]
        (folder / f"{name}.ndjson").write_text("\n".join(lines) + "\n")
    return folder


def named_lists(strokes: list) -> list[Record]:
    return [dict(zip("xyt", stroke, strict=False)) for stroke in strokes]


def of_lists(kind: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def columns_of(records: list[Record], drawing: pa.Array) -> dict[str, Any]:
    columns = {name: [record[name] for record in records] for name in records[0]}
    return columns | {"drawing": drawing}


def as_structs(path: Path, records: list[Record]) -> None:
    """As `datasets` writes lists of features since version 4."""
    rows = [named_lists(record["drawing"]) for record in records]
    pq.write_table(pa.table(columns_of(records, pa.array(rows))), path, row_group_size=7)


def as_sequence(path: Path, records: list[Record]) -> None:
    """As `datasets` wrote Sequence({"x": ..., "y": ...}) before: a struct of lists of lists."""
    parts = [
        dict(zip("xyt", map(list, zip(*r["drawing"], strict=True)), strict=False)) for r in records
    ]
    kinds = {"x": pa.float32(), "y": pa.float32(), "t": pa.int32()}
    fields = [pa.field(name, of_lists(kinds[name], 2)) for name in parts[0]]
    drawing = pa.array(parts, pa.struct(fields))
    pq.write_table(pa.table(columns_of(records, drawing)), path)


def as_lists(path: Path, records: list[Record]) -> None:
    kind = of_lists(pa.float64() if len(records[0]["drawing"][0]) > 2 else pa.int16(), 3)
    drawing = pa.array([record["drawing"] for record in records], kind)
    pq.write_table(pa.table(columns_of(records, drawing)), path)


def as_text(path: Path, records: list[Record]) -> None:
    drawing = [json.dumps(record["drawing"]) for record in records]
    pl.DataFrame(columns_of(records, drawing)).write_parquet(path)


def as_datasets(path: Path, records: list[Record]) -> None:
    """As google/quickdraw has them."""
    datasets = pytest.importorskip("datasets")
    value = datasets.Value
    stroke = {"x": datasets.List(value("float32")), "y": datasets.List(value("float32"))}
    if len(records[0]["drawing"][0]) > 2:
        stroke["t"] = datasets.List(value("int32"))
    features = {
        "key_id": value("string"),
        "word": datasets.ClassLabel(names=list(NAMES)),
        "recognized": value("bool"),
        "timestamp": value("timestamp[us, tz=UTC]"),
        "countrycode": value("string"),
        "drawing": datasets.List(stroke),
    }
    times = [np.datetime64(record["timestamp"].removesuffix(" UTC"), "us") for record in records]
    drawing = [named_lists(record["drawing"]) for record in records]
    columns = columns_of(records, drawing) | {"timestamp": pa.array(times).to_pylist()}
    made = datasets.Dataset.from_dict(
        {name: columns[name] for name in features}, datasets.Features(features)
    )
    made.to_parquet(path)


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Builder:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


@pytest.mark.parametrize("records", [SIMPLE, RAW], ids=["simplified", "raw"])
@pytest.mark.parametrize("write", [as_structs, as_sequence, as_lists, as_text, as_datasets])
def test_strokes_are_drawn_as_those_of_ndjson(
    build, tmp_path, write: Callable[[Path, list[Record]], None], records
):
    lines = write_lines(tmp_path / "lines", records)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "train-00000-of-00001.parquet", records)
    drawn = build.drawings(tmp_path / "in")
    assert len(drawn) == 40
    assert drawn == build.drawings(lines)


def table_of(build: Builder, source: Path, *arguments: str) -> list[Record]:
    code, result = build(source, "--with-metadata", *arguments)
    assert code == 0, result
    manifest = open_store(str(build.store)).resolve("datasets", result["dataset"])
    paths = [entry.path for entry in manifest.files if entry.path.endswith(".parquet")]
    tables = [pq.read_table(build.store / manifest.prefix / path) for path in paths]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["key_id"])


@pytest.mark.parametrize("write", [as_structs, as_datasets])
def test_metadata_and_other_sizes_are_those_of_ndjson(build, tmp_path, write):
    lines = write_lines(tmp_path / "lines", RAW)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.parquet", RAW)
    options = ("--image-size", "64", "--recognized-only")
    rows = table_of(build, tmp_path / "in", *options)
    assert len(rows) == 30
    assert rows == table_of(build, lines, *options)
    assert rows[0]["key_id"] == 5_201_136_883_597_313
    assert rows[0]["country_code"] == "DE"


@pytest.mark.skipif(SAMPLE is None, reason="QUICKDRAW_SAMPLE is not set")
@pytest.mark.parametrize("kind", ["raw", "simplified"])
def test_google_s_own_drawings_are_drawn_as_from_their_files(build, tmp_path, kind):
    lines = []
    for path in sorted((Path(SAMPLE) / "official" / kind).glob("*.ndjson"))[:2]:
        found = path.read_text().splitlines()[:60]
        lines += found
        (tmp_path / "lines").mkdir(exist_ok=True)
        (tmp_path / "lines" / path.name).write_text("\n".join(found) + "\n")
    records = [json.loads(line) for line in lines]
    (tmp_path / "in").mkdir()
    as_structs(tmp_path / "in" / "a.parquet", records)
    drawn = build.drawings(tmp_path / "in")
    assert len(drawn) > 40
    assert drawn == build.drawings(tmp_path / "lines")


def test_points_as_pairs_and_a_page_of_another_size_are_told_by_the_first_rows(build, tmp_path):
    pairs = [
        record | {"drawing": [[[x * 3, y * 3] for x, y in zip(*s, strict=True)] for s in strokes]}
        for record in SIMPLE
        if (strokes := record["drawing"])
    ]
    lines = write_lines(tmp_path / "lines", pairs)
    (tmp_path / "in").mkdir()
    drawing = pa.array([record["drawing"] for record in pairs], of_lists(pa.int64(), 3))
    pq.write_table(pa.table(columns_of(pairs, drawing)), tmp_path / "in" / "a.parquet")
    assert build.drawings(tmp_path / "in") == build.drawings(lines)
    repaired = build(tmp_path / "in")[1]["repaired"]
    assert any("points as pairs" in what for what in repaired), repaired


def test_rows_that_are_no_strokes_are_bad_ones(build, tmp_path):
    rows: list = [named_lists(record["drawing"]) for record in SIMPLE]
    rows[3] = None
    rows[4] = [{"x": [1, 2, 3], "y": [1, 2]}]
    rows[5] = [{"x": [1, None], "y": [1, 2]}]
    rows[6] = [{"x": [1, 2], "y": None}]
    rows[7] = [{"x": [5_000_000, 2], "y": [1, 2]}]
    rows[8] = [{"x": list(range(256)) * 90, "y": list(range(256)) * 90}]
    (tmp_path / "in").mkdir()
    table = pa.table(columns_of(SIMPLE, pa.array(rows)))
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    code, error = build(tmp_path / "in")
    assert code == 2
    assert "a.parquet row 4: a stroke has 2 lists of 3 and 2 numbers, expected x and y" in error
    code, result = build(tmp_path / "in", "--on-bad-row", "skip")
    assert code == 0, result
    summary = build.manifest(result).summary
    found = {row["place"]: row["found"] for row in summary["bad_rows"]}
    assert summary["num_bad_rows"] == 6
    assert found["row 3"] == "the drawing is null, expected a list of strokes"
    assert found["row 5"] == "a coordinate is null, expected a number"
    assert found["row 8"] == "23040 points, more than --max-points 20000"


def test_a_struct_whose_lists_are_of_different_lengths_is_a_bad_row(build, tmp_path):
    parts = [
        dict(zip("xy", map(list, zip(*r["drawing"], strict=True)), strict=False)) for r in SIMPLE
    ]
    parts[2]["y"] = parts[2]["y"] + [[1, 2]]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(columns_of(SIMPLE, pa.array(parts))), tmp_path / "in" / "a.parquet")
    code, error = build(tmp_path / "in")
    assert code == 2
    assert "row 2: x, y have [" in error
