"""`sketchmill build` on records of tf.train.Example, which TensorFlow has written."""

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))

from built import Builder, fill_with, named, some_drawings

from pipelines.sources.records.proto import parse_feature, parse_features

tf = pytest.importorskip("tensorflow")

pytestmark = [
    pytest.mark.slow,
    # TensorFlow's own calls of protobuf and NumPy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NAMES = ["bee", "sun", "sea turtle"]
GIVEN = ("--label-names", ",".join(NAMES))


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return Builder(tmp_path, capsys)


def feature(value):
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str | bytes):
        values = [v.encode() if isinstance(v, str) else v for v in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(**features) -> bytes:
    made = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def write(path: Path, records: list[bytes], compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type=compression)
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)
    return path


def picture(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, kind, **options)
    return sink.getvalue()


WAYS = {
    "encoded": lambda image, n: {"image__encoded": picture(image), "image__class__label": n},
    "named": lambda image, n: {"image": picture(image), "image__class__text": NAMES[n], "label": n},
    "raw": lambda image, n: {
        "image_raw": image.tobytes(), "height": 28, "width": 28, "depth": 1, "label": n,
    },
    "square": lambda image, n: {"img": image.tobytes(), "class_name": NAMES[n]},
    "numbers": lambda image, n: {"image": image, "word": NAMES[n], "other": [1.5, 2.5]},
    "text": lambda image, n: {"image": picture(image), "label": NAMES[n]},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_pictures_and_labels_gives_the_same(build, tmp_path, way):
    images, labels = some_drawings(600), [i % 3 for i in range(600)]
    records = [example(**WAYS[way](image, n)) for image, n in zip(images, labels, strict=True)]
    folder = tmp_path / "data"
    write(folder / "train.tfrecord-00000-of-00002", records[:300])
    write(folder / "train.tfrecord-00001-of-00002", records[300:500])
    write(folder / "val.tfrecords", records[500:])
    given = ()
    if way in ("encoded", "raw"):
        assert "has the labels 0, 1, 2, which nothing names" in build.refused(folder)
        given = GIVEN
    expected = named(images, [NAMES[n] for n in labels])
    assert build.drawings(folder, *given) == expected


def test_files_of_splits_and_one_file_of_them(build, tmp_path):
    images = some_drawings(60)
    records = [example(**WAYS["text"](image, i % 3)) for i, image in enumerate(images)]
    write(tmp_path / "data" / "train" / "a.tfrecord", records[:40])
    one = write(tmp_path / "data" / "val" / "a.tfrecord", records[40:])
    code, answer = build(tmp_path / "data", "--splits", "source")
    assert (code, answer["drawings"]) == (0, {"train": 40, "validation": 20})
    expected = named(images[40:], [NAMES[i % 3] for i in range(40, 60)])
    assert build.drawings(one) == expected


def test_numbers_beside_names_order_the_classes(build, tmp_path):
    images = some_drawings(6)
    records = [
        example(**WAYS["named"](image, n)) for image, n in zip(images, [2, 1, 0] * 2, strict=True)
    ]
    _, answer = build(write(tmp_path / "a.tfrecord", records))
    assert build.manifest(answer).summary["class_names"] == NAMES


def test_array_records_are_read_as_well(build, tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    images, labels = some_drawings(600), [i % 3 for i in range(600)]
    path = tmp_path / "data" / "train.array_record"
    path.parent.mkdir()
    writer = module.ArrayRecordWriter(str(path), "group_size:4")
    for image, n in zip(images, labels, strict=True):
        writer.write(example(**WAYS["named"](image, n)))
    writer.close()
    assert build.drawings(path.parent) == named(images, [NAMES[n] for n in labels])
    assert build.drawings(path, "--name", "one") == named(images, [NAMES[n] for n in labels])
    damaged = fill_with(tmp_path / "bad", {"train.array_record": path.read_bytes()[:-100]})
    assert "is damaged, or no file of ArrayRecord" in build.refused(damaged)


def test_metadata_are_features(build, tmp_path):
    image = some_drawings(1)[0]
    record = example(
        image=picture(image), word="bee", key_id=10**15, countrycode="DE", recognized=1,
        timestamp="2017-03-06 00:28:58.85688 UTC",
    )  # fmt: skip
    path = write(tmp_path / "a.tfrecord", [record])
    code, answer = build(path, "--with-metadata")
    assert code == 0, answer
    assert build.drawings(path, "--recognized-only", "--name", "x") == named([image], ["bee"])
    write(path, [record, example(image=picture(image), word="bee")])
    code, answer = build(path, "--with-metadata")
    assert (code, "row 1: key_id is missing" in answer) == (2, True), answer


def test_a_record_without_picture_or_label_is_a_bad_row(build, tmp_path):
    images = some_drawings(100)
    good = [example(image=picture(image), label=i % 3) for i, image in enumerate(images)]
    first = picture(images[0])
    bad = {
        "it has no feature label": example(image=first),
        "it has no feature image": example(label=1),
        "label is 2 int64, expected int64": example(image=first, label=[1, 2]),
        "label is float, expected int64": example(image=first, label=1.0),
        "the label is 3, expected 0 to 2": example(image=first, label=3),
        "the label is -1, expected 0 to 2": example(image=first, label=-1),
        "the picture cannot be decoded": example(image=b"x", label=1),
        "the picture has 27x28 pixels, expected 28x28": example(
            image=picture(images[0][1:]), label=1
        ),
        "it is no tf.train.Example": b"\xff\xff",
    }
    path = write(tmp_path / "a.tfrecord", [*good[:50], *bad.values(), *good[50:]])
    code, answer = build(path, *GIVEN)
    assert (code, "row 50: it has no feature label" in answer) == (2, True), answer
    code, answer = build(path, *GIVEN, "--on-bad-row", "skip")
    rows = build.manifest(answer).summary["bad_rows"]
    found = {row["place"]: row["found"] for row in rows}
    for row, expected in enumerate(bad, 50):
        assert found[f"row {row}"].startswith(expected)
    rest = build.drawings(path, *GIVEN, "--on-bad-row", "skip")
    assert rest == named(images, [NAMES[i % 3] for i in range(100)])
    code, answer = build(path, *GIVEN, "--on-bad-row", "skip", "--max-line-bytes", "200")
    assert (code, "bytes, more than --max-line-bytes 200" in answer) == (2, True), answer


def test_other_sizes_are_fitted_where_that_is_said(build, tmp_path):
    images = np.zeros((3, 40, 20), np.uint8)
    images[:, 5:35, 5:15] = np.array([255, 200, 150])[:, None, None]
    square, bilinear = np.pad(images, ((0, 0), (0, 0), (10, 10))), Image.Resampling.BILINEAR
    fitted = [np.array(Image.fromarray(image).resize((28, 28), bilinear)) for image in square]
    ways = {
        "png": [{"image": picture(image)} for image in images],
        "raw": [{"image": image.tobytes(), "height": 40, "width": 20} for image in images],
    }
    for way, records in ways.items():
        path = write(tmp_path / f"{way}.tfrecord", [example(**r, word="bar") for r in records])
        assert "has pictures of 40x20 pixels, expected 28x28" in build.refused(path)
        code, answer = build(path, "--fit", "pad")
        assert (code, answer["repaired"]) == (0, {"padded and resized": 3})
        assert build.drawings(path, "--fit", "pad") == named(fitted, ["bar"] * 3)


def test_what_is_no_drawing_or_has_no_class_is_refused(build, tmp_path):
    image = some_drawings(1)[0]
    cases = {
        "it has no image or image/encoded; it has label (int64), x (784 int64)": example(
            x=image, label=1
        ),
        "it has no label or class_name; it has id (int64), image (bytes)": example(
            image=image.tobytes(), id=1
        ),
        "its image holds floats": example(image=(image / 255).ravel().tolist(), label=1),
        "neither an encoded picture nor those of a square": example(image=b"12345", label=1),
        "height, width, ... of 28 x 28 x 3": example(
            image=bytes(28 * 28 * 3), height=28, width=28, depth=3, label=1
        ),
        "it holds strokes": example(ink=[0.1, 0.2], shape=[1, 2], class_index=0),
        "it is no tf.train.Example": b"hello",
    }
    for message, record in cases.items():
        answer = build.refused(write(tmp_path / "a.tfrecord", [record] * 3), *GIVEN)
        assert message in answer


def test_damaged_and_compressed_files_are_refused(build, tmp_path):
    images = some_drawings(40)
    records = [example(image=picture(image), word="bee") for image in images]
    content = write(tmp_path / "good.tfrecord", records).read_bytes()
    turned = bytearray(content)
    turned[len(content) // 2] ^= 1
    packed = write(tmp_path / "packed", records, "GZIP").read_bytes()
    assert packed[:2] == gzip.compress(b"")[:2]
    cases = {
        "compressed with gzip: unpack it": packed,
        "is truncated or damaged at byte": content[:-5],
        "the checksum of the record at byte": bytes(turned),
        "is not a TFRecord file: it is a web page": b"<html>" + bytes(100),
    }
    for number, (message, damaged) in enumerate(cases.items()):
        folder = fill_with(tmp_path / str(number), {"a.tfrecord": content, "b.tfrecord": damaged})
        assert message in build.refused(folder)
        assert build.drawings(folder, "--on-bad-file", "skip") == named(images, ["bee"] * 40)


def test_one_of_the_two_files_of_tfds_is_missed_and_not_done_without(build, tmp_path):
    path = write(
        tmp_path / "x" / "a.tfrecord", [example(image=picture(some_drawings(1)[0]), word="a")]
    )
    fill_with(path.parent, {"dataset_info.json": b"{}"})
    assert "has records without features.json" in build.refused(path.parent)


def test_records_beside_class_files_and_one_file_of_several_are_refused(build, tmp_path):
    images = some_drawings(20)
    path = tmp_path / "x" / "a.tfrecord-00000-of-00001"
    write(path, [example(image=picture(image), word="bee") for image in images])
    assert "a file of records: give it, or a folder with nothing but" in build.refused(path)
    np.save(path.parent / "bee.npy", images)
    assert "can be read in 2 ways: .npy in" in build.refused(path.parent)


def test_any_example_is_parsed_as_tensorflow_writes_it():
    rng = np.random.default_rng(0)
    for _ in range(200):
        made = {}
        for i in range(rng.integers(0, 5)):
            count = int(rng.integers(1, 40))
            made[f"n\u00fc{i}"] = [
                lambda n: [rng.bytes(int(rng.integers(0, 200))) for _ in range(n)],
                lambda n: (rng.integers(-(2**63), 2**63, n) >> rng.integers(0, 63)).tolist(),
                lambda n: rng.normal(size=n).tolist(),
            ][rng.integers(0, 3)](count)
        found = {name: parse_feature(f) for name, f in parse_features(example(**made)).items()}
        assert found.keys() == made.keys()
        for name, values in made.items():
            read = found[name]
            if read.kind == "float":
                np.testing.assert_array_equal(read.values, np.float32(values))
            else:
                assert list(read.values) == values
    for content in (
        b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\n\x05\n\x09",
        b"\x0b",
        b"\x80",
    ):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            parse_features(content)
