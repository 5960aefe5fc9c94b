"""Check a dataset by reading all of it again, and say how two datasets differ."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.assemble import content_sum, count_labels, pixel_sums
from pipelines.card import content_digest
from pipelines.hashing import add_sums, pixel_hashes
from pipelines.labels import class_positions
from pipelines.schema import FileEntry, Manifest
from pipelines.shards import open_shard, read_images
from pipelines.spec import DatasetSpec, spec_from_json
from pipelines.store import Store
from pipelines.tfrecord import read_records

Hashes = npt.NDArray[np.uint64]


@dataclass(slots=True)
class Recount:
    """What reading the shards of one format gives."""

    content: int = 0
    pixel_sum: int = 0
    pixel_square_sum: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    hashes: dict[str, list[Hashes]] = field(default_factory=dict)


def verify_dataset(manifest: Manifest, store: Store) -> list[str]:
    """Return what is wrong with a dataset, nothing if all is right.

    Recomputes every file's size and SHA-256, and from the drawings of each format: rows, counts,
    statistics, content digest, and that no drawing is in two splits.
    """
    spec = spec_from_json(manifest.spec)
    problems = store.damaged(manifest)
    if problems:
        return problems
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
        for images, labels in read_entry(manifest, entry, store):
            _add(recount, spec, entry.split, images, labels)
    return recount


def read_entry(
    manifest: Manifest, entry: FileEntry, store: Store
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Yield images and labels of a shard of either format; labels are positions."""
    content = store.view_entry(manifest, entry)
    if not entry.path.endswith(".parquet"):
        pictures, labels = read_records(bytes(content))
        yield _decode(pictures, tuple(manifest.summary["image_shape"])), labels
        return
    file = open_shard(content)
    ids = manifest.summary.get("label_ids")
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["image", "label"])
        yield read_images(table["image"]), class_positions(table["label"].to_numpy(), ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDiff:
    """How dataset B differs from A.

    spec       field -> (A's value, B's value)
    counts     "split/class" -> (A's drawings, B's drawings)
    dropped    "reason/class" -> (A's, B's)
    only_in_a, only_in_b  drawings by split (same pixels, any class)
    is_same_content       whether drawings, classes and splits are the same
    """

    spec: dict[str, tuple[Any, Any]]
    counts: dict[str, tuple[int, int]]
    dropped: dict[str, tuple[int, int]]
    only_in_a: dict[str, int]
    only_in_b: dict[str, int]
    is_same_content: bool


def diff_datasets(a: Manifest, b: Manifest, store: Store) -> DatasetDiff:
    """Compare two datasets; their drawings are read unless the content digests are equal."""
    same = a.summary["content_digest"] == b.summary["content_digest"]
    mine, theirs = ({}, {}) if same else (_drawings(a, store), _drawings(b, store))
    splits = sorted(set(mine) | set(theirs))
    nothing = np.empty(0, "S16")
    pairs = {s: (mine.get(s, nothing), theirs.get(s, nothing)) for s in splits}
    return DatasetDiff(
        spec=_changed(dict(a.spec), dict(b.spec)),
        counts=_changed(_flat(a.summary["counts"]), _flat(b.summary["counts"]), 0),
        dropped=_changed(_flat(a.summary["dropped"]), _flat(b.summary["dropped"]), 0),
        only_in_a={s: len(np.setdiff1d(x, y)) for s, (x, y) in pairs.items()},
        only_in_b={s: len(np.setdiff1d(y, x)) for s, (x, y) in pairs.items()},
        is_same_content=same,
    )


def _drawings(manifest: Manifest, store: Store) -> dict[str, npt.NDArray[Any]]:
    """Return the sorted identities of the drawings of each split."""
    spec = spec_from_json(manifest.spec)
    recount = recount_format(manifest, spec, store, spec.formats[0])
    return {s: np.unique(_as_bytes(np.concatenate(h))) for s, h in recount.hashes.items()}


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


def _differences(manifest: Manifest, spec: DatasetSpec, recount: Recount) -> Iterator[str]:
    summary = manifest.summary
    rows = {split: recount.rows.get(split, 0) for split in spec.split_names}
    if content_digest(spec, rows, recount.content) != summary["content_digest"]:
        yield "the drawings do not give the manifest's content digest"
    empty = dict.fromkeys(spec.class_names, 0)
    counts = {split: recount.counts.get(split, empty) for split in spec.split_names}
    for key, (found, claimed) in _changed(_flat(counts), _flat(summary["counts"]), 0).items():
        yield f"{key}: found {found} drawings, the manifest says {claimed}"
    for name in ("pixel_sum", "pixel_square_sum"):
        if getattr(recount, name) != summary["statistics"][name]:
            yield f"{name} is {getattr(recount, name)}, the manifest says otherwise"
    seen = np.empty(0, "S16")
    for split, parts in recount.hashes.items():
        own = np.unique(_as_bytes(np.concatenate(parts)))
        if shared := len(np.intersect1d(seen, own)):
            yield f"{shared} drawings of {split} are in another split too"
        seen = np.union1d(seen, own)


def _decode(pictures: list[bytes], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return images of PNGs, or of pixels as they are."""
    if pictures and not pictures[0].startswith(b"\x89PNG"):
        return np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, *shape)
    return read_images(pa.array(pictures, pa.binary()))


def _flat(nested: dict[str, dict[str, int]]) -> dict[str, int]:
    return {f"{a}/{b}": value for a, inner in nested.items() for b, value in inner.items()}


def _changed(
    a: dict[str, Any], b: dict[str, Any], default: Any = None
) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys([*a, *b])
    pairs = {key: (a.get(key, default), b.get(key, default)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
