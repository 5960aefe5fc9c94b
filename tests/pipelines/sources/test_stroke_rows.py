"""Each line of strokes is judged by itself: drawn right, converted and counted, or a problem."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.drawings.batch import METADATA_COLUMNS, Drawings
from pipelines.sources.base import BadFileError, SourceFile, SourceOptions
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_reader, open_source
from pipelines.sources.strokes.cairo import render_drawings
from pipelines.sources.strokes.formats import parse_line
from pipelines.sources.strokes.simplify import (
    CANVAS,
    LISTS,
    PAGE,
    PAIRS,
    RAW,
    Reading,
    read_strokes,
    simplify,
)

# As Google writes it, as large as the page.
SQUARE = [[[0, 255, 255, 0], [0, 0, 255, 255]], [[0, 0], [255, 0]]]
SCALED = "coordinates of another page"
WHO = {
    "countrycode": "DE",
    "timestamp": "2017-03-06 00:28:58.85688 UTC",
    "recognized": True,
    "key_id": "4727732971765760",
}


def points_of(drawing: list) -> list[np.ndarray]:
    return [np.array(stroke[:2], np.float64).T for stroke in drawing]


def pairs(drawing: list) -> list:
    return [[list(point) for point in zip(*stroke[:2], strict=True)] for stroke in drawing]


def changed(drawing: list, scale: float, shift: float = 0) -> list:
    return [[[value * scale + shift for value in part] for part in stroke] for stroke in drawing]


def with_times(drawing: list) -> list:
    return [[*stroke, list(range(len(stroke[0])))] for stroke in drawing]


def line(drawing: object, **fields: object) -> str:
    return json.dumps({"word": "bee", **WHO, "drawing": drawing} | fields)


def open_lines(root: Path, content: bytes | list[str], columns=(), name="bee") -> SourceFile:
    """Write a file of strokes and open it as the command does."""
    (root / "source").mkdir(exist_ok=True)
    if isinstance(content, list):
        content = "".join(f"{text}\n" for text in content).encode()
    (root / "source" / f"{name}.ndjson").write_bytes(content)
    source = open_source(
        str(root / "source"), [name], root / "cache", SourceOptions(columns=columns)
    )
    return source.files[0]


def read_lines(root: Path, content: bytes | list[str], columns=()) -> Drawings:
    file = open_lines(root, content, columns)
    return open_reader(file, 28).read(0, file.rows)


def problems(drawings: Drawings) -> list[str | None]:
    return [None] * len(drawings) if drawings.problem is None else drawings.problem.tolist()


@pytest.mark.parametrize(
    ("written", "points", "scale", "repair"),
    [
        (SQUARE, LISTS, PAGE, None),
        (changed(SQUARE, 1.0), LISTS, PAGE, None),
        (with_times(SQUARE), LISTS, RAW, None),
        (with_times(changed(SQUARE, 3.5, -20.25)), LISTS, RAW, None),
        (changed(SQUARE, 4), LISTS, CANVAS, SCALED),
        (changed(SQUARE, 1, -3), LISTS, CANVAS, SCALED),
        (changed(SQUARE, 1, 1), LISTS, CANVAS, SCALED),
        (changed(SQUARE, 1 / 510, 0.25), LISTS, CANVAS, SCALED),
        (pairs(SQUARE), PAIRS, PAGE, "points as pairs"),
        (pairs(changed(SQUARE, 4)), PAIRS, CANVAS, f"points as pairs, {SCALED}"),
        ([{"x": x, "y": y} for x, y in SQUARE], None, PAGE, "strokes as objects"),
        ([{"x": x, "y": y, "t": x} for x, y in SQUARE], None, RAW, "strokes as objects"),
        (
            [[{"x": x, "y": y} for x, y in stroke] for stroke in pairs(SQUARE)],
            None,
            PAGE,
            "points as objects",
        ),
        (json.dumps(SQUARE), LISTS, PAGE, "strokes as text"),
        ([], None, None, None),
    ],
)
def test_one_drawing_has_the_same_strokes_however_it_was_written(written, points, scale, repair):
    found = read_strokes(written)
    assert (found.points, found.scale, found.repair) == (points, scale, repair)
    expected = [] if written == [] else points_of(SQUARE)
    if scale in (RAW, CANVAS):
        expected = simplify(expected)
    assert [s.tolist() for s in found.strokes] == [s.tolist() for s in expected]


@pytest.mark.parametrize(
    ("drawing", "found"),
    [
        (None, "the drawing is null, expected a list of strokes"),
        ("[[[1", "the drawing is the text"),
        ([1, 2], "a stroke is 1, expected"),
        ([[1, 2]], "a stroke has 1, expected"),
        ([[[1, 2], [3]]], "a stroke has 2 lists of 2 and 1 numbers"),
        ([[[1, 2], [3, 4], [5]]], "a stroke has 3 lists of 2 and 2 and 1 numbers"),
        ([[[1, 2, 3]]], "a stroke has 1 lists of 3 numbers"),
        ([*SQUARE, []], "a stroke has 0 lists of no numbers"),
        ([*SQUARE, [[], []]], "a stroke has 2 lists of 0 and 0 numbers"),
        ([[[1, 2, 3]] * 4], "a stroke has 4 lists"),
        ([[[1, math.nan, 3], [1, 2, 3]]], "a coordinate is nan"),
        ([[[1, -math.inf, 3], [1, 2, 3]]], "a coordinate is -inf"),
        ([[[1, 10**400, 3], [1, 2, 3]]], "a coordinate is inf"),
        ([[[1, 1e300, 3], [1, 2, 3]]], r"a coordinate is 1e\+300, expected 0 to 255"),
        ([[[1, "2", 3], [1, 2, 3]]], 'a coordinate is "2", expected a number'),
        ([[[1, True, 3], [1, 2, 3]]], "a coordinate is true"),
        ([[[1, None, 3], [1, 2, 3]]], "a coordinate is null"),
        ([[[1, [2], 3], [1, 2, 3]]], r"a coordinate is \[2\]"),
        ([{"x": [1], "z": [2]}], "expected x and y"),
        ([{"x": 1, "y": 2}], "expected x and y"),
        ([[{"x": 1, "y": 2}, {"x": 1}]], "expected x and y"),
    ],
)
def test_what_is_no_drawing_is_a_problem_of_its_row(drawing, found):
    with pytest.raises(ValueError, match=found):
        read_strokes(drawing)


def test_one_point_is_a_dot_wherever_it_lies():
    for place in (7, 700, -1e5 + 0.25):
        (stroke,) = read_strokes([[[place], [place]]]).strokes
        assert np.isfinite(stroke).all()
        assert stroke.min() >= 0
        assert stroke.max() <= 255


def test_on_a_larger_page_a_small_drawing_is_scaled_as_the_others_are(tmp_path):
    small = changed(SQUARE, 100 / 255)
    small = [[[round(value) for value in part] for part in stroke] for stroke in small]
    drawings = read_lines(tmp_path, [line(small), line(SQUARE), line(changed(SQUARE, 3))])
    whole = render_drawings([simplify(points_of(SQUARE))])[0]
    assert (drawings.images == [whole] * 3).all()
    assert drawings.repair.tolist() == [SCALED, None, SCALED]
    alone = read_lines(tmp_path, [line(small), line(SQUARE)])
    assert alone.repair is None
    assert np.array_equal(alone.images[0], render_drawings([points_of(small)])[0])


def test_strokes_of_two_points_are_read_as_the_other_lines_of_the_file_are(tmp_path):
    two = [[[10, 200], [30, 255]], [[255, 0], [3, 4]]]
    lists = read_lines(tmp_path, [line(two), line(SQUARE)])
    as_pairs = read_lines(tmp_path, [line(two), line(pairs(SQUARE)), line([[[9, 8]]])])
    transposed = [np.array(stroke, np.float64) for stroke in two]
    assert np.array_equal(lists.images[0], render_drawings([points_of(two)])[0])
    assert np.array_equal(as_pairs.images[0], render_drawings([transposed])[0])
    assert np.array_equal(as_pairs.images[1], lists.images[1])
    assert as_pairs.repair.tolist() == ["points as pairs"] * 3
    assert not np.array_equal(lists.images[0], as_pairs.images[0])


@pytest.mark.parametrize(("first", "other"), [(SQUARE, pairs(SQUARE)), (pairs(SQUARE), SQUARE)])
def test_a_file_with_points_in_both_ways_is_refused_with_the_line(tmp_path, first, other):
    file = open_lines(tmp_path, [*[line(first)] * 300, line(other)])
    reader = open_reader(file, 28)
    assert problems(reader.read(0, 300)) == [None] * 300
    with pytest.raises(BadFileError, match=r"bee\.ndjson line 301 has points as"):
        reader.read(290, 301)


def test_raw_lines_and_simplified_ones_are_told_apart_line_by_line(tmp_path):
    raw = with_times(changed(SQUARE, 3, 40))
    mixed = read_lines(tmp_path, [line([]), line(raw), line(SQUARE), line(raw)])
    assert open_lines(tmp_path, [line([]), line(raw)]).format == "raw"
    assert open_lines(tmp_path, [line([]), line(SQUARE), line(raw)]).format == "simplified"
    assert not mixed.images[0].any()
    assert (mixed.images[1:] == mixed.images[1]).all()
    assert mixed.images[1].any()


@pytest.mark.parametrize(
    ("torn", "found"),
    [
        (line(SQUARE)[:90], "not a drawing in JSON .* at character"),
        ("", "a blank line"),
        ("  \r", "a blank line"),
        ("[" * 100_000, "not a drawing in JSON"),
        # How deep json reads depends on the Python.
        (
            '{"drawing": ' + "[" * 5_000 + "]" * 5_000 + "}",
            "not a drawing|a coordinate|a stroke has 1",
        ),
        ("[1, 2]", "no object with a key 'drawing'"),
        (json.dumps({"word": "bee"}), "no object with a key 'drawing'"),
        (line([[[1, 2], [3]]]), "a stroke has 2 lists"),
        (line(SQUARE, word="ant"), "a drawing of 'ant', the file's name says 'bee'"),
    ],
)
def test_a_bad_line_is_one_row_and_hinders_no_other(tmp_path, torn, found):
    for place in (0, 2):
        lines = [line(SQUARE)] * 3
        lines.insert(place, torn)
        if "'ant'" in found and place == 0:
            continue  # the first line speaks for the file
        drawings = read_lines(tmp_path, lines)
        told = problems(drawings)
        assert [i for i, text in enumerate(told) if text] == [place]
        assert re.search(found, told[place]), told[place]
        assert not drawings.images[place].any()
        assert np.array_equal(drawings.images[1], drawings.images[3])


@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n", b"\n\n\n", b"\r\n \r\n", b"\n" * 600])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("count", [1, 256, 257])
def test_ends_of_lines_and_of_files_make_no_rows(tmp_path, start, end, count):
    newline = b"\r\n" if b"\r" in end else b"\n"
    content = start + newline.join([line(SQUARE).encode()] * count) + end
    file = open_lines(tmp_path, content)
    assert file.rows == count
    drawings = open_reader(file, 28).read(count - 1, count)
    assert np.array_equal(drawings.images[0], render_drawings([points_of(SQUARE)])[0])
    assert problems(drawings) == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(SQUARE).encode("utf-16"), "is not .ndjson: it is text in UTF-16; save it as UTF-8"),
        (line(SQUARE).encode("utf-16-be"), "it is text in UTF-16"),
        (f"[\n{line(SQUARE)},\n{line(SQUARE)}\n]".encode(), "it is one JSON array; write an obj"),
        (b"\xef\xbb\xbf [" + line(SQUARE).encode() + b"]", "it is one JSON array"),
        (json.dumps(json.loads(line(SQUARE)), indent=1).encode(), "line 1: not a drawing in JSON"),
        (b"\n\n", "is not .ndjson"),
        (b"", "is not .ndjson: it is empty"),
        (b"\x1f\x8b\x08\x00" + bytes(range(256)), "is not .ndjson"),
    ],
)
def test_another_kind_of_file_is_refused_as_a_file(tmp_path, content, message):
    with pytest.raises(BadFileError, match=message):
        open_lines(tmp_path, content)


def test_names_of_classes_are_equal_however_accents_are_coded():
    composed, apart = "caf\u00e9", "cafe\u0301"
    for name, word in ((composed, apart), (apart, composed)):
        assert parse_line(line(SQUARE, word=word).encode(), name).problem is None
    assert parse_line(line(SQUARE, word="cafe").encode(), composed).problem is not None


GOOD_METADATA = [
    ("key_id", "key_id", 4727732971765760, 4727732971765760),
    ("key_id", "key_id", "9223372036854775807", 2**63 - 1),
    ("countrycode", "country_code", "NA", "NA"),
    ("countrycode", "country_code", "", ""),
    ("recognized", "recognized", "False", False),
    ("recognized", "recognized", "true", True),
    ("recognized", "recognized", 0, False),
    ("recognized", "recognized", "1", True),
    ("timestamp", "timestamp", "2017-03-06 00:28:58 UTC", 1_488_760_138),
    ("timestamp", "timestamp", 1_488_760_138, 1_488_760_138),
    ("timestamp", "timestamp", "2017-03-06T01:28:58.9+01:00", 1_488_760_138),
]
BAD_METADATA = [
    ("key_id", [None, "", "12a", -1, 2**63, 4.7e15, True, "4.7e15", "\u0661", [1]]),
    ("countrycode", [None, "None", "us", "USA", 7, True, [], "U1", "US\n"]),
    ("recognized", [None, "", "None", "yes", 2, -1, [], 0.5]),
    ("timestamp", [None, "", "None", "yesterday", 1_488_760_138_000, "0000-00-00 00:00:00 UTC"]),
]


@pytest.mark.parametrize(("key", "column", "value", "expected"), GOOD_METADATA)
def test_metadata_are_understood_as_people_write_them(key, column, value, expected):
    drawing = parse_line(line(SQUARE, **{key: value}).encode(), "bee", [column])
    assert drawing.problem is None
    assert drawing.metadata == {column: expected}
    assert type(drawing.metadata[column]) is type(expected)


@pytest.mark.parametrize(("key", "values"), BAD_METADATA)
def test_bad_metadata_are_a_problem_that_names_the_key_where_they_are_wanted(key, values):
    missing = {k: v for k, v in json.loads(line(SQUARE)).items() if k != key}
    for text in [line(SQUARE, **{key: value}) for value in values] + [json.dumps(missing)]:
        wanted = parse_line(text.encode(), "bee", METADATA_COLUMNS)
        assert (wanted.problem or "").startswith(f"{key} is "), text
        assert parse_line(text.encode(), "bee").problem is None, text


def record(drawing: list, country: bytes = b"DE", recognized: int = 1, key_id: int = 7) -> bytes:
    """Return one drawing as Google's .bin has it."""
    head = key_id.to_bytes(8, "little") + country + bytes([recognized])
    parts = [head, (1_488_760_138).to_bytes(4, "little"), len(drawing).to_bytes(2, "little")]
    for x, y in drawing:
        parts += [len(x).to_bytes(2, "little"), bytes(x), bytes(y)]
    return b"".join(parts)


def test_odd_records_of_binary_files_are_problems_of_their_rows(tmp_path):
    odd = [record(SQUARE, b"u1"), record(SQUARE, recognized=2), record(SQUARE, key_id=2**63)]
    records = [record([]), *odd, record([[[], []]]), record(SQUARE, b"\0\0")]
    (tmp_path / "bee.bin").write_bytes(b"".join(records))
    found = {}
    for columns in ((), METADATA_COLUMNS):
        source = open_source(
            str(tmp_path), ["bee"], tmp_path / "cache", SourceOptions(columns=columns)
        )
        found[columns] = open_reader(source.files[0], 28).read(0, 6)
    assert problems(found[()]) == [None] * 4 + ["a stroke has no points", None]
    told = problems(found[METADATA_COLUMNS])
    assert [text and text.split()[0] for text in told] == [
        None,
        "countrycode",
        "recognized",
        "key_id",
        "a",
        None,
    ]
    assert found[METADATA_COLUMNS].country_code[5] == ""
    assert found[METADATA_COLUMNS].timestamp[5] == 1_488_760_138


def test_a_bad_line_beside_bitmaps_is_a_problem_of_the_bitmap_that_it_describes(tmp_path):
    images = np.repeat(render_drawings([points_of(SQUARE)]), 5, axis=0)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "bee.npy").write_bytes(google_npy(images))
    lines = [line(SQUARE)] * 5
    lines[0], lines[3] = lines[0][:50], line(SQUARE, countrycode=None)
    drawings = read_lines(tmp_path, lines, ["country_code"])
    assert [bool(text) for text in problems(drawings)] == [True, False, False, True, False]
    assert problems(drawings)[3] == (
        "line 4 of bee.ndjson beside it: countrycode is null, expected two capital letters"
    )
    assert drawings.images.any(axis=(1, 2)).tolist() == [False, True, True, False, True]
    assert drawings.country_code.tolist() == ["", "DE", "DE", "", "DE"]


coordinate = st.integers(0, 255)
stroke = st.integers(1, 6).flatmap(
    lambda n: st.tuples(*[st.lists(coordinate, min_size=n, max_size=n) for _ in "xy"])
)
drawings_of_a_page = st.lists(stroke.map(list), min_size=1, max_size=4)


@st.composite
def odd_line(draw, drawing: list) -> bytes:
    """A valid line of a drawing as other programs write it: the same strokes, nothing converted."""
    fields = json.loads(line(drawing))
    for key in draw(st.sets(st.sampled_from(["word", *WHO]))):
        fields[key] = draw(st.sampled_from([None, 0, "", {"a": []}])) if key != "word" else None
    if draw(st.booleans()):
        fields["drawing"] = changed(drawing, 1.0)
    items = draw(st.permutations(list(fields.items())))
    separators = draw(st.sampled_from([(",", ":"), (" ,\t", " : ")]))
    text = json.dumps(dict(items), separators=separators)
    return (
        draw(st.sampled_from(["", " "])) + text + draw(st.sampled_from(["", "\r", " "]))
    ).encode()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(drawings=st.lists(drawings_of_a_page, min_size=1, max_size=5), choice=st.data())
@pytest.mark.slow
def test_odd_but_valid_lines_are_drawn_as_they_are(tmp_path_factory, drawings, choice):
    lines = [choice.draw(odd_line(drawing)) for drawing in [SQUARE, *drawings]]
    found = read_lines(tmp_path_factory.mktemp("odd"), b"\n".join(lines))
    expected = render_drawings([points_of(drawing) for drawing in [SQUARE, *drawings]])
    assert found.problem is None
    assert found.repair is None
    assert np.array_equal(found.images, expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(drawing=drawings_of_a_page)
def test_pairs_and_objects_are_drawn_as_lists_are(drawing):
    expected = [stroke.tolist() for stroke in points_of(drawing)]
    as_objects = [[{"x": x, "y": y} for x, y in stroke] for stroke in pairs(drawing)]
    for written in (pairs(drawing), as_objects):
        found = read_strokes(written, Reading(points=PAIRS))
        assert [stroke.tolist() for stroke in found.strokes] == expected
