"""`sketchmill build` on MNIST's format IDX: written by hand, as published, and our own exports."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))
sys.path.insert(0, str(Path(__file__).parent))

import tars
from built import Builder, fill_with, named, some_drawings

pytestmark = pytest.mark.slow

DIGITS = ["zero", "one", "two"]
GIVEN = ("--label-names", "zero,one,two")


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def idx(values: np.ndarray, code: int = 8) -> bytes:
    """Return values as the page of MNIST says."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return head + values.tobytes()


def mnist(images: np.ndarray, labels: np.ndarray, num_train: int, **names: str) -> dict[str, bytes]:
    form = names.get("form", "{split}-{kind}-idx{rank}-ubyte")
    files = {}
    for split, part in (("train", slice(num_train)), ("t10k", slice(num_train, None))):
        for kind, rank, values in (("images", 3, images), ("labels", 1, labels)):
            files[form.format(split=split, kind=kind, rank=rank)] = idx(values[part])
    return files


FORMS = ["{split}-{kind}-idx{rank}-ubyte", "{split}-{kind}.idx{rank}-ubyte"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_mnist_is_read_under_all_its_names_and_keeps_its_splits(build, tmp_path, form, pack):
    images = some_drawings(300)
    labels = (np.arange(300) % 3).astype(np.uint8)
    ending = ".gz" if pack is gzip.compress else ""
    files = {n + ending: pack(c) for n, c in mnist(images, labels, 200, form=form).items()}
    folder = fill_with(tmp_path / "MNIST" / "raw", files)
    answer = build.refused(folder)
    assert "has the labels 0, 1, 2, which nothing names" in answer
    assert build.drawings(folder.parent, *GIVEN) == named(images, [DIGITS[n] for n in labels])
    code, answer = build(folder, *GIVEN, "--splits", "source")
    assert (code, answer["drawings"]) == (0, {"train": 200, "test": 100})
    found = tars.rows(build, build.manifest(answer))
    tests = {(name, picture) for split, name, picture, _ in found if split == "test"}
    assert len(tests) == 100
    assert build.drawings(folder, *GIVEN, "--classes", "two") == named(images[2::3], ["two"] * 100)


def test_a_copy_beside_its_gzip_is_read_once(build, tmp_path):
    images, labels = some_drawings(40), np.zeros(40, np.uint8)
    files = mnist(images, labels, 30)
    files |= {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    folder = fill_with(tmp_path / "raw", files)
    assert build.drawings(folder, "--label-names", "bee") == named(images, ["bee"] * 40)
    fill_with(folder, {"train-images.idx3-ubyte": files["train-images-idx3-ubyte"]})
    assert "leave one of them" in build.refused(folder, "--label-names", "bee")


def test_emnist_is_turned_and_named_by_its_mapping(build, tmp_path):
    images = some_drawings(60)
    labels = np.array([1, 26, 2] * 20, np.uint8)
    lying = np.ascontiguousarray(images.transpose(0, 2, 1))
    files = {
        f"emnist-letters-{name.replace('t10k', 'test')}.gz": gzip.compress(content)
        for name, content in mnist(lying, labels, 40).items()
    }
    mapping = "".join(f"{i} {64 + i} {96 + i}\n" for i in range(1, 27))
    folder = fill_with(
        tmp_path / "emnist", files | {"emnist-letters-mapping.txt": mapping.encode()}
    )
    assert "give --transpose" in build.refused(folder)
    classes = ("--transpose", "--classes", "Z,A,B")
    assert build.drawings(folder, *classes) == named(images, ["A", "Z", "B"] * 20)
    code, answer = build(folder, *classes, "--splits", "source")
    assert (code, answer["drawings"]) == (0, {"train": 40, "test": 20})
    fill_with(folder, {"emnist-digits-train-images-idx3-ubyte": b""})
    fill_with(folder, {"emnist-digits-train-labels-idx1-ubyte": b""})
    assert "has several sets: emnist-digits, emnist-letters" in build.refused(folder, *classes)


def test_other_sizes_are_fitted_where_that_is_said(build, tmp_path):
    images = np.zeros((30, 20, 10), np.uint8)
    images[:, 5:15, 3:7] = np.arange(100, 130, dtype=np.uint8)[:, None, None] * 2 - 5
    images[:, 8, 3 + np.arange(3)] = 255
    folder = fill_with(tmp_path / "tall", mnist(images, np.zeros(30, np.uint8), 20))
    given = ("--label-names", "bar")
    assert "has pictures of 20x10 pixels, expected 28x28" in build.refused(folder, *given)
    square = np.pad(images, ((0, 0), (0, 0), (5, 5)))
    bilinear = Image.Resampling.BILINEAR
    fitted = [np.array(Image.fromarray(image).resize((28, 28), bilinear)) for image in square]
    code, answer = build(folder, *given, "--fit", "pad")
    assert (code, answer["repaired"]) == (0, {"padded and resized": 30})
    assert build.drawings(folder, *given, "--fit", "pad") == named(fitted, ["bar"] * 30)
    turned = [np.array(Image.fromarray(image.T).resize((28, 28), bilinear)) for image in square]
    assert build.drawings(folder, *given, "--fit", "pad", "--transpose") == named(
        turned, ["bar"] * 30
    )


def test_wider_labels_and_labels_without_a_name(build, tmp_path):
    images = some_drawings(300)
    labels = np.arange(300) % 3
    files = mnist(images, labels.astype(np.uint8), 300)
    files = {name: content for name, content in files.items() if "t10k" not in name}
    del files["train-labels-idx1-ubyte"]
    for number, (kind, code, dtype) in enumerate((("short", 0x0B, ">i2"), ("int", 0x0C, ">i4"))):
        wide = {f"train-labels-idx1-{kind}": idx(labels.astype(dtype), code)}
        folder = fill_with(tmp_path / kind, files | wide)
        assert build.drawings(folder, *GIVEN) == named(images, [DIGITS[n] for n in labels])
        bad = labels.copy()
        bad[7] = [-1, 3][number]
        fill_with(folder, {f"train-labels-idx1-{kind}": idx(bad.astype(dtype), code)})
        code, answer = build(folder, *GIVEN)
        assert (code, f"row 7: the label is {bad[7]}, which has no name" in answer) == (2, True)
        rest = named(np.delete(images, 7, 0), [DIGITS[n] for n in np.delete(labels, 7)])
        assert build.drawings(folder, *GIVEN, "--on-bad-row", "skip") == rest


def test_damaged_files_are_refused(build, tmp_path):
    images, labels = some_drawings(60), np.zeros(60, np.uint8)
    good = mnist(images, labels, 40)
    pixels, numbers = good["t10k-images-idx3-ubyte"], good["t10k-labels-idx1-ubyte"]
    huge = struct.pack(">BBBBIII", 0, 0, 8, 3, 4_000_000_000, 28, 28)
    packed = gzip.compress(pixels)
    cases = [
        ("images-idx3", pixels[:-1], "should have 15696 bytes by its header, 20 x 28 x 28, it has"),
        ("images-idx3", pixels + b"\0", "truncated or damaged"),
        ("images-idx3", huge + bytes(100), "should have 3136000000016 bytes"),
        ("images-idx3", numbers, "begins with 00000801, expected that of images, 00000803"),
        ("images-idx3", b"<html>" + bytes(99), "is no IDX file of images: it is a web page"),
        ("images-idx3", pixels[:9], "ends within its header"),
        ("images-idx3", packed[:-9], "cannot be unpacked"),
        ("images-idx3", packed[:-6] + b"12" + packed[-4:], "cannot be unpacked"),
        ("images-idx3", gzip.compress(huge + bytes(100)), "should have 3136000000016 bytes"),
        ("images-idx3", gzip.compress(pixels[:-1]), "1 bytes are missing"),
        ("images-idx3", gzip.compress(pixels + b"\0"), "goes on behind what its header says"),
        ("labels-idx1", idx(np.zeros(19, np.uint8)), "has 20 images"),
        ("labels-idx1", idx(np.zeros(20, ">f4"), 0x0D), "is no IDX file of labels"),
    ]
    skip = ("--label-names", "bee", "--on-bad-file", "skip")
    for number, (kind, content, message) in enumerate(cases):
        folder = fill_with(tmp_path / str(number), good | {f"t10k-{kind}-ubyte": content})
        answer = build.refused(folder, "--label-names", "bee")
        assert message in answer, (number, answer)
        code, plan = build(folder, *skip, "--dry-run")
        assert (code, plan["rows"]) == (0, 40), number
    assert build.drawings(folder, *skip) == named(images[:40], ["bee"] * 40)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "has images of 't10k' and no labels" in build.refused(folder, "--label-names", "bee")


@pytest.mark.parametrize("flags", [(), ("--with-metadata",)])
def test_an_export_is_read_back_with_its_names_splits_and_metadata(build, tmp_path, flags):
    out, made = tars.export(build, tmp_path, some_drawings(300), "idx", *flags)
    for source in (out, out / "idx"):
        code, answer = build(source, "--splits", "source", *flags)
        assert code == 0, answer
        again = build.manifest(answer)
        assert again.summary["class_names"] == tars.NAMES
        assert tars.rows(build, again) == tars.rows(build, made)
    assert "names its labels itself" in build.refused(out, "--label-names", "a,b,c,d,e,f")
    if not flags:
        assert "IDX itself has no key_id" in build.refused(out, "--with-metadata")
        return
    path = out / "idx" / "train-rows.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert "rows for" in build.refused(out, *flags)
    path.write_text("".join([lines[0], *reversed(lines[1:])]))
    code, answer = build(out, *flags)
    assert (code, "has the label" in answer, "copy both again" in answer) == (2, True, True), answer


def test_more_classes_than_a_byte_holds_come_back(build, tmp_path):
    from pipelines.export.formats.idx import label_type

    images, labels = some_drawings(300), np.arange(300)
    assert label_type(300) == (0x0B, np.dtype(">i2"))
    files = {
        "train-images-idx3-ubyte": idx(images),
        "train-labels-idx1-short": idx(labels.astype(">i2"), 0x0B),
        "label_map.csv": ("label,class_name\n" + "".join(f"{i},c {i}\n" for i in labels)).encode(),
    }
    folder = fill_with(tmp_path / "idx", files)
    assert build.drawings(folder) == named(images, [f"c {i}" for i in labels])


def test_idx_beside_class_files_and_one_file_of_it_are_named(build, tmp_path):
    images = some_drawings(20)
    files = mnist(images, np.zeros(20, np.uint8), 10)
    folder = fill_with(tmp_path / "both", files)
    np.save(folder / "bee.npy", images)
    assert "MNIST's format IDX: give a folder" in build.refused(folder)
    assert build.drawings(folder, "--classes", "bee") == named(images, ["bee"] * 20)
    assert "MNIST's format IDX: give a folder" in build.refused(folder / "t10k-images-idx3-ubyte")
