import csv
import os
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from pipelines.catalogue import (
    SEED_CLASSES,
    catalogue,
    class_entry,
    find_classes,
    read_classes_file,
    resolve_names,
    split_names,
)

SAMPLE = os.environ.get("QUICKDRAW_SAMPLE")


def test_the_catalogue_is_what_tfds_ships_as_checksums():
    root = Path(tfds.__path__[0]) / "datasets" / "quickdraw_bitmap"
    shipped = {}
    for line in (root / "checksums.tsv").read_text().splitlines():
        if line:
            url, size, sha256, _ = line.split("\t")
            shipped[url.rsplit("/", 1)[1].removesuffix(".npy")] = (int(size), sha256)
    assert {entry.name: (entry.bytes, entry.sha256) for entry in catalogue()} == shipped
    labels = (root / "labels.txt").read_text().splitlines()
    assert [entry.name for entry in catalogue()] == labels


def test_sizes_give_the_number_of_drawings_that_google_names():
    assert len(catalogue()) == 345
    for entry in catalogue():
        assert entry.bytes == 80 + 784 * entry.num_drawings, entry.name
    assert sum(entry.num_drawings for entry in catalogue()) == 50_426_266


@pytest.mark.skipif(SAMPLE is None, reason="QUICKDRAW_SAMPLE is not set")
def test_the_catalogue_agrees_with_the_official_listing():
    with (Path(SAMPLE) / "official_catalogue.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["sha256"]]
    assert len(rows) == 345
    for row in rows:
        entry = class_entry(row["class"])
        found = (entry.bytes, entry.sha256, entry.num_drawings)
        assert found == (int(row["bytes"]), row["sha256"], int(row["rows"])), entry.name


def test_ids_are_places_in_the_order_of_file_names():
    names = sorted((e.name for e in catalogue()), key=lambda name: (name + ".npy").lower())
    assert [entry.name for entry in catalogue()] == names
    assert [entry.tfds_id for entry in catalogue()] == list(range(345))
    assert (catalogue()[308].name, catalogue()[309].name) == ("tent", "The Eiffel Tower")


def test_the_seed_has_twenty_classes_in_the_order_of_their_ids():
    ids = [class_entry(name).tfds_id for name in SEED_CLASSES]
    assert len(ids) == 20
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("bee,sea turtle", ("bee", "sea turtle")),
        (" SUN , the eiffel tower,", ("sun", "The Eiffel Tower")),
        ("tfds:308, tfds:0", ("tent", "aircraft carrier")),
    ],
)
def test_classes_are_named_as_people_write_them(text, names):
    assert resolve_names(split_names(text)) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("catt", "class 'catt' is not in the catalogue; did you mean 'cat'"),
        ("turtle", "'sea turtle'"),
        ("xyzzyq", "see `sketchmill classes`"),
        ("tfds:345", "expected tfds:0 to tfds:344"),
        ("tfds:x", "expected tfds:0 to tfds:344"),
        ("tent,tfds:308", "class 'tent' is named twice"),
        (" , ", "no class is named"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_help(text, message):
    with pytest.raises(ValueError, match=message):
        resolve_names(split_names(text))


def test_a_file_of_classes_may_have_comments(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# insects\nbee  # stings\n\nbutterfly\n")
    assert read_classes_file(path) == ("bee", "butterfly")
    with pytest.raises(ValueError, match=r"missing\.txt: No such file"):
        read_classes_file(tmp_path / "missing.txt")


def test_classes_are_found_by_a_part_of_their_name():
    assert "sea turtle" in [entry.name for entry in find_classes("TURTLE")]
