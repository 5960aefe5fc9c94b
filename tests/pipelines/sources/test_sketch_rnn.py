"""Files of sketch-rnn (.npz): the drawings that .ndjson gives, and nothing is unpickled."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stroke_cases import Builder, fill_with, ndjson, pictures, some_strokes

from pipelines.sources.base import BadFileError
from pipelines.sources.registry import open_reader, open_source

DRAWINGS = some_strokes(40)


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Builder:
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def stroke_3(drawing: list, start: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return a drawing as sketch-rnn has it: offsets, and 1 where the pen is lifted."""
    points = np.concatenate([np.array(stroke).T for stroke in drawing])
    lifted = np.zeros(len(points), int)
    lifted[np.cumsum([len(stroke[0]) for stroke in drawing]) - 1] = 1
    offsets = np.diff(points, axis=0, prepend=[start])
    return np.column_stack([offsets, lifted]).astype(np.int16)


def stroke_5(drawing: list, length: int) -> np.ndarray:
    """Return a drawing as sketch-rnn's model takes it: three states of the pen, padded."""
    offsets = stroke_3(drawing)
    padded = np.zeros((length, 5))
    padded[: len(offsets), :2] = offsets[:, :2]
    padded[: len(offsets), 3] = offsets[:, 2]
    padded[: len(offsets), 2] = 1 - offsets[:, 2]
    padded[len(offsets) :, 4] = 1
    return padded


def objects(rows: list) -> np.ndarray:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def saved(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def archive(**members: bytes) -> bytes:
    """Return an .npz archive of pickles of 40 objects."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            head = io.BytesIO()
            header = {"descr": "|O", "fortran_order": False, "shape": (len(DRAWINGS),)}
            np.lib.format.write_array_header_1_0(head, header)
            file.writestr(f"{name}.npy", head.getvalue() + content)
    return sink.getvalue()


def python_2(rows: list[np.ndarray]) -> bytes:
    """Return the pickle that Python 2 and NumPy of 2017 wrote: bytes are strings, protocol 2."""
    array = b"h\x01h\x02K\x00\x85U\x01b\x87R"
    minus = b"J\xff\xff\xff\xff" * 2
    made = [b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02"]
    made.append(b"K\x00\x85U\x01b\x87Rq\x03(K\x01K%c\x85cnumpy\ndtype\nq\x04" % len(rows))
    made.append(b"U\x02O8K\x00K\x01\x87Rq\x05(K\x03U\x01|NNN" + minus + b"K?tb\x89]q\x06(")
    kind = b"h\x04U\x02i2K\x00K\x01\x87Rq\x07(K\x03U\x01<NNN" + minus + b"K\x00tb"
    for row in rows:
        content = row.astype("<i2").tobytes()
        text = b"T" + struct.pack("<i", len(content)) + content
        made.append(array + b"(K\x01K%cK\x03\x86" % len(row) + kind + b"\x89" + text + b"tb")
        kind = b"h\x07"
    return b"".join(made) + b"etb."


def rows_of(content: bytes, tmp_path: Path, name: str = "bee.npz") -> np.ndarray:
    """Return the pictures of all files of a source of one file."""
    source = open_source(
        str(fill_with(tmp_path / "in", {name: content}) / name), None, tmp_path / "cache"
    )
    return np.concatenate([open_reader(f, 28).read(0, f.rows).images for f in source.files])


@pytest.fixture
def expected(tmp_path) -> np.ndarray:
    return rows_of(ndjson(DRAWINGS), tmp_path / "plain", "bee.ndjson")


@pytest.mark.slow
def test_google_s_splits_are_merged_or_kept_and_the_drawings_are_those_of_ndjson(build, tmp_path):
    rows = [stroke_3(drawing) for drawing in DRAWINGS]
    parts = {"train": rows[:25], "valid": rows[25:33], "test": rows[33:]}
    source = fill_with(
        tmp_path / "in",
        {"sketchrnn_bee.full.npz": saved(**{name: objects(part) for name, part in parts.items()})},
    )
    plain = pictures(build, tmp_path / "plain", {"bee": DRAWINGS})
    assert build.drawings(source) == plain
    code, answer = build(source, "--splits", "source", verb="build")
    assert code == 0, answer
    counts = build.manifest(answer).summary["counts"]
    assert counts == {"train": {"bee": 25}, "validation": {"bee": 8}, "test": {"bee": 7}}
    files = build.manifest(answer).summary["source_files"]
    assert len({file["digest"] for file in files}) == 3


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_numpy_gives_the_drawings(tmp_path, expected, protocol):
    rows = objects([stroke_3(drawing) for drawing in DRAWINGS])
    content = archive(train=pickle.dumps(rows, protocol))
    assert np.array_equal(rows_of(content, tmp_path), expected)


def test_pickles_of_python_2_give_the_drawings(tmp_path, expected):
    rows = [stroke_3(drawing) for drawing in DRAWINGS]
    content = python_2(rows)
    theirs = pickle.loads(content, encoding="latin1")  # our own
    assert all(np.array_equal(one, other) for one, other in zip(theirs, rows, strict=True))
    assert np.array_equal(rows_of(archive(train=content), tmp_path), expected)


def fives() -> np.ndarray:
    return np.stack([stroke_5(drawing, 40) for drawing in DRAWINGS])


@pytest.mark.parametrize(
    "content",
    [
        lambda: saved(train=fives().astype(np.int16)),
        lambda: saved(arr_0=fives().astype(np.float32), scale=np.float64(1)),
        lambda: saved(train=objects([five.astype(np.float64) for five in fives()])),
        lambda: saved(train=objects([five.astype(">i4") for five in fives()])),
        lambda: saved(train=objects([np.asfortranarray(stroke_3(d)) for d in DRAWINGS])),
        lambda: saved(
            train=np.stack(
                [np.pad(stroke_3(d), ((0, 40 - len(stroke_3(d))), (0, 0))) for d in DRAWINGS]
            )
        ),
        # Relative to any other point: moved to the corner of the page.
        lambda: saved(train=objects([stroke_3(drawing, (128, 128)) for drawing in DRAWINGS])),
    ],
)
def test_other_ways_to_save_the_same_drawings_give_them(tmp_path, expected, content):
    assert np.array_equal(rows_of(content(), tmp_path), expected)


def test_a_drawing_within_the_page_stays_where_it_is(tmp_path):
    strokes = [[[[10, 250, 30], [7, 9, 240]], [[99, 12], [30, 31]]]]
    plain = rows_of(ndjson(strokes), tmp_path / "plain", "bee.ndjson")
    assert np.array_equal(rows_of(saved(train=objects([stroke_3(strokes[0])])), tmp_path), plain)


def test_drawings_of_another_size_are_scaled_as_those_of_ndjson_are(tmp_path):
    small = [[[[v / 51 for v in part] for part in stroke] for stroke in d] for d in DRAWINGS]
    offsets = []
    for written in DRAWINGS:
        row = stroke_3(written).astype(np.float64)
        row[:, :2] /= 51
        offsets.append(row)
    plain = rows_of(ndjson(small), tmp_path / "plain", "bee.ndjson")
    assert np.array_equal(rows_of(saved(train=objects(offsets)), tmp_path), plain)


def test_all_splits_of_a_file_are_drawn_at_one_scale(tmp_path):
    small = [[[[v // 3 for v in part] for part in stroke] for stroke in d] for d in DRAWINGS]
    rows = [stroke_3(drawing) for drawing in small]
    plain = rows_of(ndjson(small), tmp_path / "plain", "bee.ndjson")
    content = saved(train=objects(rows[:37]), test=objects(rows[37:]))
    assert np.array_equal(rows_of(content, tmp_path), plain)
    alone = rows_of(saved(test=objects(rows[37:])), tmp_path / "alone")
    assert not np.array_equal(alone, plain[37:])


@pytest.mark.slow
def test_a_row_that_is_no_drawing_is_a_bad_row(build, tmp_path):
    rows = [stroke_3(drawing) for drawing in DRAWINGS]
    odd = [np.zeros((4, 4), np.int16), np.full((3, 3), 7), [1, 2], np.full((2, 3), np.nan)]
    source = fill_with(tmp_path / "in", {"bee.npz": saved(train=objects(rows + odd))})
    code, answer = build(source)
    assert code == 2
    assert "an array (4, 4)" in answer
    plain = pictures(build, tmp_path / "plain", {"bee": DRAWINGS})
    assert build.drawings(source, "--on-bad-row", "skip", "--max-bad-rows", "4") == plain


class Harmful:
    """What a pickle may call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_not_called(build, tmp_path, protocol):
    ran = tmp_path / "ran"
    rows = objects([stroke_3(drawing) for drawing in DRAWINGS])
    rows[5] = Harmful(ran)
    source = fill_with(tmp_path / "in", {"bee.npz": archive(train=pickle.dumps(rows, protocol))})
    assert "holds pickled Python objects other than arrays" in build.refused(source)
    assert not ran.exists()


def nested(depth: int) -> bytes:
    """Return a pickle whose module is a tuple of twice a tuple of twice a tuple, and so on."""
    twice = b"".join(b"\x94h%c\x86" % place for place in range(depth))
    return b"\x80\x04)" + twice + b"\x8c\x01a\x93."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        b"\x80\x04N.",
        b"cnumpy\nndarray\n.",
        b"cnumpy\nndarray\n)R.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x02NN]tb.",
        b"\x80\x02]q\x01(h\x01h\x01h\x01e.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
        b"\x80\x04Nr\xff\xff\xff\xff0.",
        nested(60),
        b"\x80\x04" + b"\x85" * 50_000 + b"\x8c\x01a\x93.",
        pickle.dumps([1, 2]),
        pickle.dumps({"train": 1}),
        np.random.default_rng(0).bytes(4_000),
    ],
)
def test_any_other_pickle_is_refused(tmp_path, content):
    with pytest.raises(BadFileError, match=r"bee\.npz: train\.npy in it"):
        rows_of(archive(train=content), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK", "cannot be read as an .npz archive"),
        (b"<html>", "is not an .npz archive: it is a web page"),
        (
            saved(x_train=np.zeros((9, 28, 28), np.uint8), y_train=np.zeros(9)),
            r"holds x_train.npy \(9, 28, 28\) uint8, y_train.npy \(9,\) float64; expected",
        ),
        (
            saved(train=fives(), extra=fives()),
            r"holds train.npy \(40, 40, 5\) float64, extra.npy",
        ),
        (saved(train=fives().astype(np.int16))[:-400], "cannot be read as an .npz archive"),
    ],
)
def test_what_is_no_file_of_sketch_rnn_is_refused_and_described(tmp_path, content, message):
    with pytest.raises(BadFileError, match=message):
        rows_of(content, tmp_path)


def test_an_archive_that_unpacks_beyond_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.strokes.packed._GROWTH_BYTES", 1 << 10)
    big = np.zeros((3_000, 200, 5), np.int8)
    big[:, :, 2] = 1
    with pytest.raises(BadFileError, match=r"unpacks to more than .* bytes, over 100 times"):
        rows_of(saved(train=big), tmp_path)
    monkeypatch.setattr("pipelines.sources.strokes.sketch_rnn._MOST_BYTES", 1 << 10)
    rows = objects([stroke_3(drawing) for drawing in DRAWINGS])
    with pytest.raises(BadFileError, match="bytes of pickled arrays, more than 1024"):
        rows_of(saved(train=rows), tmp_path / "other")


def test_an_empty_split_keeps_its_name(tmp_path):
    rows = objects([stroke_3(drawing) for drawing in DRAWINGS])
    root = fill_with(tmp_path / "in", {"bee.npz": saved(train=rows, test=objects([]))})
    source = open_source(str(root), None, tmp_path / "cache")
    assert source.split_rows() == {"train": 40, "test": 0}
    assert source.class_names == ("bee",)


def test_google_s_folder_has_two_files_a_class_of_which_the_smaller_is_read(tmp_path):
    rows = [stroke_3(drawing) for drawing in DRAWINGS]
    files = {
        "bee.npz": saved(train=objects(rows[:9])),
        "bee.full.npz": saved(train=objects(rows)),
        "sun.full.npz": saved(train=objects(rows[:7])),
    }
    fill_with(tmp_path, {f"sketchrnn/{name}": content for name, content in files.items()})
    source = open_source(str(tmp_path), None, tmp_path / "cache")
    assert source.rows_by_class() == {"bee": 9, "sun": 7}
    full = open_source(str(tmp_path / "sketchrnn" / "bee.full.npz"), None, tmp_path / "cache")
    assert full.rows_by_class() == {"bee": 40}


def test_real_drawings_are_google_s_own_bitmaps(tmp_path, quickdraw_sample):
    official = quickdraw_sample / "official"
    lines = (official / "simplified" / "bee.ndjson").read_bytes().splitlines()
    rows = [stroke_3(json.loads(line)["drawing"]) for line in lines]
    bitmaps = np.load(official / "numpy_bitmap" / "bee.npy")[: len(rows)].reshape(-1, 28, 28)
    assert np.array_equal(rows_of(saved(train=objects(rows)), tmp_path), bitmaps)


def test_metadata_are_not_made_up(build, tmp_path):
    rows = [stroke_3(drawing) for drawing in DRAWINGS]
    source = fill_with(tmp_path / "in", {"bee.npz": saved(train=objects(rows))})
    code, answer = build(source, "--with-metadata")
    assert (code, "key_id is missing" in answer) == (2, True), answer
