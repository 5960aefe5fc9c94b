"""`sketchmill build` on tars of WebDataset: other writers' and our own exports."""

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))
sys.path.insert(0, str(Path(__file__).parent))

import tars
from built import Builder, fill_with, named, some_drawings
from tars import add_member, picture, samples_of, write_tar

pytestmark = pytest.mark.slow

NAMES = ["bee", "sun", "sea turtle"]


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def test_names_and_numbers_of_another_writer_are_the_classes(build, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    images = some_drawings(700)
    numbers = [i % 3 for i in range(700)]
    (tmp_path / "wds").mkdir()
    for part, split in enumerate(("train", "val")):
        chosen = range(part * 400, min(700, part * 400 + 400))
        with webdataset.TarWriter(str(tmp_path / "wds" / f"{split}-000000.tar")) as sink:
            for i in chosen:
                sink.write(
                    {
                        "__key__": f"{i:05d}",
                        "png": images[i][..., None].repeat(3, 2),
                        "cls": numbers[i],
                    }
                )
    answer = build.refused(tmp_path / "wds")
    assert "has the labels 0, 1, 2, which nothing names" in answer
    assert "--label-names" in answer
    given = ("--label-names", "bee,sun,sea turtle")
    assert build.drawings(tmp_path / "wds", *given) == named(images, [NAMES[n] for n in numbers])
    code, answer = build(tmp_path / "wds", *given, "--splits", "source")
    assert code == 0, answer
    assert answer["drawings"] == {"train": 400, "validation": 300}
    one = tmp_path / "wds" / "val-000000.tar"
    expected = named(images[400:], [NAMES[n] for n in numbers[400:]])
    assert build.drawings(one, *given, "--name", "one") == expected
    answer = build.refused(one, "--label-names", "bee,sun", "--classes", "bee,moon")
    assert "moon" in answer


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_tar_and_of_label_gives_the_same(build, tmp_path, layout):
    images, names = some_drawings(9), ["bee", "sun", 'Ö, "x"'] * 3
    folder = "f" * 60 + "/" + "g" * 60 + "/" if layout == tarfile.USTAR_FORMAT else "ü" * 200 + "/"
    members = []
    for i, (image, name) in enumerate(zip(images, names, strict=True)):
        said = [
            [("cls", name.encode())],
            [("json", json.dumps({"class_name": name, "label": 7 + names.index(name)}).encode())],
            [("txt", name.encode()), ("json", b'{"caption": "x"}')],
        ][i // 3]
        members += [(f"{folder}{i}.x.md", b"#"), (f"{folder}.{i}.png", b"hidden")]
        members += [(f"{folder}{i}.PNG", picture(image))]
        members += [(f"{folder}{i}.{suffix}", content) for suffix, content in said]
    path = write_tar(tmp_path / "mine.tar", members, format=layout)
    assert build.drawings(path) == named(images, names)
    _, answer = build(path)
    # Not all of the names have a number.
    assert build.manifest(answer).summary["class_names"] == sorted(set(names))


def test_names_beside_numbers_are_in_the_order_of_the_numbers(build, tmp_path):
    images, numbers = some_drawings(6), [2, 0, 1, 2, 1, 0]
    said = [{"label": n, "word": NAMES[n]} for n in numbers]
    path = write_tar(tmp_path / "a.tar", list(samples_of(images, said, suffix="json")))
    _, answer = build(path)
    assert build.manifest(answer).summary["class_names"] == NAMES
    said[3] = {"label": 2, "word": "bee"}
    write_tar(path, list(samples_of(images, said, suffix="json")))
    assert 'gives "bee" both numbers 0 and 2' in build.refused(path)


def test_pictures_of_other_sizes_and_kinds_are_padded_and_counted(build, tmp_path):
    large = np.zeros((56, 28), np.uint8)
    large[:, 10:20] = 255
    plain = some_drawings(2)
    members = [
        ("a.webp", picture(plain[0], "WEBP", lossless=True)), ("a.cls", b"bee"),
        ("b.png", picture(large)), ("b.cls", b"bee"),
        ("c.gif", picture(plain[1], "GIF")), ("c.cls", b"bee"),
    ]  # fmt: skip
    path = write_tar(tmp_path / "a.tar", members)
    code, answer = build(path)
    assert code == 0, answer
    assert answer["repaired"] == {"WEBP": 1, "padded and resized": 1}
    square = np.zeros((56, 56), np.uint8)
    square[:, 24:34] = 255
    halved = np.array(Image.fromarray(square).resize((28, 28), Image.Resampling.BILINEAR))
    assert ("bee", halved.tobytes()) in build.drawings(path)
    cut = np.array(Image.fromarray(large[14:42]))
    assert ("bee", cut.tobytes()) in build.drawings(path, "--fit", "crop", "--name", "cut")


BAD = {
    "no class": [("x.png", None)],
    "no picture": [("x.cls", b"bee"), ("x.1.png", None)],
    "two pictures": [("x.png", None), ("x.jpg", None), ("x.cls", b"bee")],
    "two classes": [("x.png", None), ("x.cls", b"bee"), ("x.json", b'{"label": "sun"}')],
    "twice": [("x.png", None), ("x.cls", b"bee"), ("x.cls", b"sun")],
    "broken json": [("x.png", None), ("x.json", b"{")],
    "list": [("x.png", None), ("x.json", b"[1]")],
    "empty": [("x.png", None), ("x.cls", b"")],
    "no text": [("x.png", None), ("x.cls", b"\xff")],
    "no png": [("x.png", b"GIF8"), ("x.cls", b"bee")],
}  # fmt: skip
SAID = {
    "no class": "it says no class beside the picture",
    "no picture": "it has no picture (.png, .jpg, ...); its members that stand together are",
    "two pictures": "it has 2 pictures",
    "two classes": 'it says both "bee" and "sun" of the class',
    "twice": "it has two members .cls",
    "broken json": "its .json cannot be read",
    "list": "its .json is [1], expected an object",
    "empty": "its .cls is empty",
    "no text": "its .cls is not UTF-8 text",
    "no png": "the picture cannot be decoded",
}


def test_a_sample_without_picture_or_class_is_a_bad_row_with_its_name(build, tmp_path):
    images = some_drawings(600)
    good = list(samples_of(images, ["bee", "sun"] * 300))
    members = good[:2]
    for place, (case, bad) in enumerate(BAD.items()):
        members += [(case + name[1:], picture(images[0]) if c is None else c) for name, c in bad]
        members += good[2 + 100 * place : 102 + 100 * place]
    members += good[2 + 100 * len(BAD) :]
    path = write_tar(tmp_path / "a.tar", members)
    code, answer = build(path)
    assert (code, 'row 1: sample "no class": it says no class' in answer) == (2, True), answer
    code, answer = build(path, "--on-bad-row", "skip")
    assert code == 0, answer
    reasons = [row["found"] for row in build.manifest(answer).summary["bad_rows"]]
    for (case, expected), reason in zip(SAID.items(), reasons, strict=True):
        assert reason.startswith(f'sample "{case}": {expected}')
    rest = build.drawings(path, "--on-bad-row", "skip")
    assert rest == named(images, ["bee", "sun"] * 300)


def test_links_and_devices_are_no_pictures_and_nothing_is_extracted(build, tmp_path):
    images = some_drawings(40)
    path, secret = tmp_path / "a.tar", tmp_path / "secret.png"
    secret.write_bytes(picture(images[0]))
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
    with tarfile.open(path, "w") as tar:
        for name, content in samples_of(images, ["bee", "sun"] * 20, prefix="../../"):
            add_member(tar, name, content)
        for number, kind in enumerate(kinds):
            member = tarfile.TarInfo(f"/etc/{number}.png")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
            add_member(tar, f"/etc/{number}.cls", b"bee")
    before = {path, secret, tmp_path / "store", tmp_path / "cache"}
    code, answer = build(path)
    assert (code, "its .png is a link, device or sparse file" in answer) == (2, True), answer
    assert "3 unreadable of 43 rows" in answer
    assert build.drawings(path, "--on-bad-row", "skip") == named(images, ["bee", "sun"] * 20)
    assert set(tmp_path.iterdir()) == before


def test_damaged_tars_are_bad_files(build, tmp_path):
    images = some_drawings(40)
    good = write_tar(tmp_path / "good" / "a.tar", list(samples_of(images, ["bee", "sun"] * 20)))
    content = good.read_bytes()
    sample = len(picture(images[0])) // 512 * 512 + 512 + 512 + 1024
    header = bytearray(content)
    header[10 * 512 + 148 : 10 * 512 + 156] = b"0000000\0"
    cases = {
        "within": (content[:20_000], "is truncated or damaged"),
        "boundary": (content[:sample], "truncated or damaged"),
        "header": (bytes(header), "damaged"),
        "two": (content + content, "goes on behind the end of the archive"),
        "html": (b"<html>" + bytes(2_000), "a web page"),
        "gzip": (b"\x1f\x8b" + bytes(2_000), "compressed with gzip: unpack it"),
        "empty": (b"", "not a tar archive: it is empty"),
    }
    for case, (damaged, message) in cases.items():
        path = fill_with(tmp_path / case, {"b.tar": damaged, "a.tar": content}) / "b.tar"
        assert message in build.refused(path), case
        assert message in build.refused(tmp_path / case), case
        rest = build.drawings(tmp_path / case, "--on-bad-file", "skip")
        assert rest == named(images, ["bee", "sun"] * 20), case


def test_folders_of_classes_in_a_tar_are_to_be_unpacked(build, tmp_path):
    images = some_drawings(4)
    members = [(f"bee/{i}.png", picture(image)) for i, image in enumerate(images)]
    path = write_tar(tmp_path / "a.tar", members)
    assert "if its folders are classes, unpack it and give the folder" in build.refused(path)
    packed = write_tar(tmp_path / "gz" / "a.tar.gz", members)
    assert "unpack it" in build.refused(packed)


@pytest.mark.parametrize("flags", [(), ("--with-metadata",)])
def test_an_export_is_read_back_with_its_names_splits_and_metadata(build, tmp_path, flags):
    out, made = tars.export(build, tmp_path, some_drawings(300), "webdataset", *flags)
    described = json.loads((out / "webdataset" / "dataset.json").read_text())
    described["splits"]["spare"] = []
    (out / "webdataset" / "dataset.json").write_text(json.dumps(described))
    for source in (out, out / "webdataset"):
        code, answer = build(source, "--splits", "source", *flags)
        assert code == 0, answer
        again = build.manifest(answer)
        assert again.summary["class_names"] == tars.NAMES
        assert tars.rows(build, again) == tars.rows(build, made)
        assert set(again.summary["splits"]) == {"train", "test", "spare"}
    one = next((out / "webdataset").glob("test-*.tar"))
    code, answer = build(one, "--name", "one", "--splits", "source", *flags)
    tests = [row for row in tars.rows(build, made) if row[0] == "test"]
    assert tars.rows(build, build.manifest(answer)) == tests
    answer = build.refused(out, "--label-names", "a,b,c,d,e,f")
    assert "names its labels itself" in answer
    one.rename(out / "webdataset" / "test-000001.tar")
    assert "does not list test-000001.tar" in build.refused(out)
    (out / "webdataset" / "test-000001.tar").unlink()
    assert "test-000000.tar, which" in build.refused(out)


def test_tars_beside_class_files_are_named_and_not_read(build, tmp_path):
    images = some_drawings(20)
    np.save(tmp_path / "bee.npy", images)
    write_tar(tmp_path / "a.tar", list(samples_of(images, ["sun"] * 20)))
    assert "a tar archive: give it as the source if it is WebDataset's" in build.refused(tmp_path)
    assert build.drawings(tmp_path, "--classes", "bee") == named(images, ["bee"] * 20)
