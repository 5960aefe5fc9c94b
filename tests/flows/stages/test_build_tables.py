"""`sketchmill build` on Parquet files as other programs write them."""

import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flows.cli import run_command_line
from pipelines.drawings.parquet import IMAGE_TYPE, open_shard, read_images
from pipelines.sources.registry import open_reader, open_source
from pipelines.store.artifacts import open_store

NAMES = ("bee", "sea turtle", "café")
Drawn = Counter[tuple[str, bytes]]


def some_drawings(count: int, seed: int = 0, side: int = 28) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (count, side, side), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    images[:, 3, 3] = 255
    return images


def png(image: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


def pictures(images: np.ndarray) -> pa.Array:
    return pa.array([{"bytes": png(image), "path": None} for image in images], IMAGE_TYPE)


def save(path: Path, columns: dict, names: tuple[str, ...] = (), **options: object) -> None:
    """Write a Parquet file; `names` are those of Hugging Face's ClassLabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names:
        features = {"label": {"_type": "ClassLabel", "names": list(names)}}
        said = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": said})
    pq.write_table(table, path, **options)


def expected(images: np.ndarray, names: list[str]) -> Drawn:
    return Counter((name, image.tobytes()) for name, image in zip(names, images, strict=True))


@pytest.fixture
def build(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[dict, Drawn]]:
    """Return a function that builds `tmp_path / "in"`: what it says, and all drawings."""
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))

    def command(*arguments: str) -> tuple[dict, Drawn]:
        store = ["--store", str(tmp_path / "store"), "--json", "--quiet"]
        source = ["--source", str(tmp_path / "in"), "--classes", "all"]
        code = run_command_line(["build", *source, *arguments, *store])
        said = capsys.readouterr()
        if code:
            return {"code": code, "error": said.err}, Counter()
        result = json.loads(said.out.splitlines()[-1])
        if "dataset" not in result:
            return result, Counter()
        opened = open_store(str(tmp_path / "store"))
        manifest = opened.resolve("datasets", result["dataset"])
        drawn: Drawn = Counter()
        for entry in manifest.files:
            if entry.path.endswith(".parquet"):
                table = open_shard(opened.get(f"{manifest.prefix}/{entry.path}")).read()
                names = [manifest.summary["class_names"][i] for i in table["label"].to_pylist()]
                drawn += expected(read_images(table["image"]), names)
        return result | {"summary": manifest.summary}, drawn

    return command


# What a column of labels may be, of positions in NAMES.
LABELS: dict[str, Callable[[list[int]], dict]] = {
    "text": lambda n: {"label": [NAMES[i] for i in n]},
    "large_string": lambda n: {"label": pa.array([NAMES[i] for i in n], pa.large_string())},
    "string_view": lambda n: {"word": pa.array([NAMES[i] for i in n], pa.string_view())},
    "bytes": lambda n: {"label": [NAMES[i].encode() for i in n]},
    "binary_view": lambda n: {"word": pa.array([NAMES[i].encode() for i in n], pa.binary_view())},
    "dictionary": lambda n: {"class": pa.array([NAMES[i] for i in n]).dictionary_encode()},
    "decomposed": lambda n: {"label": [unicodedata.normalize("NFD", NAMES[i]) for i in n]},
    "numbers and names": lambda n: {"label": [5 - i for i in n], "category": [NAMES[i] for i in n]},
    "numbers of rows": lambda n: {"id": list(range(len(n))), "class_name": [NAMES[i] for i in n]},
    "both": lambda n: {"label": [NAMES[i] for i in n], "class_name": [NAMES[i] for i in n]},
    "another column of text": lambda n: {
        "label": [NAMES[i] for i in n],
        "category": ["x"] * len(n),
    },
}
NUMBERS: dict[str, Callable[[list[int]], dict]] = {
    "int64": lambda n: {"label": n},
    "uint8": lambda n: {"label": pa.array(n, pa.uint8())},
    "float": lambda n: {"label": pa.array(n, pa.float64())},
    "with names": lambda n: {"label": n, "word": pa.array([NAMES[i] for i in n], pa.string_view())},
}
PICTURES: dict[str, Callable[[pa.Array], pa.Array]] = {
    "struct": lambda p: p,
    "struct of views": lambda p: pa.StructArray.from_arrays(
        [p.field("path").cast(pa.string_view()), p.field("bytes").cast(pa.binary_view())],
        ["path", "bytes"],
    ),
    "binary": lambda p: p.field("bytes"),
    "large_binary": lambda p: p.field("bytes").cast(pa.large_binary()),
    "binary_view": lambda p: p.field("bytes").cast(pa.binary_view()),
    "dictionary": lambda p: p.field("bytes").dictionary_encode(),
}


@settings(max_examples=40, deadline=None)
@given(
    labels=st.sampled_from(sorted(LABELS | NUMBERS)),
    kind=st.sampled_from(sorted(PICTURES)),
    column=st.sampled_from(["image", "img", "picture"]),
    group=st.integers(1, 9),
    numbers=st.lists(st.integers(0, 2), min_size=1, max_size=8),
)
def test_pictures_and_labels_of_any_type_are_the_same_drawings(
    tmp_path_factory, labels, kind, column, group, numbers
):
    folder = tmp_path_factory.mktemp("types")
    images = some_drawings(len(numbers))
    columns = {column: PICTURES[kind](pictures(images))}
    names = NAMES if labels in NUMBERS else ()
    columns |= (LABELS | NUMBERS)[labels](numbers)
    if kind == "struct of views":
        group = len(numbers)  # PyArrow cannot slice them
    save(folder / "in" / "x.parquet", columns, names, row_group_size=group)
    source = open_source(str(folder / "in"), None, folder / "cache")
    read = open_reader(source.files[0], 28).read(0, len(numbers))
    assert read.problem is None or not any(read.problem)
    assert np.array_equal(read.images, images)
    assert [source.class_names[i] for i in read.label] == [NAMES[i] for i in numbers]


def test_what_programs_leave_in_a_folder_changes_nothing(build, tmp_path):
    images, root = some_drawings(40), tmp_path / "in"
    names = ["bee"] * 20 + ["sun"] * 20
    save(root / "part-1.parquet", {"image": pictures(images), "label": names})
    other = {"image": pictures(some_drawings(9, seed=1)), "label": ["owl"] * 9}
    save(root / "part-0.parquet", {"image": pa.nulls(0), "label": pa.nulls(0)})
    save(
        root / "part-2.parquet", {"image": pictures(images[:0]), "label": pa.array([], pa.string())}
    )
    save(
        root / "part-3.parquet", {"image": pa.array([], pa.float64()), "label": pa.array([], "f8")}
    )
    for name in [
        ".part-1.parquet",
        "_part.parquet",
        "_temporary/0/part-9.parquet",
        ".ipynb_checkpoints/part-1-checkpoint.parquet",
        "part-1-checkpoint.parquet",
    ]:
        save(root / name, other)
    result, drawn = build()
    assert drawn == expected(images, names), result


@pytest.mark.slow
def test_a_class_in_the_name_of_a_folder_is_that_of_its_files(build, tmp_path):
    images, root = some_drawings(60), tmp_path / "in"
    for start, folder in [(0, "label=bee"), (20, "label=sea%20turtle"), (40, "class_name=3")]:
        part = {"image": pictures(images[start : start + 20])}
        save(root / folder / "part-0.parquet", part)
    result, drawn = build()
    assert drawn == expected(images, ["bee"] * 20 + ["sea turtle"] * 20 + ["3"] * 20), result
    # The same files in each other's folders are another dataset.
    (root / "label=bee").rename(root / "label=x")
    (root / "label=sea%20turtle").rename(root / "label=bee")
    (root / "label=x").rename(root / "label=sea%20turtle")
    swapped, drawn = build()
    assert drawn == expected(images, ["sea turtle"] * 20 + ["bee"] * 20 + ["3"] * 20)
    assert swapped["dataset"] != result["dataset"]


@pytest.mark.slow
def test_a_folder_that_contradicts_its_file_is_refused(build, tmp_path):
    columns = {"image": pictures(some_drawings(4)), "word": ["bee"] * 4}
    save(tmp_path / "in" / "label=bee" / "a.parquet", columns)
    assert build()[1].total() == 4
    save(tmp_path / "in" / "label=sun" / "b.parquet", columns)
    assert "b.parquet: the path says 'sun', the column 'word' 'bee'" in build()[0]["error"]
    save(tmp_path / "in" / "label=sun" / "b.parquet", columns | {"word": ["sun", None, "", "sun"]})
    assert "b.parquet row 1: word is null, expected a class name" in build()[0]["error"]


@pytest.mark.slow
def test_parts_that_number_classes_differently_are_read_by_name(build, tmp_path):
    images = some_drawings(40)
    for start, names in [(0, ("bee", "sun")), (20, ("sun", "owl"))]:
        columns = {"image": pictures(images[start : start + 20]), "label": [0, 1] * 10}
        save(tmp_path / "in" / f"{start}.parquet", columns, names)
    result, drawn = build()
    assert drawn == expected(images, ["bee", "sun"] * 10 + ["sun", "owl"] * 10), result


def test_splits_of_the_files_are_merged_and_that_is_said(build, tmp_path):
    images = some_drawings(60)
    for name, rows in [("train-00000-of-00001", slice(40)), ("test-00000-of-00001", slice(40, 60))]:
        columns = {"image": pictures(images[rows]), "label": ["bee"] * len(images[rows])}
        save(tmp_path / "in" / "data" / f"{name}.parquet", columns)
    merged = {"train": 40, "test": 20}
    assert build("--dry-run")[0]["merged_splits"] == merged
    result, drawn = build()
    assert drawn == expected(images, ["bee"] * 60)
    assert result["merged_splits"] == result["summary"]["merged_splits"] == merged


def odd_rows() -> tuple[dict, list[int], dict[str, str]]:
    """Return a table of 24 rows, which of them are drawings, and what is wrong with the others."""
    images = some_drawings(24)
    encoded: list = [{"bytes": png(image), "path": None} for image in images]
    label: list = ["bee", "sun"] * 12
    word = list(label)
    encoded[3] = {"bytes": None, "path": "a/3.png"}
    encoded[4] = None
    encoded[5] = {"bytes": b"\x89PNG and no more", "path": None}
    encoded[6] = {"bytes": png(some_drawings(1, side=30)[0]), "path": None}
    encoded[7] = {"bytes": png(np.stack([images[7], images[8], images[9]], axis=2)), "path": None}
    label[8], label[9], word[10] = None, "", "sun"
    encoded[11] = {"bytes": png(images[11].astype(np.uint16) * 257), "path": None}
    columns = {"image": pa.array(encoded, IMAGE_TYPE), "label": label, "word": word}
    found = {
        "row 3": "image has a path, 'a/3.png', but no picture",
        "row 4": "the picture is null",
        "row 5": "the picture cannot be decoded: ",
        "row 6": "the picture has 30x30 pixels, expected 28x28",
        "row 7": "the picture has several colors",
        "row 8": "label is null, expected a class name",
        "row 9": "label is '', expected a class name",
        "row 10": "label is 'bee', word says 'sun'",
    }
    return columns, [row for row in range(24) if f"row {row}" not in found], found


def test_each_row_that_is_no_drawing_is_named_and_left_out_if_that_is_asked_for(build, tmp_path):
    columns, good, found = odd_rows()
    save(tmp_path / "in" / "x.parquet", columns)
    refused, _ = build()
    assert refused["code"] == 2
    assert "x.parquet row " in refused["error"]
    assert "--on-bad-row skip" in refused["error"]
    result, drawn = build("--on-bad-row", "skip")
    images = some_drawings(24)
    names = [["bee", "sun"][row % 2] for row in good]
    assert drawn == expected(images[good], names), result
    named = {row["place"]: row["found"] for row in result["summary"]["bad_rows"]}
    assert named.keys() == found.keys()
    assert all(named[place].startswith(text) for place, text in found.items()), named
    assert result["repaired"] == {"16-bit values": 1}


def with_labels(label: object, **more: object) -> dict:
    return {"image": pictures(some_drawings(4)), "label": label} | more


REFUSED = {
    "bool": (with_labels([True, False] * 2), "nothing names the numbers in the column 'label'"),
    "decimal": (with_labels([Decimal(1)] * 4), "'label' holds decimal128"),
    "numbers": (with_labels([0, 1, 2, 3]), "nothing names the numbers in the column 'label'"),
    "numbers twice": (
        with_labels([0, 1, 0, 1], word=["bee", "sun", "owl", "sun"]),
        "0 stands beside 'bee' and 'owl' in the columns 'label' and 'word'",
    ),
    "text that is no strokes": (
        {"label": ["bee"] * 4, "image": ["iVBORw0KGgo="] * 4},
        "'image' holds string, expected encoded pictures .*, lists of 28x28 whole numbers, or",
    ),
    "no strokes in the text": (
        {"word": ["bee"] * 4, "drawing": ["bee.png"] * 4},
        "'drawing' has no drawing in the first 4 rows: the drawing is the text 'bee.png'",
    ),
    "floats": (
        {"label": ["bee"] * 4, "image": [[[0.5] * 28] * 28] * 4},
        r"'image' holds float64 values of 0.5 to 0.5, .*: save \(255 \* x\)",
    ),
    "colors": (
        {"label": ["bee"] * 4, "image": [[[[0, 1, 2]] * 28] * 28] * 4},
        r"'image' has the shape \(1, 28, 28, 3\), expected square drawings",
    ),
    "paths": (
        {"label": ["bee"] * 4, "image": [{"path": "x.png"}] * 4},
        "'image' holds struct<path: string>, expected encoded pictures",
    ),
    "no labels": ({"image": pictures(some_drawings(4))}, "no folder class_name=NAME above it"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_columns_that_are_not_guessed_at_are_refused_with_words(build, tmp_path, case):
    columns, message = REFUSED[case]
    save(tmp_path / "in" / "x.parquet", columns)
    refused, _ = build()
    assert refused["code"] == 2
    with pytest.raises(ValueError, match=message):
        raise ValueError(refused["error"])


def test_folders_without_a_drawing_of_a_class_or_of_two_sizes_are_refused(build, tmp_path):
    root = tmp_path / "in"
    save(root / "a.parquet", {"image": pa.nulls(0), "label": pa.nulls(0)})
    assert "no row that names a class" in build()[0]["error"]
    (root / "a.parquet").unlink()
    save(root / "_a.parquet", with_labels(["bee"] * 4))
    assert "no Parquet files but temporary ones" in build()[0]["error"]
    save(root / "label=3" / "a.parquet", {"image": pictures(some_drawings(4))})
    assert "has no column label or labels, and no folder class_name=NAME" in build()[0]["error"]
    save(root / "label=3" / "a.parquet", with_labels(["bee"] * 4))
    wide = {"image": pictures(some_drawings(4, side=30)), "label": ["bee"] * 4}
    save(root / "b.parquet", wide)
    error = build()[0]["error"]
    assert "a source has one size" in error
    assert "30x30" in error


def with_metadata(**changed: object) -> dict:
    columns = {
        "key_id": [str(5_201_136_883_597_312 + i) for i in range(40)],
        "countrycode": ["US", "DE"] * 20,
        "recognized": ["True", "false", "TRUE", "1"] * 10,
        "timestamp": ["2017-03-06 00:28:58.85688 UTC"] * 40,
    }
    return {"image": pictures(some_drawings(40)), "label": ["bee"] * 40} | columns | changed


@pytest.mark.slow
def test_metadata_are_understood_as_google_and_tables_of_text_have_them(build, tmp_path):
    save(tmp_path / "in" / "x.parquet", with_metadata())
    result, drawn = build("--recognized-only")
    assert drawn.total() == 30, result
    assert build("--countries", "DE")[1].total() == 20
    result, drawn = build("--with-metadata")
    assert drawn.total() == 40, result


@pytest.mark.slow
def test_bad_metadata_hinder_only_what_needs_them(build, tmp_path):
    recognized = ["True", "None", None, "False"] * 10
    columns = with_metadata(
        recognized=recognized,
        countrycode=[None] * 40,
        timestamp=pa.array([1_488_760_138_000] * 40),
        key_id=pa.array([5.2e15] * 40),
    )
    save(tmp_path / "in" / "x.parquet", columns)
    assert build()[1].total() == 40
    refused, _ = build("--recognized-only")
    assert refused["code"] == 2
    assert 'x.parquet row 1: recognized is "None", expected true or false' in refused["error"]
    result, drawn = build("--recognized-only", "--on-bad-row", "skip")
    assert drawn.total() == 10, result
    refused, _ = build("--countries", "US")
    assert "row 0: countrycode is null, expected two capital letters" in refused["error"]
