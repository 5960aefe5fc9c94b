"""Values of Google's columns as tables of text have them: understood, or named."""

import pyarrow as pa
import pytest

from pipelines.sources.metadata import parse_column, parse_value

MOMENT = 1_488_760_138


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("key_id", "5201136883597312", 5_201_136_883_597_312),
        ("key_id", 0, 0),
        ("country_code", "US", "US"),
        ("country_code", "", ""),
        ("recognized", " TRUE", True),
        ("recognized", "0", False),
        ("recognized", 1.0, True),
        ("timestamp", "2017-03-06 00:28:58.85688 UTC", MOMENT),
        ("timestamp", "2017-03-06T01:28:58+01:00", MOMENT),
        ("timestamp", str(MOMENT), MOMENT),
        ("timestamp", float(MOMENT), MOMENT),
    ],
)
def test_a_value_is_understood_in_its_forms(name, value, expected):
    found = parse_value(name, value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("key_id", 5.2e15, "is 5200000000000000.0, expected a whole number"),
        ("key_id", -1, "is -1"),
        ("key_id", "1_000", "is .1_000."),
        ("key_id", True, "is true"),
        ("key_id", None, "is null"),
        ("country_code", "None", "is .None., expected two capital letters"),
        ("country_code", "us", "is .us."),
        ("country_code", None, "is null, expected two capital letters"),
        ("recognized", "None", "is .None., expected true or false"),
        ("recognized", "", "is .."),
        ("recognized", 2, "is 2"),
        ("recognized", None, "is null"),
        ("recognized", [True], "is .true."),
        ("timestamp", MOMENT * 1_000, "not milliseconds"),
        ("timestamp", float("nan"), "is NaN"),
        ("timestamp", "soon", "is .soon."),
        ("timestamp", True, "is true"),
    ],
)
def test_all_else_is_refused_with_what_was_found(name, value, message):
    with pytest.raises(ValueError, match=message):
        parse_value(name, value)


@pytest.mark.parametrize(
    ("name", "column", "expected", "bad"),
    [
        ("recognized", [True, False, None], [True, False, False], [2]),
        ("key_id", pa.array([7, 8], pa.uint8()), [7, 8], []),
        ("key_id", pa.array([7, -8]), [7, 0], [1]),
        ("timestamp", pa.array([MOMENT, MOMENT * 1_000]), [MOMENT, 0], [1]),
        ("timestamp", pa.array([MOMENT * 10**9, None], pa.timestamp("ns")), [MOMENT, 0], [1]),
        ("timestamp", pa.array([MOMENT], pa.timestamp("s", "Asia/Tokyo")), [MOMENT], []),
        ("timestamp", pa.array([17_231], pa.date32()), [17_231 * 86_400], []),
        ("country_code", ["US", "nan"], ["US", ""], [1]),
        ("recognized", [[1], [0]], [False, False], [0, 1]),
    ],
)
def test_a_column_names_its_bad_rows(name, column, expected, bad):
    values, problems = parse_column(name, "its_name", pa.chunked_array([column]))
    assert values.tolist() == expected
    assert list(problems) == bad
    assert all(text.startswith("its_name is ") for text in problems.values())
