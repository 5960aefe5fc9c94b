"""Verify a dataset by reading all of it, and compare two datasets drawing by drawing."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from pipelines.catalogue import tfds_id
from pipelines.dataset.describe import CARD_NAME, content_digest
from pipelines.dataset.plan import INK_BINS, ink_bins
from pipelines.dataset.shards import content_sum, count_labels, dataset_schema, pixel_sums
from pipelines.dataset.spec import DatasetSpec, spec_from_json
from pipelines.drawings.batch import count_ink
from pipelines.drawings.hashing import add_sums, pixel_hashes
from pipelines.drawings.parquet import open_shard
from pipelines.drawings.reading import class_positions, label_ids, read_shard
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.errors import reading
from pipelines.store.manifest import FileEntry, Manifest

_CARD_SPLIT = re.compile(r"  - name: (\w+)\n    num_bytes: (\d+)\n    num_examples: (\d+)\n")

Hashes = npt.NDArray[np.uint64]


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


@dataclass(slots=True)
class Recount:
    """What reading the shards of one format gives."""

    content: int = 0
    pixel_sum: int = 0
    pixel_square_sum: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    hashes: dict[str, list[Hashes]] = field(default_factory=dict)
    ink: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)


def verify_dataset(manifest: Manifest, store: Store) -> list[str]:
    """Return what is wrong with a dataset, nothing if all is right.

    Recomputes the digest from spec and inputs, every file's size and SHA-256, and from the drawings
    of each format: rows, counts, statistics, ink, content digest, and that no drawing is in two
    splits; of Parquet the columns, their TFDS ids and that no value is missing. What cannot be
    computed without the source is held against it: counts and drops add up to the files' rows.
    """
    spec = spec_from_json(manifest.spec)
    problems = store.damaged(manifest)
    if problems:
        return problems
    problems = said_differences(manifest, spec, store)
    for format_name in spec.formats:
        recount = recount_format(manifest, spec, store, format_name)
        problems += [f"{format_name}: {text}" for text in _differences(manifest, spec, recount)]
    return problems


def recount_format(
    manifest: Manifest, spec: DatasetSpec, store: Store, format_name: str
) -> Recount:
    """Read all shards of one format and count again."""
    recount = Recount()
    for entry in manifest.files:
        is_parquet = entry.path.endswith(".parquet")
        if entry.split is None or is_parquet != (format_name == "parquet"):
            continue
        for images, labels, _ in read_shard(manifest, entry, store):
            known = (labels >= 0) & (labels < len(spec.class_names))
            if not known.all():
                recount.columns.append(f"{entry.path}: {(~known).sum()} labels are of no class")
                images, labels = images[known], labels[known]
            if len(labels):
                _add(recount, spec, entry.split, images, labels)
        if is_parquet:
            recount.columns += column_problems(manifest, spec, entry, store)
    return recount


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDiff:
    """How the drawings of dataset B differ from those of A.

    only_in_a, only_in_b  drawings by split (same pixels, any class)
    is_same_content       whether drawings, classes and splits are the same
    """

    only_in_a: dict[str, int]
    only_in_b: dict[str, int]
    is_same_content: bool


@doing("diff", "reading the drawings of both")
def diff_datasets(a: Manifest, b: Manifest, store: Store) -> DatasetDiff:
    """Compare two datasets; their drawings are read unless the content digests are equal."""
    same = a.summary["content_digest"] == b.summary["content_digest"]
    mine, theirs = ({}, {}) if same else (_drawings(a, store), _drawings(b, store))
    splits = sorted(set(mine) | set(theirs))
    nothing = np.empty(0, "S16")
    pairs = {s: (mine.get(s, nothing), theirs.get(s, nothing)) for s in splits}
    return DatasetDiff(
        only_in_a={s: len(np.setdiff1d(x, y)) for s, (x, y) in pairs.items()},
        only_in_b={s: len(np.setdiff1d(y, x)) for s, (x, y) in pairs.items()},
        is_same_content=same,
    )


def _as_bytes(hashes: Hashes) -> npt.NDArray[Any]:
    """Return (n, 2) uint64 as n comparable numbers of 128 bits."""
    return np.ascontiguousarray(hashes.astype(">u8")).view("S16").ravel()


def _add(
    recount: Recount,
    spec: DatasetSpec,
    split: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
) -> None:
    hashes = pixel_hashes(images)
    recount.content = add_sums(recount.content, content_sum(spec, split, labels, hashes))
    total, squares = pixel_sums(images)
    recount.pixel_sum += total
    recount.pixel_square_sum += squares
    recount.rows[split] = recount.rows.get(split, 0) + len(images)
    counts = recount.counts.setdefault(split, dict.fromkeys(spec.class_names, 0))
    for name, number in count_labels(spec.class_names, labels).items():
        counts[name] += number
    recount.hashes.setdefault(split, []).append(hashes)
    bins = ink_bins(count_ink(images), spec.image_size)
    for label in np.unique(labels).tolist():
        name = spec.class_names[label]
        found = np.bincount(bins[labels == label], minlength=INK_BINS)
        recount.ink[name] = recount.ink.get(name, np.zeros(INK_BINS, np.int64)) + found


def _differences(manifest: Manifest, spec: DatasetSpec, recount: Recount) -> Iterator[str]:
    summary = manifest.summary
    rows = {split: recount.rows.get(split, 0) for split in spec.split_names}
    if content_digest(spec, rows, recount.content) != summary["content_digest"]:
        yield "the drawings do not give the manifest's content digest"
    empty = dict.fromkeys(spec.class_names, 0)
    counts = {split: recount.counts.get(split, empty) for split in spec.split_names}
    found, claimed = _flat(counts), _flat(summary["counts"])
    for key in dict.fromkeys([*found, *claimed]):
        if found.get(key, 0) != claimed.get(key, 0):
            yield (
                f"{key}: found {found.get(key, 0)} drawings, the manifest says "
                f"{claimed.get(key, 0)}"
            )
    for name in ("pixel_sum", "pixel_square_sum"):
        if getattr(recount, name) != summary["statistics"][name]:
            yield f"{name} is {getattr(recount, name)}, the manifest says otherwise"
    yield from _ink_differences(summary["statistics"]["ink_histogram"], recount)
    yield from recount.columns
    yield from _shared_drawings(recount)


def _ink_differences(histogram: dict[str, list[int]], recount: Recount) -> Iterator[str]:
    for name, claimed in histogram.items():
        found = recount.ink.get(name, np.zeros(INK_BINS, np.int64)).tolist()
        if found != claimed:
            yield f"{name}: the ink histogram is {found}, the manifest says {claimed}"


def _shared_drawings(recount: Recount) -> Iterator[str]:
    seen = np.empty(0, "S16")
    for split, parts in recount.hashes.items():
        own = np.unique(_as_bytes(np.concatenate(parts)))
        if shared := len(np.intersect1d(seen, own)):
            yield f"{shared} drawings of {split} are in another split too"
        seen = np.union1d(seen, own)


def _flat(nested: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the values of nested mappings by "outer/inner"."""
    return {f"{a}/{b}": value for a, inner in nested.items() for b, value in inner.items()}


def _drawings(manifest: Manifest, store: Store) -> dict[str, npt.NDArray[Any]]:
    """Return the sorted identities of the drawings of each split."""
    spec = spec_from_json(manifest.spec)
    recount = recount_format(manifest, spec, store, spec.formats[0])
    return {s: np.unique(_as_bytes(np.concatenate(h))) for s, h in recount.hashes.items()}
