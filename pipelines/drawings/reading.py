"""Read the shards of a dataset or of samples: pixels, labels and columns, checked and in order.

The numbers in a shard's column `label` are positions in the manifest's class_names. In the linked
layout, whose shards serve every list of classes, they are TFDS ids, and `label_ids` gives that of
class_names[i]. Readers here return positions for both.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.parquet import open_shard, read_images
from pipelines.store.artifacts import Store
from pipelines.store.manifest import FileEntry, Manifest, artifact_label

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[np.generic]]

_NO_CLASS = -1
# Drawings in a batch unless the caller asks for another number: a row group of our shards.
BATCH_ROWS = 8_192


def split_shards(manifest: Manifest, split: str) -> list[FileEntry]:
    """Return the Parquet shards of a split, in the manifest's order."""
    return [e for e in manifest.files if e.split == split and e.path.endswith(".parquet")]


def read_shard(
    manifest: Manifest,
    entry: FileEntry,
    store: Store,
    *,
    columns: Sequence[str] = (),
    batch_rows: int = BATCH_ROWS,
) -> Iterator[tuple[Images, Labels, Columns]]:
    """Yield images (n, h, w), labels (n,) and those of `columns` that a shard has.

    The shard's SHA-256 is checked before its first drawing is given. Labels are positions in the
    manifest's class_names, -1 for one that is no class of the dataset's. A batch has at most
    `batch_rows` drawings of one row group; images are views of the shard's memory where it has
    our layout. A TFRecord shard is one batch, without columns.
    """
    content = store.view_entry(manifest, entry)
    if not entry.path.endswith(".parquet"):
        # The model's image has no google-crc32c, and reads Parquet alone.
        from pipelines.drawings.tfrecord import read_records

        pictures, labels = read_records(bytes(content))
        yield _decode(pictures, tuple(manifest.summary["image_shape"])), labels, {}
        return
    ids = label_ids(manifest)
    with open_shard(content) as parquet:
        names = [name for name in columns if name in parquet.schema_arrow.names]
        wanted = ["image.bytes", "label", *names]
        for group in range(parquet.num_row_groups):
            batches = parquet.iter_batches(
                batch_rows, row_groups=[group], columns=wanted, use_threads=False
            )
            for batch in batches:
                labels = batch.column("label").to_numpy(zero_copy_only=False).astype(np.int64)
                found = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}
                yield read_images(batch.column("image")), class_positions(labels, ids), found


def read_table(manifest: Manifest, store: Store, *, split: str) -> pa.Table:
    """Return all columns of a split, in the order of its shards' names, in memory.

    The schema's metadata says what they are to Hugging Face datasets. Raises ValueError if the
    split has no Parquet shard.
    """
    entries = sorted(split_shards(manifest, split), key=lambda entry: entry.path)
    if not entries:
        found = sorted({entry.split for entry in manifest.files if entry.split})
        raise ValueError(
            f"{artifact_label(manifest)} has no Parquet shard of the split {split!r}; it has {found}"
        )
    tables = []
    for entry in entries:
        with open_shard(store.view_entry(manifest, entry)) as parquet:
            tables.append(parquet.read())
    return pa.concat_tables(tables)


def pick_rows(
    manifest: Manifest,
    store: Store,
    *,
    split: str,
    rows: Sequence[int],
    columns: Sequence[str] = (),
) -> pa.Table:
    """Return `image` and `columns` at these positions of a split, in the given order.

    Raises ValueError if the split has no such row.
    """
    parts, places, start = [], [], 0
    for entry in split_shards(manifest, split):
        stop = start + int(entry.rows or 0)
        wanted = [place for place, row in enumerate(rows) if start <= row < stop]
        if wanted:
            with open_shard(store.view_entry(manifest, entry)) as parquet:
                table = parquet.read(columns=["image", *columns])
            parts.append(table.take([rows[place] - start for place in wanted]))
            places += wanted
        start = stop
    if missing := set(range(len(rows))) - set(places):
        raise ValueError(
            f"{manifest.name} has rows 0 to {start - 1}, there is no row {rows[min(missing)]}"
        )
    return pa.concat_tables(parts).take(np.argsort(places))


def first_of_each_class(
    manifest: Manifest,
    store: Store,
    *,
    split: str,
    per_class: int,
    accepted: npt.NDArray[np.bool_] | None = None,
) -> dict[str, Images]:
    """Return the first drawings of each class in a split, in shard order.

    accepted: restrict to these drawings. Returns class name -> (n, height, width) uint8 with n at
    most `per_class`.
    """
    names = manifest.summary["class_names"]
    counts = manifest.summary.get("counts", {}).get(split, {}) if accepted is None else {}
    wanted = {name: min(per_class, counts.get(name, per_class)) for name in names}
    found: dict[str, list[Images]] = {name: [] for name in names}
    start = 0
    for entry in split_shards(manifest, split):
        for images, labels, _ in read_shard(manifest, entry, store):
            meant = slice(None) if accepted is None else accepted[start : start + len(labels)]
            start += len(labels)
            for label, name in enumerate(names):
                missing = wanted[name] - len(found[name])
                found[name] += list(images[meant][labels[meant] == label][: max(missing, 0)])
        if all(len(found[name]) >= wanted[name] for name in names):
            break
    return {name: np.stack(rows) if rows else no_images() for name, rows in found.items()}


def no_images() -> Images:
    """Return an array of no drawing."""
    return np.zeros((0, 28, 28), np.uint8)


def label_ids(manifest: Manifest) -> tuple[int, ...]:
    """Return what stands in a dataset's shards for each of its class_names, () for positions.

    The datasets of one class that a linked one is made of do not say it: theirs is the TFDS id.
    """
    summary = manifest.summary
    is_linked = manifest.spec.get("layout") == "linked"
    return tuple(summary.get("label_ids") or (summary["tfds_ids"] if is_linked else ()))


def class_positions(
    labels: npt.NDArray[np.int64], label_ids: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Return labels as positions in class_names; -1 for one that is no class of the dataset's.

    label_ids  of `label_ids`; empty if the labels are positions already

    >>> class_positions(np.array([26, 7, 3]), [7, 26]).tolist()
    [1, 0, -1]
    """
    if not label_ids:
        return labels
    # One place more than there are ids, for labels beyond them.
    lookup = np.full(max(label_ids) + 2, _NO_CLASS, np.int64)
    lookup[list(label_ids)] = np.arange(len(label_ids))
    known = (labels >= 0) & (labels < len(lookup))
    return lookup[np.where(known, labels, len(lookup) - 1)]


def _decode(pictures: list[bytes], shape: tuple[int, int]) -> Images:
    """Return images of PNGs, or of pixels as they are."""
    if pictures and not pictures[0].startswith(b"\x89PNG"):
        return np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, *shape)
    return read_images(pa.array(pictures, pa.binary()))
