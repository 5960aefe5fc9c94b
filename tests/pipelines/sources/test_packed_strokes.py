"""Lines of strokes under other names, packed, and of several classes in one file."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stroke_cases import Builder, fill_with, ndjson, pictures, some_strokes

from pipelines.sources.base import BadFileError
from pipelines.sources.registry import open_reader, open_source

DRAWINGS = some_strokes(600)
LINES = ndjson(DRAWINGS, word="bee")


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Builder:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


def opened(root: Path, name: str, content: bytes):
    path = fill_with(root / "in", {name: content}) / name
    return open_source(str(path), None, root / "cache")


def read(root: Path, name: str, content: bytes) -> np.ndarray:
    (file,) = opened(root, name, content).files
    return open_reader(file, 28).read(0, file.rows).images


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bee.jsonl", LINES),
        ("bee.ndjson.gz", gzip.compress(LINES)),
        ("bee.jsonl.gz", gzip.compress(LINES)),
        ("bee.ndjson.gz", gzip.compress(LINES[:9_999]) + gzip.compress(LINES[9_999:])),
        ("bee.ndjson.zst", zstd(LINES)),
        ("bee.jsonl.zst", zstd(LINES[:9_999]) + zstd(LINES[9_999:])),
        ("full_simplified_bee.ndjson.gz", gzip.compress(LINES)),
    ],
)
def test_packed_lines_are_the_same_source_as_plain_ones(tmp_path, name, content):
    plain = opened(tmp_path / "plain", "bee.ndjson", LINES)
    source = opened(tmp_path, name, content)
    assert source.rows_by_class() == {"bee": 600}
    assert source.fingerprint == plain.fingerprint
    expected = read(tmp_path / "plain", "bee.ndjson", LINES)
    assert np.array_equal(read(tmp_path, name, content), expected)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_packed_file_that_is_cut_short_or_no_such_file_is_refused(tmp_path, pack):
    name = "bee.ndjson.gz" if pack is gzip.compress else "bee.ndjson.zst"
    for content in (pack(LINES)[:-100], pack(LINES)[:-2], LINES, b"<html>"):
        with pytest.raises(BadFileError, match=f"{name} cannot be read as data of"):
            opened(tmp_path, name, content)
    with pytest.raises(BadFileError, match=rf"{name} is not .ndjson"):
        opened(tmp_path, name, pack(b"hello\n"))
    assert not list((tmp_path / "cache" / "unpacked").rglob("*.part-*"))


def test_damage_within_gzip_is_found(tmp_path):
    damaged = bytearray(gzip.compress(LINES))
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(BadFileError, match=r"bee.ndjson.gz cannot be read as data of gzip"):
        opened(tmp_path, "bee.ndjson.gz", bytes(damaged))


def test_what_unpacks_beyond_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.strokes.packed._GROWTH_BYTES", 1 << 10)
    with pytest.raises(BadFileError, match=r"unpacks to more than .* bytes, over 100 times"):
        opened(tmp_path, "bee.ndjson.gz", gzip.compress(LINES + b" " * 50_000_000))


def test_what_is_kept_is_made_again_when_it_was_changed(tmp_path):
    content = gzip.compress(LINES)
    source = opened(tmp_path, "bee.ndjson.gz", content)
    kept = Path(source.files[0].url)
    for damage in (b"", LINES[:-1] + b" "):
        kept.write_bytes(damage)
        assert opened(tmp_path, "bee.ndjson.gz", content).fingerprint == source.fingerprint
        assert kept.read_bytes() == LINES
    kept.unlink()
    assert opened(tmp_path, "bee.ndjson.gz", content).files[0].rows == 600


@pytest.mark.slow
def test_a_folder_of_plain_and_packed_classes_is_one_source(build, tmp_path):
    drawings = {"bee": DRAWINGS[:30], "sun": DRAWINGS[30:60], "sea turtle": DRAWINGS[60:90]}
    lines = {name: ndjson(strokes, word=name) for name, strokes in drawings.items()}
    files = {
        "bee.ndjson": lines["bee"],
        "sun.ndjson.gz": gzip.compress(lines["sun"]),
        "sea turtle.jsonl.zst": zstd(lines["sea turtle"]),
    }
    source = fill_with(tmp_path / "in", files)
    assert build.drawings(source) == pictures(build, tmp_path / "plain", drawings)
    fill_with(source, {"moon.jsonl": b'{"text": "no drawing"}\n'})
    assert "moon.jsonl is JSON lines without drawings" in build.refused(
        fill_with(tmp_path / "other", {"bee.ndjson": lines["bee"], "moon.jsonl": b'{"text": 1}\n'})
    )


def test_a_wrong_class_in_a_packed_file_is_told_of_the_file_itself(build, tmp_path):
    source = fill_with(tmp_path / "in", {"sun.ndjson.gz": gzip.compress(LINES)})
    answer = build.refused(source)
    assert f"{source}/sun.ndjson.gz line 1 is a drawing of 'bee'" in answer


@pytest.mark.parametrize("fields", [{}, {"word": "bee"}, {"word": None, "key_id": "x"}])
def test_own_drawings_need_no_metadata(tmp_path, fields):
    images = read(tmp_path, "bee.jsonl", ndjson(DRAWINGS, **fields))
    assert np.array_equal(images, read(tmp_path / "plain", "bee.ndjson", LINES))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.ndjson", "mine.jsonl.gz", "my drawings.ndjson.zst"])
def test_one_file_of_several_classes_is_read_by_word(build, tmp_path, name):
    drawings = {"sun": DRAWINGS[:30], "bee": DRAWINGS[30:60], "caf\u00e9": DRAWINGS[60:90]}
    rows = [(word, one) for word, strokes in drawings.items() for one in strokes]
    rows = rows[::2] + rows[1::2]
    content = b"".join(ndjson([one], word=word) for word, one in rows)
    pack = {"gz": gzip.compress, "zst": zstd}.get(name.rpartition(".")[2], bytes)
    path = fill_with(tmp_path / "in", {name: pack(content)}) / name
    code, plan = build(path, "--dry-run")
    assert (code, plan["spec"]["class_names"]) == (0, ["bee", "sun", "caf\u00e9"]), plan
    expected = pictures(build, tmp_path / "plain", drawings)
    assert build.drawings(path) == expected
    suns = [drawing for drawing in expected if drawing[0] == "sun"]
    assert build.drawings(path, "--classes", "sun") == suns
    assert "give it the name of its class" in build.refused(path.parent)


def test_words_never_contradict_the_name_of_a_class(build, tmp_path):
    mixed = LINES + ndjson(DRAWINGS[:5], word="sun")
    files = {"sun.ndjson": mixed, "bee.ndjson": mixed}
    source = fill_with(tmp_path / "in", files)
    assert "line 1 is a drawing of 'bee', the file's name says 'sun'" in build.refused(
        source / "sun.ndjson"
    )
    assert opened(tmp_path / "split", "train.ndjson", LINES).class_names == ("bee",)
    trains = opened(tmp_path / "trains", "train.ndjson", ndjson(DRAWINGS, word="train"))
    assert trains.rows_by_class() == {"train": 600}
    (file,) = open_source(str(source / "bee.ndjson"), None, tmp_path / "cache").files
    problems = open_reader(file, 28).read(0, file.rows).problem
    assert [row for row, text in enumerate(problems) if text] == list(range(600, 605))


def test_a_row_of_no_class_is_a_bad_row(tmp_path):
    lines = [json.loads(line) for line in LINES.splitlines()[:20]]
    lines[3]["word"], lines[5]["word"], lines[7]["word"] = None, " ", 7
    del lines[9]["word"]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    source = opened(tmp_path, "train.ndjson", content + b"broken\n")
    assert source.class_names == ("bee",)
    problems = open_reader(source.files[0], 28).read(0, 21).problem
    assert [row for row, text in enumerate(problems) if text] == [3, 5, 7, 9, 20]
    assert problems[7] == "the word is 7, which names no class"


def test_files_of_pictures_beside_json_lines_are_not_taken_for_strokes(build, tmp_path):
    files = {"metadata.jsonl": b'{"file_name": "a.png", "label": "bee"}\n', "labels.csv": b"a,b\n"}
    answer = build.refused(fill_with(tmp_path / "in", files))
    assert "files and is no" in answer


def test_every_file_in_google_s_folders_is_read_or_named(build, tmp_path):
    files = {
        "simplified/bee.ndjson": LINES,
        "simplified/sun.ndjson.gz": gzip.compress(ndjson(DRAWINGS[:9], word="sun")),
    }
    source = fill_with(tmp_path / "in", files)
    code, plan = build(source, "--dry-run")
    assert (code, plan["rows_by_class"]) == (0, {"bee": 600, "sun": 9}), plan
    fill_with(source, {"simplified/notes.csv": b"a,b\n"})
    assert "notes.csv is CSV without the columns drawing and word" in build.refused(source)
