"""Names of folders and files: the class's own where that is safe, and back again."""

import unicodedata
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.catalogue import catalogue
from pipelines.drawings.class_paths import path_names
from pipelines.store.objects import check_path

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
ODD = st.sampled_from(
    (
        "..",
        ".",
        "",
        "/",
        "a/b",
        "..\\x",
        "CON",
        "nul",
        "COM\u00b9",
        "~3",
        "%2e%2e",
        " a",
        "a ",
        "_x",
    )
)


def test_the_names_of_the_catalogue_stay_as_they_are():
    names = tuple(entry.name for entry in catalogue())
    assert path_names(names) == names


@given(st.lists(ODD | TEXT, max_size=8, unique=True))
def test_any_names_are_safe_unique_and_lead_back(class_names):
    names = path_names(class_names)
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in names}) == len(names)
    for class_name, name in zip(class_names, names, strict=True):
        check_path(f"png/{name}/{name}.npy")
        assert len(name.encode()) <= 200
        back = {class_name, unicodedata.normalize("NFC", class_name)}
        assert unquote(name) in back or name.partition("~")[2].isdigit(), name


@pytest.mark.parametrize(
    ("class_names", "names"),
    [
        (("caf\u00e9", "cafe"), ("caf\u00e9", "cafe")),
        (("cafe\u0301",), ("caf\u00e9",)),
        (("C++", "1/4", "class?"), ("C%2B%2B", "1%2F4", "class%3F")),
        (("Sun", "sun"), ("Sun", "%73un")),
        (("nul", "nulls"), ("%6Eul", "nulls")),
        (("bee (1)", "St. John"), ("bee %281%29", "St%2E John")),
        (("../../etc/passwd", "\0"), ("etcpasswd~0", "~1")),
    ],
)
def test_what_is_not_safe_is_encoded(class_names, names):
    assert path_names(class_names) == names
