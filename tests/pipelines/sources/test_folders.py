"""Folders of pictures by class, written with Pillow, through `sketchmill build`."""

import csv
import io
import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))

from built import Builder, fill_with, named, parquet_of

from flows.cli import run_command_line
from pipelines.sources.base import BadFileError
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_reader, open_source

pytestmark = pytest.mark.slow


def ink(count: int, seed: int = 0, size: tuple[int, int] = (28, 28)) -> np.ndarray:
    """Return drawings (n, h, w) of random strokes that leave the edge free."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, *size), np.uint8)
    inside = images[:, 3:-3, 3:-3]
    inside[:] = rng.integers(200, 256, inside.shape) * (rng.random(inside.shape) < 0.25)
    images[:, 4, 4] = 255
    return images


IMAGES = ink(12)


def picture(image: np.ndarray, kind: str = "PNG", mode: str = "L") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).convert(mode).save(sink, kind)
    return sink.getvalue()


def pngs(folder: str, images: np.ndarray, ending: str = "png") -> dict[str, bytes]:
    return {f"{folder}/{i:03d}.{ending}": picture(image) for i, image in enumerate(images)}


def lines_of(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue().encode()


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def by_split(build: Builder, answer: dict) -> dict[str, list[tuple[str, bytes]]]:
    """Return class and pixels of the drawings of each split."""
    from pipelines.drawings.parquet import read_images

    manifest = build.manifest(answer)
    found: dict[str, list[tuple[str, bytes]]] = {n: [] for n in manifest.summary["counts"]}
    for entry in manifest.files:
        if entry.path.endswith(".parquet"):
            table = pq.read_table(build.store / manifest.prefix / entry.path)
            names = [manifest.summary["class_names"][n] for n in table["label"].to_pylist()]
            found[str(entry.split)] += named(read_images(table["image"]), names)
    return {split: sorted(drawings) for split, drawings in found.items()}


@pytest.mark.parametrize("wrapper", ["", "dataset/"])
@pytest.mark.parametrize("is_dark", [False, True])
def test_pictures_of_28_pixels_are_read_exactly_whichever_way_their_ink_is(
    build, tmp_path, wrapper, is_dark
):
    written = 255 - IMAGES if is_dark else IMAGES
    files = pngs(f"{wrapper}bee", written[:6]) | pngs(f"{wrapper}my own, 100%", written[6:], "PNG")
    files |= {f"{wrapper}bee/Thumbs.db": b"x", "__MACOSX/bee/._000.png": b"x", ".DS_Store": b"x"}
    files |= {f"{wrapper}bee/.hidden.png": b"x", f"{wrapper}README.md": b"# Pictures"}
    source = fill_with(tmp_path / "in", files)
    names = ["bee"] * 6 + ["my own, 100%"] * 6
    assert build.drawings(source, "--name", "own") == named(IMAGES, names)
    repaired = build.manifest({"dataset": "own"}).summary.get("repaired", {})
    assert repaired == (
        {"dark ink on light paper": {"bee": 6, "my own, 100%": 6}} if is_dark else {}
    )


def test_classes_may_differ_in_the_way_of_their_ink(build, tmp_path):
    source = fill_with(tmp_path / "in", pngs("bee", 255 - IMAGES[:6]) | pngs("sun", IMAGES[6:]))
    assert build.drawings(source) == named(IMAGES, ["bee"] * 6 + ["sun"] * 6)


def test_the_ink_of_transparent_pictures_is_their_opacity_also_beside_opaque_ones(build, tmp_path):
    black = np.zeros((6, 28, 28, 4), np.uint8)
    black[..., 3] = IMAGES[:6]
    files = {f"bee/{i}.png": picture(image, mode="RGBA") for i, image in enumerate(black)}
    files |= {f"bee/x{i}.png": picture(image) for i, image in enumerate(255 - IMAGES[6:])}
    source = fill_with(tmp_path / "in", files)
    assert build.drawings(source) == named(IMAGES, ["bee"] * 12)


@pytest.mark.parametrize("kind", ["gif", "bmp", "webp"])
def test_other_kinds_of_pictures_are_read(build, tmp_path, kind):
    files = {}
    for i, image in enumerate(IMAGES):
        sink = io.BytesIO()
        extra = {"lossless": True} if kind == "webp" else {}
        Image.fromarray(image).save(sink, kind, **extra)
        files[f"bee/{i:02d}.{kind.upper()}"] = sink.getvalue()
    assert build.drawings(fill_with(tmp_path / "in", files)) == named(IMAGES, ["bee"] * 12)


@pytest.mark.parametrize(("fit", "size"), [("pad", 28), ("crop", 28), ("pad", 64)])
@pytest.mark.parametrize("is_dark", [False, True])
def test_pictures_of_other_sizes_are_fitted_as_pillow_does(build, tmp_path, fit, size, is_dark):
    wide, tall = ink(4, 1, (60, 91)), ink(3, 2, (40, 33))
    expected = []
    for image in [*wide, *tall]:
        height, width = image.shape
        side = max(height, width) if fit == "pad" else min(height, width)
        paper = Image.new("L", (side, side), 0)
        place = [(side - width) // 2, (side - height) // 2]
        if fit == "crop":
            place = [-((width - side) // 2), -((height - side) // 2)]
        paper.paste(Image.fromarray(image), tuple(place))
        expected.append(np.array(paper.resize((size, size), Image.Resampling.BILINEAR)))
    files = {
        f"bee/{i}.png": picture(255 - image if is_dark else image)
        for i, image in enumerate([*wide, *tall])
    }
    source = fill_with(tmp_path / "in", files)
    arguments = [
        "--name",
        "own",
        "--image-size",
        str(size),
        *(["--fit", fit] if fit != "pad" else []),
    ]
    assert build.drawings(source, *arguments) == named(np.stack(expected), ["bee"] * 7)
    (repair,) = build.manifest({"dataset": "own"}).summary.get("repaired", {})
    how = {"pad": "padded", "crop": "cropped"}[fit]
    assert repair == ("dark ink on light paper, " if is_dark else "") + f"{how} and resized"


@pytest.mark.parametrize("wrapper", ["", "in/"])
def test_splits_of_the_source_are_kept_or_merged(build, tmp_path, wrapper):
    files = pngs("in/train/bee", IMAGES[:4]) | pngs("in/train/sun", IMAGES[4:7])
    files |= pngs("in/Val/bee", IMAGES[7:9]) | pngs("in/test/sun", IMAGES[9:])
    source = fill_with(tmp_path / "all", files) / ("" if wrapper else "in")
    code, answer = build(source, "--splits", "source")
    assert code == 0, answer
    assert by_split(build, answer) == {
        "train": named(IMAGES[:7], ["bee"] * 4 + ["sun"] * 3),
        "validation": named(IMAGES[7:9], ["bee"] * 2),
        "test": named(IMAGES[9:], ["sun"] * 3),
    }
    everything = named(IMAGES, ["bee"] * 4 + ["sun"] * 3 + ["bee"] * 2 + ["sun"] * 3)
    assert build.drawings(source) == everything
    bees = named(np.concatenate([IMAGES[:4], IMAGES[7:9]]), ["bee"] * 6)
    assert build.drawings(source, "--classes", "bee") == bees


def test_a_class_may_have_the_name_of_a_split(build, tmp_path):
    flat = fill_with(tmp_path / "in", pngs("train", IMAGES[:6]) | pngs("bee", IMAGES[6:]))
    assert build.drawings(flat) == named(IMAGES, ["train"] * 6 + ["bee"] * 6)
    split = fill_with(
        tmp_path / "two", pngs("test/train", IMAGES[:6]) | pngs("test/bee", IMAGES[6:])
    )
    code, plan = build(split, "--dry-run")
    assert (code, plan["rows_by_class"]) == (0, {"bee": 6, "train": 6})


def test_a_name_is_that_of_the_folder_in_nfc(build, tmp_path):
    name = unicodedata.normalize("NFD", "caf\u00e9")
    files = pngs(f"train/{name}", IMAGES[:6]) | pngs("test/caf\u00e9", IMAGES[6:])
    found = build.drawings(fill_with(tmp_path / "in", files))
    assert found == named(IMAGES, ["caf\u00e9"] * 12)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            pngs("bee", IMAGES) | {"1.png": picture(IMAGES[0])},
            "1.png is a picture of no class right",
        ),
        (pngs("bee", IMAGES) | pngs("sun/a", IMAGES), "sun/a/000.png lies 2 folders deep"),
        (pngs("a/b/c/bee", IMAGES), "folders deep, in none that names its class"),
        (pngs("train", IMAGES), "train/000.png is a picture of no class in the split train"),
        (pngs("train/bee", IMAGES) | pngs("test", IMAGES), "of no class in the split test"),
        (
            pngs("train/bee", IMAGES) | pngs("extra/bee", IMAGES),
            "has the folder extra beside train",
        ),
        (pngs("train/bee", IMAGES) | {"1.png": b""}, "has 1.png beside train, which is a split"),
        (pngs("bee", IMAGES) | pngs("Bee", IMAGES), "'Bee' and 'bee', which differ in case alone"),
        (pngs("bee", IMAGES) | {"sun/a.tif": b"x"}, "sun has no pictures (.png, .jpg, .jpeg"),
        (pngs("bee", IMAGES) | {"bee/a.tif": b"x"}, "a.tif is a TIFF picture, which is not read"),
        (pngs("bee", IMAGES) | {"bee/a.svg": b"x"}, "a.svg is an SVG picture, which is not read"),
        ({"bee/a.svg": b"x"}, "a.svg is an SVG picture, which is not read"),
    ],
)
def test_what_has_no_class_for_certain_is_refused(build, tmp_path, files, message):
    assert message in build.refused(fill_with(tmp_path / "in", files))


def test_two_forms_of_one_name_in_one_folder_are_refused(build, tmp_path):
    forms = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    source = fill_with(tmp_path / "in", pngs(forms[0], IMAGES) | pngs(forms[1], IMAGES))
    assert "has two folders 'caf\u00e9'" in build.refused(source)


def test_an_empty_class_folder_is_left_out_if_that_is_asked_for(build, tmp_path):
    source = fill_with(tmp_path / "in", pngs("bee", IMAGES))
    (source / "sun").mkdir()
    assert "sun has no pictures" in build.refused(source)
    bees = named(IMAGES, ["bee"] * 12)
    assert build.drawings(source, "--classes", "bee") == bees
    assert build.drawings(source, "--on-bad-file", "skip", "--name", "own") == bees
    (bad,) = build.manifest({"dataset": "own"}).summary["bad_files"]
    assert "sun has no pictures" in bad["reason"]
    assert "has no drawings of cat; it has bee" in build.refused(source, "--classes", "bee,cat")


def test_a_class_of_mixed_ink_is_refused_with_one_of_each_kind(build, tmp_path):
    mixed = [*IMAGES[:8], *(255 - IMAGES[8:])]
    source = fill_with(tmp_path / "in", pngs("bee", np.stack(mixed)) | pngs("sun", IMAGES))
    answer = build.refused(source)
    assert "bee/008.png has dark ink on light paper" in answer
    assert "bee/000.png light ink on dark paper, as have 4 and 8 of 12" in answer
    suns = named(IMAGES, ["sun"] * 12)
    assert build.drawings(source, "--on-bad-file", "skip", "--name", "own") == suns
    assert build.drawings(source, "--classes", "sun") == suns


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("shape", [(28, 28), (28, 60)])
def test_a_picture_that_contradicts_its_class_is_a_bad_row(build, tmp_path, is_dark, shape):
    images = ink(200, 3, shape)
    written = 255 - images if is_dark else images.copy()
    written[7] = 255 - written[7]
    source = fill_with(tmp_path / "in", pngs("bee", written))
    code, answer = build(source)
    assert code == 2
    is_left = shape == (28, 28) and not is_dark  # to the scan, as bitmaps are
    assert ("white paper with dark ink" if is_left else "007.png: most of the outer") in answer
    code, answer = build(source, "--on-bad-row", "skip")
    assert code == 0, answer
    assert sum(answer["dropped"].get(reason, 0) for reason in ("inverted", "unreadable")) == 1
    assert sum(answer["drawings"].values()) == 199


def test_bad_pictures_are_named_by_file_and_left_out_if_asked_for(build, tmp_path):
    files = pngs("bee", IMAGES)
    files["bee/003.png"] = files["bee/003.png"][:200]
    files["bee/005.png"] = b""
    source = fill_with(tmp_path / "in", files)
    code, answer = build(source)
    assert code == 2
    assert "in/bee row 3: 003.png: the picture cannot be decoded" in answer
    good = np.delete(IMAGES, [3, 5], axis=0)
    assert build.drawings(source, "--on-bad-row", "skip", "--name", "own") == named(
        good, ["bee"] * 10
    )
    found = build.manifest({"dataset": "own"}).summary["bad_rows"]
    assert [row["found"].partition(":")[0] for row in found] == ["003.png", "005.png"]


def test_a_picture_beyond_a_limit_is_not_opened(build, tmp_path):
    source = fill_with(tmp_path / "in", pngs("bee", IMAGES) | {"bee/big.png": b"x" * 10_000})
    code, answer = build(source, "--max-line-bytes", "9000", "--on-bad-row", "skip")
    assert (code, answer["dropped"]) == (0, {"oversized": 1}), answer
    paper = Image.new("L", (3_000, 3_000))
    sink = io.BytesIO()
    paper.save(sink, "PNG")
    (source / "bee/big.png").write_bytes(sink.getvalue())
    code, answer = build(source, "--on-bad-row", "skip")
    assert (code, answer["dropped"]) == (0, {"oversized": 1}), answer


def test_what_changes_or_vanishes_while_it_is_read_is_an_error(tmp_path):
    source = fill_with(tmp_path / "in", pngs("bee", IMAGES))
    (file,) = open_source(str(source), None, tmp_path / "cache").files
    reader = open_reader(file, 28)
    assert np.array_equal(reader.read(0, 12).images, IMAGES)
    assert np.array_equal(open_reader(file, 28).read(5, 9).images, IMAGES[5:9])
    (source / "bee/011.png").write_bytes(picture(IMAGES[0]))
    (source / "bee/010.png").unlink()
    assert np.array_equal(reader.read(0, 10).images, IMAGES[:10])
    for row in (10, 11):
        with pytest.raises(BadFileError, match=rf"0{row}\.png changed while it was read"):
            reader.read(row, row + 1)
    (again,) = open_source(str(source), None, tmp_path / "cache").files
    assert (again.rows, again.digest != file.digest) == (11, True)


def test_the_digest_is_of_content_and_not_of_the_place(tmp_path):
    files = pngs("train/bee", IMAGES) | pngs("train/sun", IMAGES[::-1])
    places = [fill_with(tmp_path / name, files) for name in ("one", "two")]
    one, two = (open_source(str(place), None, tmp_path / "cache") for place in places)
    assert one.fingerprint == two.fingerprint
    (places[1] / "train/sun/003.png").write_bytes(picture(255 - IMAGES[3]))
    assert open_source(str(places[1]), None, tmp_path / "cache").fingerprint != one.fingerprint


def test_a_link_that_leads_nowhere_is_named(build, tmp_path):
    source = fill_with(tmp_path / "in", pngs("bee", IMAGES))
    (source / "bee/x.png").symlink_to(".git/annex/objects/x.png")
    assert "run `git annex get`" in build.refused(source)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_flat_folder_with_metadata_has_the_classes_of_its_column(build, tmp_path, ending):
    names = [["sun", "bee", "caf\u00e9"][i % 3] for i in range(12)]
    rows = [(f"images/{i:03d}.png", name) for i, name in enumerate(names)]
    if ending == "csv":
        content = lines_of(["file_name", "label"], rows)
    else:
        content = "\n".join(json.dumps({"file_name": f, "label": n}) for f, n in rows).encode()
    source = fill_with(tmp_path / "in", pngs("images", IMAGES) | {f"metadata.{ending}": content})
    assert build.drawings(source) == named(IMAGES, names)
    (source / "images" / "000.png").unlink()
    assert "lists 1 pictures that are not there" in build.refused(source)
    (source / "images" / "000.png").write_bytes(picture(IMAGES[0]))
    (source / "images" / "new.png").write_bytes(picture(IMAGES[0]))
    assert "has no label for images/new.png" in build.refused(source)


def test_numbers_in_metadata_need_names_unless_folders_name_them(build, tmp_path):
    rows = [(f"{i:03d}.png", f"{i % 2}.0") for i in range(12)]
    files = {name.partition("/")[2]: content for name, content in pngs("x", IMAGES).items()}
    source = fill_with(
        tmp_path / "in", files | {"metadata.csv": lines_of(["file_name", "label"], rows)}
    )
    assert "give --label-names" in build.refused(source)
    assert "has the label 1, --label-names has 1 names" in build.refused(
        source, "--label-names", "sun"
    )
    expected = named(IMAGES, ["sun", "bee"] * 6)
    assert build.drawings(source, "--label-names", "sun,bee", "--name", "own") == expected
    rows = [(f"{name}/{i:03d}.png", n) for n, name in enumerate(("sun", "bee")) for i in range(12)]
    files = pngs("sun", IMAGES) | pngs("bee", IMAGES)
    source = fill_with(
        tmp_path / "two", files | {"metadata.csv": lines_of(["file_name", "label"], rows)}
    )
    assert open_source(str(source), None, tmp_path / "cache").class_names == ("sun", "bee")


def test_metadata_that_contradict_a_folder_are_refused(build, tmp_path):
    rows = [(f"{name}/{i:03d}.png", name) for name in ("bee", "sun") for i in range(12)]
    rows[3] = ("bee/003.png", "sun")
    files = pngs("bee", IMAGES) | pngs("sun", IMAGES)
    files["metadata.csv"] = lines_of(["file_name", "label"], rows)
    source = fill_with(tmp_path / "in", files)
    answer = build.refused(source)
    assert "bee/003.png is of 'bee' by its folder, of 'sun' in metadata.csv" in answer
    rows = [(name, "insect") for name, _ in rows]
    fill_with(source, {"metadata.csv": lines_of(["file_name", "category"], rows)})
    answer = build.refused(source)
    assert "bee/000.png is of 'bee' by its folder, of 'insect' in metadata.csv" in answer
    ids = {"bee": "n02206856", "sun": "n09450163"}
    rows = [(f"{name}/{i:03d}.png", ids[name]) for name in ids for i in range(12)]
    fill_with(source, {"metadata.csv": lines_of(["file_name", "label"], rows)})
    assert build.drawings(source) == named(
        [*IMAGES, *IMAGES], [ids[n] for n in ids for _ in IMAGES]
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([(0, "bee"), (0, "sun")], "the label 0 beside 'bee' and 'sun'"),
        ([(0, "bee"), (1, "bee")], "the class 'bee' beside 0 and 1"),
    ],
)
def test_labels_and_names_that_contradict_each_other_are_refused(build, tmp_path, labels, message):
    files = pngs("train/a", IMAGES) | pngs("test/a", IMAGES)
    for split, label in zip(("train", "test"), labels, strict=True):
        rows = [(f"a/{i:03d}.png", *label) for i in range(12)]
        columns = ["file_name", "label", "class_name"]
        files[f"{split}/metadata.csv"] = lines_of(columns, rows)
    assert message in build.refused(fill_with(tmp_path / "in", files))


def export_of(build: Builder, *arguments: str, columns: Mapping[str, list] | None = None) -> Path:
    """Export what is built of odd names in two splits, as a PNG tree."""
    names = ["my sketch", "caf\u00e9", "bread, white", "Sun", "sun", "and so on..."] * 2
    table = parquet_of(IMAGES, names)
    if columns:
        found = pq.read_table(io.BytesIO(table))
        for name, values in columns.items():
            found = found.append_column(name, [values])
        sink = io.BytesIO()
        pq.write_table(found, sink)
        table = sink.getvalue()
    source = fill_with(build.store.parent / "tables", {"a.parquet": table})
    assert build(source, "--name", "own", *arguments)[0] == 0
    out = build.store.parent / "out"
    where = ["--store", str(build.store), "--out", str(out), "--quiet"]
    assert run_command_line(["export", "own", "--format", "png", *where]) == 0
    build.capsys.readouterr()
    return out


def test_our_own_pictures_are_read_back_with_their_names_labels_and_splits(build, tmp_path):
    out = export_of(build, "--splits", "a=0.5,b=0.5")
    own = build.manifest({"dataset": "own"})
    expected = by_split(build, {"dataset": "own"})
    for folder in (out, out / "png"):
        code, answer = build(folder, "--splits", "source", "--name", "back")
        assert code == 0, answer
        assert by_split(build, answer) == expected
        manifest = build.manifest(answer)
        assert manifest.summary["class_names"] == own.summary["class_names"]
    found = build.drawings(out / "png" / "a", "--name", "half")
    assert found == expected["a"]


def test_an_empty_split_of_an_export_survives(build, tmp_path):
    out = export_of(build, "--splits", "train=0.5,b=0.5")
    expected = by_split(build, {"dataset": "own"})
    for path in (out / "png" / "b").glob("*/*.png"):
        path.unlink()
    (out / "png" / "b" / "metadata.csv").write_bytes(b"")
    code, answer = build(out, "--splits", "source", "--name", "back", "--on-bad-file", "skip")
    assert code == 0, answer
    assert by_split(build, answer) == {"train": expected["train"], "b": []}


def test_metadata_of_an_export_are_read_if_they_are_asked_for(build, tmp_path):
    columns = {
        "key_id": [2**60 + i for i in range(12)],
        "country_code": ["US", "DE"] * 6,
        "recognized": [True, False, True] * 4,
        "timestamp": [1_488_000_000 + i for i in range(12)],
    }
    keep = ["--with-metadata"]
    out = export_of(build, *keep, columns=columns)
    code, answer = build(out, *keep, "--name", "back")
    assert code == 0, answer

    def rows(name: str) -> list:
        manifest, found = build.manifest({"dataset": name}), []
        for entry in manifest.files:
            if entry.path.endswith(".parquet"):
                table = pq.read_table(build.store / manifest.prefix / entry.path)
                found += table.drop_columns(["image"]).to_pylist()
        return sorted(found, key=lambda row: row["key_id"])

    assert rows("back") == rows("own")
    assert [row["key_id"] for row in rows("back")] == columns["key_id"]


def test_a_bad_value_of_metadata_is_a_bad_row(build, tmp_path):
    columns = ["file_name", "key_id", "countrycode", "recognized", "timestamp"]
    rows = [(f"bee/{i:03d}.png", i, "US", "True", "2017-03-06 00:28:58") for i in range(12)]
    rows[4] = ("bee/004.png", 4, "US", "maybe", "2017-03-06 00:28:58")
    del rows[9]
    files = pngs("bee", IMAGES) | {"metadata.csv": lines_of(columns, rows)}
    source = fill_with(tmp_path / "in", files)
    code, answer = build(source, "--with-metadata")
    assert code == 2
    assert '004.png: recognized is "maybe", expected true or false' in answer
    code, answer = build(source, "--with-metadata", "--on-bad-row", "skip")
    assert (code, sum(answer["drawings"].values())) == (0, 10), answer
    assert (
        "bee does not know"
        in build(fill_with(tmp_path / "b", pngs("bee", IMAGES)), "--with-metadata")[1]
    )


@pytest.mark.parametrize(
    "pictures",
    [
        {"picture.png": picture(IMAGES[0])},
        pngs("assets", IMAGES[:3]),
        pngs("assets", IMAGES[:3]) | pngs("docs", IMAGES[:2]),
    ],
)
def test_pictures_of_a_readme_do_not_make_a_second_source(build, tmp_path, pictures):
    names = ["bee", "sun"] * 6
    for name, content in {"numpy": google_npy(IMAGES), "table": parquet_of(IMAGES, names)}.items():
        file = "numpy_bitmap/bee.npy" if name == "numpy" else "data/train.parquet"
        source = fill_with(tmp_path / name, {file: content} | pictures)
        expected = named(IMAGES, ["bee"] * 12 if name == "numpy" else names)
        assert build.drawings(source, "--name", name) == expected


def test_a_dataset_of_our_own_is_read_in_spite_of_its_contact_sheets(build, tmp_path):
    source = fill_with(tmp_path / "in", {"a.parquet": parquet_of(IMAGES, ["bee", "sun"] * 6)})
    expected = build.drawings(source, "--name", "own", "--format", "parquet")
    prefix = build.manifest({"dataset": "own"}).prefix
    assert list((build.store / prefix).glob("sheets/*.png"))
    assert build.drawings(build.store / prefix, "--name", "back") == expected


def test_pictures_and_parquet_in_one_folder_can_be_read_in_two_ways(build, tmp_path):
    files = pngs("bee", IMAGES) | pngs("sun", IMAGES)
    files["a.parquet"] = parquet_of(IMAGES, ["bee", "sun"] * 6)
    answer = build.refused(fill_with(tmp_path / "in", files))
    assert "can be read in 2 ways: parquet in " in answer
    assert "folders in " in answer


def test_a_folder_that_is_no_source_says_that_pictures_could_be_one(build, tmp_path):
    answer = build.refused(fill_with(tmp_path / "in", {"notes.txt": b"x"}))
    assert "or folder of pictures by class" in answer
