"""What a dataset says of itself beside its counts: columns, ids, drops, card and TFDS metadata."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.assemble import dataset_schema
from pipelines.card import CARD_NAME
from pipelines.catalogue import tfds_id
from pipelines.errors import reading
from pipelines.labels import class_positions, label_ids
from pipelines.schema import FileEntry, Manifest
from pipelines.shards import open_shard
from pipelines.spec import DatasetSpec
from pipelines.store import Store

_CARD_SPLIT = re.compile(r"  - name: (\w+)\n    num_bytes: (\d+)\n    num_examples: (\d+)\n")


def said_differences(manifest: Manifest, spec: DatasetSpec, store: Store) -> list[str]:
    """Return what the files beside the shards and the summary say that is not so."""
    ids = [tfds_id(name) for name in spec.class_names]
    wrong = [] if manifest.summary["tfds_ids"] == ids else ["tfds_ids are not the catalogue's"]
    wrong += _unaccounted(manifest.summary)
    if "parquet" in spec.formats:
        wrong += _card_differences(manifest, store)
    if "tfrecord" in spec.formats:
        wrong += _tfds_differences(manifest, store)
    return wrong


def column_problems(
    manifest: Manifest, spec: DatasetSpec, entry: FileEntry, store: Store
) -> Iterator[str]:
    """Yield what is wrong with the columns of a Parquet shard but its pictures."""
    parquet = open_shard(store.read(manifest, entry.path))
    expected = dataset_schema(spec)
    if not parquet.schema_arrow.equals(expected):
        yield f"{entry.path}: has the columns {parquet.schema_arrow.names}, not {expected.names}"
        return
    names = [name for name in expected.names if name != "image"]
    table = parquet.read(columns=names)
    for name in names:
        if table[name].null_count:
            yield f"{entry.path}: {table[name].null_count} rows have no {name}"
    labels = class_positions(table["label"].to_numpy(), label_ids(manifest))
    ids = np.array([tfds_id(name) for name in spec.class_names], np.int16)
    is_wrong = (labels < 0) | (labels >= len(ids))
    is_wrong[~is_wrong] = ids[labels[~is_wrong]] != table["tfds_id"].to_numpy()[~is_wrong]
    if is_wrong.any():
        yield f"{entry.path}: {int(is_wrong.sum())} rows have the tfds_id of another class"
    if spec.countries and "country_code" in names:
        others = pc.call_function("unique", [table["country_code"]]).to_pylist()
        if others := sorted(set(others) - set(spec.countries)):
            yield f"{entry.path}: has drawings of {others}, the spec of {list(spec.countries)}"


def _unaccounted(summary: Any) -> Iterator[str]:
    """Yield the classes whose kept and dropped drawings are not all that the files have.

    Nothing can be said where a file was left out, or files mix classes.
    """
    files = summary.get("source_files", [])
    if summary["bad_files"] or any(each["class_name"] is None for each in files):
        return
    # Of a bitmap and the strokes that are joined to it, the bitmap's rows count.
    files = [each for each in files if each["file"].endswith(".npy")] or files
    for name in summary["class_names"]:
        kept = sum(counts[name] for counts in summary["counts"].values())
        dropped = sum(by.get(name, 0) for by in summary["dropped"].values())
        rows = sum(each["rows"] for each in files if each["class_name"] == name)
        if kept + dropped != rows:
            yield f"{name}: {kept} kept and {dropped} dropped drawings are not the {rows} read"


def _card_differences(manifest: Manifest, store: Store) -> Iterator[str]:
    text = store.read(manifest, CARD_NAME).decode()
    said = {name: (int(size), int(rows)) for name, size, rows in _CARD_SPLIT.findall(text)}
    shards = [e for e in manifest.files if e.split is not None and e.path.endswith(".parquet")]
    for split in dict.fromkeys([*said, *(str(entry.split) for entry in shards)]):
        entries = [entry for entry in shards if entry.split == split]
        found = sum(entry.bytes for entry in entries), sum(entry.rows or 0 for entry in entries)
        if said.get(split) != found:
            yield f"{CARD_NAME}: {split} has (bytes, drawings) {found}, it says {said.get(split)}"


def _tfds_differences(manifest: Manifest, store: Store) -> Iterator[str]:
    for entry in manifest.files:
        if not entry.path.endswith("/dataset_info.json"):
            continue
        content = store.read(manifest, entry.path)
        with reading(f"{manifest.prefix}/{entry.path}", "what TFDS reads"):
            splits = json.loads(content)["splits"]
            said = {split["name"]: split["shardLengths"] for split in splits}
        for name, lengths in said.items():
            rows = [str(n) for n in _record_rows(manifest.files, name)]
            if lengths != rows:
                yield f"{entry.path}: {name} has shards of {rows} drawings"


def _record_rows(files: Sequence[FileEntry], split: str) -> list[int]:
    shards = [e for e in files if e.split == split and ".tfrecord-" in e.path]
    return [int(entry.rows or 0) for entry in sorted(shards, key=lambda entry: entry.path)]
