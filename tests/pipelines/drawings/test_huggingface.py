"""The lines of a card that `datasets` reads: they differ wherever the files do."""

import dataclasses

import yaml

from pipelines.drawings.huggingface import loader_lines
from pipelines.drawings.parquet import shard_schema
from pipelines.store.manifest import FileEntry

NAMES = ('a "b" \\', "caf\u00e9", "\U0001f41d", "NA", "true", "line\u2028break")
FILE = FileEntry(path="data/train-0.parquet", bytes=9, sha256="a" * 64, rows=3, split="train")


def test_files_of_equal_size_and_rows_make_other_lines():
    schema = shard_schema(("bee",))
    first = loader_lines(schema, {"train": [FILE]})
    other = loader_lines(schema, {"train": [dataclasses.replace(FILE, sha256="b" * 64)]})
    assert first != other
    assert first == loader_lines(schema, {"train": [FILE]})


def test_any_class_name_comes_back_from_yaml():
    lines = loader_lines(shard_schema(NAMES), {"train": [FILE]})
    read = yaml.safe_load("\n".join(lines))
    label = read["dataset_info"]["features"][1]
    assert tuple(label["dtype"]["class_label"]["names"].values()) == NAMES
    assert read["dataset_info"]["splits"] == [{"name": "train", "num_bytes": 9, "num_examples": 3}]
