"""`sketchmill build` on files that are made to take all memory: refused, in a process below 1 GiB."""

import functools
import io
import itertools
import json
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from measured import Ran, run_measured

from pipelines.drawings.limits import DEFAULT
from pipelines.drawings.stored_png import encode_pngs
from pipelines.drawings.tfrecord import example, frame
from pipelines.sources.registry import open_reader, open_source

GIB = 1 << 30
FEATURES = "tensorflow_datasets.core.features"
RECORDS = "mine-train.tfrecord-00000-of-00001"

GOOD_ROWS = 20


Sketchmill = Callable[..., Ran]


@pytest.fixture
def sketchmill(tmp_path: Path) -> Sketchmill:
    """Run the installed command in an empty directory."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return functools.partial(run_measured, empty, tmp_path)


def line_of(points: int, *, times: bool, seed: int = 0) -> bytes:
    """Return a drawing of one stroke that jumps over all of its canvas."""
    numbers = np.random.default_rng(seed).integers(0, 256, (2, points)).tolist()
    stroke = [*numbers, list(range(points))] if times else numbers
    return json.dumps({"word": "bee", "drawing": [stroke]}).encode()


def good_lines(*, times: bool) -> list[bytes]:
    return [line_of(8, times=times, seed=seed) for seed in range(1, GOOD_ROWS + 1)]


def binary_of(*sizes: int) -> bytes:
    """Return a record of .bin with a stroke for each of these numbers of points."""
    head = struct.pack("<Q2sbIH", 7, b"US", 1, 1_488_000_000, len(sizes))
    rng = np.random.default_rng(sum(sizes))
    strokes = [
        struct.pack("<H", n) + rng.integers(0, 256, 2 * n, np.uint8).tobytes() for n in sizes
    ]
    return head + b"".join(strokes)


def png_of(width: int, height: int) -> bytes:
    """Return a PNG of black pixels; where they are too many to be made, without them."""
    lines = bytes(width + 1) if width * height < GIB else b""
    packer = zlib.compressobj(1)
    packed = b"".join([packer.compress(lines) for _ in range(height if lines else 0)])
    shape = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = {b"IHDR": shape, b"IDAT": packed + packer.flush(), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(png_chunk, chunks.items()))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def some_pngs(count: int) -> list[bytes]:
    rng = np.random.default_rng(3)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = rng.choice([0, 0, 0, 255], (count, 20, 20))
    return [png.tobytes() for png in encode_pngs(images)]


def odd_lines() -> dict[str, Iterable[bytes]]:
    """Return lines that are too large, in pieces, by what is said of them."""
    points, length = DEFAULT.max_points, DEFAULT.max_line_bytes
    brackets = (length - 30) // 3
    return {
        f" bytes, more than --max-line-bytes {length}": [line_of(3_000_000, times=True)],
        f"  bytes, more than --max-line-bytes {length}": [line_of(3_000_000, times=False)],
        f"100000028 bytes, more than --max-line-bytes {length}": [
            b'{"word": "bee", "drawing": [',
            *[b"9" * 1_000_000] * 100,
        ],
        f"{points + 1} points, more than --max-points {points}": [line_of(points + 1, times=False)],
        f" pixels of strokes, more than 10 times --max-points {points}": [
            line_of(points, times=True)
        ],
        # What takes the most memory of all that a line's bytes can say.
        "a stroke has 0 lists": [b'{"drawing": [', b"[]," * brackets, b"[]]}"],
        "a stroke is {": [b'{"drawing": [', b"{}," * brackets, b"[]]}"],
    }


@pytest.mark.slow
def test_lines_that_are_too_large_are_refused_or_left_out(sketchmill, tmp_path):
    file, said, good = tmp_path / "bee.ndjson", odd_lines(), good_lines(times=True)
    with file.open("wb") as sink:
        for pieces in said.values():
            sink.writelines(pieces)
            sink.write(b"\n")
        sink.write(b"\n".join(good))
    numbers = {"oversized": 5, "unreadable": 2}
    check_rows(sketchmill, file, list(said), numbers, "line 1")


def check_rows(
    sketchmill: Sketchmill, file: Path, said: list[str], numbers: dict[str, int], first: str
) -> None:
    """Check that the first rows of a file, which are bad, are named, and that the others are left.

    said     a part of what is said of each
    numbers  of them by reason
    """
    build = ("build", "--source", file, "--classes", "all", "--quiet")
    refused = sketchmill(*build)
    assert (refused.code, refused.output, refused.errors.count("\n")) == (2, "", 1), refused
    assert f"{file} {first}: " in refused.errors
    assert said[0].strip() in refused.errors
    skipped = sketchmill(*build, "--json", "--on-bad-row", "skip")
    assert (skipped.code, skipped.errors) == (0, ""), skipped
    result = json.loads(skipped.output)
    assert {reason: result["dropped"][reason] for reason in numbers} == numbers
    assert sum(result["drawings"].values()) == GOOD_ROWS
    (manifest,) = (file.parent / "empty").glob("store/datasets/*/*/manifest.json")
    named = json.loads(manifest.read_text())["summary"]["bad_rows"]
    assert len(named) == len(said)
    for row, text in zip(named, said, strict=True):
        assert text.strip() in row["found"]
    assert max(refused.peak, skipped.peak) < GIB


@pytest.mark.slow
def test_strokes_are_kept_no_longer_than_they_are_drawn(tmp_path):
    (tmp_path / "in").mkdir()
    dots = [[[x], [200]] for x in range(0, 256, 4)]
    line = json.dumps({"word": "bee", "drawing": dots}).encode()
    (tmp_path / "in" / "bee.ndjson").write_bytes(b"\n".join([line] * 256))
    (file,) = open_source(str(tmp_path / "in"), None, tmp_path / "cache").files
    assert (file.format, file.rows) == ("simplified", 256)
    reader = open_reader(file, 28)
    reader.read(0, 1)
    tracemalloc.start()
    try:
        reader.read(0, 256)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A view of an array takes more than 100 bytes, and here every point is one.
    assert peak < 100 * len(dots) * 256


@pytest.mark.slow
def test_record_of_bin_that_is_too_large_is_refused_or_left_out(sketchmill, tmp_path):
    file = tmp_path / "bee.bin"
    points = DEFAULT.max_points
    odd = {
        f"more than --max-line-bytes {DEFAULT.max_line_bytes}": binary_of(*[65_535] * 300),
        f"{points + 1} points, more than --max-points {points}": binary_of(points + 1),
    }
    good = [binary_of(8, 9 + number) for number in range(GOOD_ROWS)]
    file.write_bytes(b"".join([*odd.values(), *good]))
    check_rows(sketchmill, file, list(odd), {"oversized": 2}, "row 0")


@pytest.mark.slow
def test_pictures_that_are_too_large_are_refused_or_left_out(sketchmill, tmp_path):
    sizes = [(13_000, 13_000), (2_000_000_000, 2), (2_049, 2_048)]
    said = [f"{w * h} pixels, more than --max-pixels {DEFAULT.max_pixels}" for w, h in sizes]
    pictures = [*itertools.starmap(png_of, sizes), *some_pngs(GOOD_ROWS)]
    file = tmp_path / "bee.parquet"
    pq.write_table(pa.table({"image": pictures, "label": ["bee"] * len(pictures)}), file)
    check_rows(sketchmill, file, said, {"oversized": 3}, "row 0")


def masked_crc(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def prepared_of(folder: Path, records: bytes) -> Path:
    """Write what TFDS prepares, of one file of records."""
    folder.mkdir()
    pixels = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}}
    kinds = {
        "image": {"pythonClassName": f"{FEATURES}.image_feature.Image", "image": pixels},
        "label": {
            "pythonClassName": f"{FEATURES}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "1"},
        },
    }
    split = {
        "name": "train",
        "shardLengths": ["2"],
        "numBytes": str(len(records)),
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    described = {"name": "mine", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    features = {
        "pythonClassName": f"{FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": kinds},
    }
    (folder / "dataset_info.json").write_text(json.dumps(described))
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").write_text("bee\n")
    (folder / RECORDS).write_bytes(records)
    return folder / RECORDS


@pytest.mark.slow
def test_tfrecord_that_states_a_length_it_has_not_is_refused(sketchmill, tmp_path):
    good = example(some_pngs(1)[0], 0)
    length = struct.pack("<Q", 2_000_000_000)
    torn = frame([good]) + length + struct.pack("<I", masked_crc(length)) + bytes(100)
    file = prepared_of(tmp_path / "mine", torn)
    said = f"{file}, record 1 has 2000000000 bytes, more than --max-line-bytes"
    check_prepared(sketchmill, file, said)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_tfrecord_with_a_picture_that_is_too_large_is_refused(sketchmill, tmp_path, kind):
    content = io.BytesIO()
    Image.new("L", (13_000, 13_000)).save(content, kind)
    records = frame([example(png, 0) for png in (some_pngs(1)[0], content.getvalue())])
    file = prepared_of(tmp_path / "mine", records)
    check_prepared(
        sketchmill, file, f"{file}, record 1 has 169000000 pixels, more than --max-pixels"
    )


def check_prepared(sketchmill: Sketchmill, file: Path, said: str) -> None:
    refused = sketchmill("build", "--source", file.parent, "--classes", "all", "--quiet")
    assert (refused.code, refused.output, refused.errors.count("\n")) == (2, "", 1), refused
    assert said in refused.errors
    assert refused.peak < GIB


def many_groups(file: Path) -> None:
    table = pa.table({"image": [b"x"] * 100_000, "label": ["bee"] * 100_000})
    pq.write_table(table, file, row_group_size=1)


def npy_of(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + bytes(15_680)


WHOLE_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "row groups": ("bee.parquet", many_groups, "100000 row groups, more than --max-row-groups"),
    "npy of many": (
        "bee.npy",
        lambda file: file.write_bytes(npy_of("(2000000000, 784)")),
        "truncated or damaged",
    ),
    "npy of large": (
        "bee.npy",
        lambda file: file.write_bytes(npy_of("(20, 2000000000)")),
        "expected square drawings",
    ),
    "bin": (
        "bee.bin",
        lambda file: file.write_bytes(binary_of(5) + binary_of(*[65_535] * 200)[:-1]),
        "ends within a drawing, after 1 whole ones",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_file_that_states_more_than_it_has_is_refused(sketchmill, tmp_path, kind):
    name, write, said = WHOLE_FILES[kind]
    write(file := tmp_path / name)
    refused = sketchmill("build", "--source", file, "--classes", "all", "--quiet")
    assert (refused.code, refused.output, refused.errors.count("\n")) == (2, "", 1), refused
    assert str(file) in refused.errors
    assert said in refused.errors
    assert refused.peak < GIB
