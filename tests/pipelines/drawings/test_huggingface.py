"""The lines of a card that `datasets` reads: they differ wherever the files do."""

import dataclasses
from collections.abc import Sequence

import yaml

from pipelines.drawings.credit import UNSTATED
from pipelines.drawings.huggingface import card_yaml
from pipelines.drawings.parquet import shard_schema
from pipelines.store.manifest import FileEntry

NAMES = ('a "b" \\', "caf\u00e9", "\U0001f41d", "NA", "true", "line\u2028break")
FILE = FileEntry(path="data/train-0.parquet", bytes=9, sha256="a" * 64, rows=3, split="train")


def card(names: Sequence[str], file: FileEntry) -> str:
    return card_yaml(UNSTATED, shard_schema(names), {"train": [file]}, is_synthetic=False)


def test_files_of_equal_size_and_rows_make_other_lines():
    first = card(("bee",), FILE)
    assert first != card(("bee",), dataclasses.replace(FILE, sha256="b" * 64))
    assert first == card(("bee",), FILE)


def test_any_class_name_comes_back_from_yaml():
    read = next(yaml.safe_load_all(card(NAMES, FILE)))
    label = read["dataset_info"]["features"][1]
    assert tuple(label["dtype"]["class_label"]["names"].values()) == NAMES
    assert read["dataset_info"]["splits"] == [{"name": "train", "num_bytes": 9, "num_examples": 3}]
