"""Every kind of file that really lies about under such names: an error that says what to do."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.sources.base import BadFileError, SourceOptions
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_reader, open_source
from pipelines.store.artifacts import open_store

SAMPLE = os.environ.get("QUICKDRAW_SAMPLE")
needs_sample = pytest.mark.skipif(SAMPLE is None, reason="QUICKDRAW_SAMPLE is not set")


def some_drawings(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    return images


def save(directory: Path, name: str, content: object) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    return directory


@needs_sample
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("html_login_page", "it is a web page, probably of a sign-in"),
        ("lfs_pointer", "Git LFS pointer"),
        ("annex_pointer", "git-annex pointer"),
        ("shifted_one_byte", "not Google's binary format .its size is a multiple of 784"),
        ("inverted", "not Google's binary format .its size is a multiple of 784"),
        ("almost_all_blank", "not Google's binary format .its size is a multiple of 784"),
        ("not_first_rows", "not Google's binary format .its size is a multiple of 784"),
        ("pickled_object_array", "pickled Python objects, which sketchmill never opens"),
        ("truncated", r"100 whole drawings\): it is truncated or damaged"),
        ("python_repr_not_json", "line 1: not a drawing in JSON"),
    ],
)
def test_an_odd_file_of_the_sample_is_refused_by_name(tmp_path, case, message):
    with pytest.raises(BadFileError, match=message):
        open_source(str(Path(SAMPLE) / "odd" / case), None, tmp_path / "cache")


@needs_sample
@pytest.mark.parametrize(
    ("case", "repair"),
    [
        ("odd_shape_N_1_28_28", "shape (1, 28, 28)"),
        ("odd_shape_N_1_784", "shape (1, 784)"),
        ("int64", "int64 pixels"),
    ],
)
def test_an_odd_file_of_the_sample_is_put_right_and_counted(tmp_path, case, repair):
    path = next((Path(SAMPLE) / "odd" / case).glob("*.npy"))
    source = open_source(str(path.parent), None, tmp_path / "cache")
    assert source.repairs == {repair: 1}
    expected = np.load(path).reshape(-1, 28, 28)
    drawings = open_reader(source.files[0], 28).read(0, len(expected))
    assert np.array_equal(drawings.images, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><title>Sign in</title>", "web page"),
        (b"\x80\x04\x95 pickle", "Python pickle, which is never opened"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order'", "damaged .npy header"),
        (
            np.zeros((3, 784), np.float32),
            "float32 values of 0 to 0, expected integers 0 to 255: save",
        ),
        (np.asfortranarray(np.zeros((3, 784), np.uint8)), "Fortran order"),
        (np.zeros((3, 783), np.uint8), "expected square drawings"),
        (np.zeros(784, np.uint8), "expected .drawings, 784"),
        (np.array([{"a": 1}], object), "pickled Python objects"),
        (np.zeros((3, 32 * 32), np.uint8), "only strokes can be drawn at 28"),
        (google_npy(some_drawings(4)) + b"more", "it is truncated or damaged"),
        (google_npy(some_drawings(4))[:-1], "3 whole drawings"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, content, message):
    directory = save(tmp_path / "source", "bee.npy", content)
    with pytest.raises(BadFileError, match=message):
        open_source(str(directory), ["bee"], tmp_path / "cache")


@pytest.mark.parametrize("dtype", [np.int16, np.int64, ">u2"])
def test_wider_integers_are_read_if_they_are_pixels(tmp_path, dtype):
    images = some_drawings(5)
    directory = save(tmp_path / "source", "bee.npy", images.astype(dtype))
    file = open_source(str(directory), ["bee"], tmp_path / "cache").files[0]
    assert np.array_equal(open_reader(file, 28).read(0, 5).images, images)


@pytest.mark.parametrize("value", [-1, 256])
def test_wider_integers_that_are_no_pixels_are_refused(tmp_path, value):
    images = some_drawings(5).astype(np.int64)
    images[3, 2, 1] = value
    directory = save(tmp_path / "source", "bee.npy", images)
    file = open_source(str(directory), ["bee"], tmp_path / "cache").files[0]
    with pytest.raises(BadFileError, match="expected 0 to 255"):
        open_reader(file, 28).read(0, 5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (255 - some_drawings(100), "white paper with dark ink .100 inverted of 100 rows"),
        (some_drawings(100) // 2 + 25, "they seem noisy"),
        (np.zeros((100, 28, 28), np.uint8), "blank"),
    ],
)
def test_what_only_the_pixels_tell_is_found_by_the_scan(tmp_path, images, message):
    source = save(tmp_path / "source", "bee.npy", google_npy(images))
    save(source, "sun.npy", google_npy(some_drawings(100)))
    spec = DatasetSpec(class_names=("bee", "sun"))
    opened = open_source(str(source), ["bee", "sun"], tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(BadFileError, match=message):
        build_dataset(spec, opened, store, "odd")
    skipping = DatasetSpec(class_names=("bee", "sun"), on_bad_file="skip")
    manifest = build_dataset(skipping, opened, store, "odd")
    assert re.search(message, manifest.summary["bad_files"][0]["reason"])
    assert sum(counts["bee"] for counts in manifest.summary["counts"].values()) == 0
    assert manifest.summary["num_drawings"] == 100


def test_a_skipped_file_is_named_in_the_manifest(tmp_path):
    source = save(tmp_path / "source", "bee.npy", b"<html>")
    save(source, "sun.npy", google_npy(some_drawings(100)))
    opened = open_source(
        str(source), ["bee", "sun"], tmp_path / "cache", SourceOptions(skip_bad_files=True)
    )
    spec = DatasetSpec(class_names=("bee", "sun"), on_bad_file="skip")
    manifest = build_dataset(spec, opened, open_store(str(tmp_path / "store")), "odd")
    assert [Path(bad["file"]).name for bad in manifest.summary["bad_files"]] == ["bee.npy"]
    assert manifest.summary["num_drawings"] == 100


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'word': 'bee'}", "line 1: not a drawing in JSON"),
        ('{"word": "bee"}', "line 1: no object with a key 'drawing'"),
        ('{"drawing": [[[1, 2], [3]]], "key_id": "1"}', "line 1: a stroke has"),
    ],
)
def test_a_line_that_is_no_drawing_is_named(tmp_path, line, message):
    directory = save(tmp_path / "source", "bee.ndjson", line.encode() + b"\n")
    with pytest.raises(BadFileError, match=message):
        open_source(str(directory), ["bee"], tmp_path / "cache")
