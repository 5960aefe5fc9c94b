"""What is known of every drawing of a split: ink, hash, columns; and a few pictures to compare.

One pass, a row group at a time. 20 bytes a drawing stay in memory, whatever the pictures take.

    ink       pixels above 0
    darkness  mean value of the inked pixels, 0 to 1: how thick and sharp the strokes are
    hash      64 bits of BLAKE2b over the pixels: equal drawings have equal hashes; among 50
              million different ones a single false match has a chance of 1 in 15,000
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.schema import FileEntry, Manifest
from pipelines.shards import open_shard, read_images
from pipelines.store import Store

Images = npt.NDArray[np.uint8]

BITS_PER_DIM = "bits_per_dim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The drawings of a split, in order.

    labels, ink, darkness, hashes, bits_per_dim   one a drawing; bits_per_dim is None for real ones
    images, rows   the first drawings of each class (k, h, w), and their positions (k,)
    """

    labels: npt.NDArray[np.int16]
    ink: npt.NDArray[np.uint16]
    darkness: npt.NDArray[np.float32]
    hashes: npt.NDArray[np.uint64]
    bits_per_dim: npt.NDArray[np.float32] | None
    images: Images
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def kept_of(self, label: int) -> tuple[Images, npt.NDArray[np.int64]]:
        """Return the kept pictures of a class and their positions in the split."""
        mine = self.labels[self.rows] == label
        return self.images[mine], self.rows[mine]


def measure(manifest: Manifest, store: Store, *, split: str, keep_per_class: int) -> Measured:
    """Measure a split and keep the first `keep_per_class` pictures of each class.

    Shards are shuffled when they are made, so the first are as good as any. Raises ValueError
    if the split has no drawings.
    """
    seen = np.zeros(len(manifest.summary["class_names"]), np.int64)
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    images, rows, row = [], [], 0
    for found, labels, columns in read_batches(manifest, store, split=split):
        parts.append(_measure_batch(found, labels) | columns)
        picked = _first_of_class(labels, seen, keep_per_class)
        images.append(np.ascontiguousarray(found[picked]))
        rows.append(picked + row)
        row += len(labels)
    if not row:
        raise ValueError(f"{manifest.kind}/{manifest.name} has no drawings in split {split!r}")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Measured(
        labels=joined["label"].astype(np.int16),
        ink=joined["ink"].astype(np.uint16),
        darkness=joined["darkness"].astype(np.float32),
        hashes=joined["hash"].astype(np.uint64),
        bits_per_dim=joined[BITS_PER_DIM].astype(np.float32) if BITS_PER_DIM in joined else None,
        images=np.concatenate(images),
        rows=np.concatenate(rows),
    )


def split_entries(manifest: Manifest, split: str) -> list[FileEntry]:
    """Return the Parquet shards of a split in order."""
    return [e for e in manifest.files if e.split == split and e.path.endswith(".parquet")]


def read_batches(
    manifest: Manifest, store: Store, *, split: str
) -> Iterator[tuple[Images, npt.NDArray[np.int64], dict[str, npt.NDArray[np.generic]]]]:
    """Yield pixels, labels and bits_per_dim (if there) of each row group of a split."""
    for entry in split_entries(manifest, split):
        with open_shard(_source(store, f"{manifest.prefix}/{entry.path}")) as parquet:
            names = [BITS_PER_DIM] if BITS_PER_DIM in parquet.schema_arrow.names else []
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=["image", "label", *names])
                if table.num_rows:
                    columns = {name: table[name].to_numpy() for name in names}
                    yield read_images(table["image"]), table["label"].to_numpy(), columns


def drawing_hashes(images: Images) -> npt.NDArray[np.uint64]:
    """Return 64 bits of BLAKE2b over each drawing's pixels (n,)."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    values = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    packed = b"".join([hashlib.blake2b(value, digest_size=8).digest() for value in values])
    return np.frombuffer(packed, ">u8").astype(np.uint64)


def repeats(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which drawings are equal to an earlier one (n,)."""
    first = np.unique(hashes, return_index=True)[1]
    mask = np.ones(len(hashes), bool)
    mask[first] = False
    return mask


def members(hashes: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which drawings are among the known (n,)."""
    ordered = np.sort(known)
    place = np.minimum(np.searchsorted(ordered, hashes), max(len(ordered) - 1, 0))
    return ordered[place] == hashes if len(ordered) else np.zeros(len(hashes), bool)


def count_ink(images: Images) -> npt.NDArray[np.int64]:
    """Return the number of pixels above 0 of each drawing (n,)."""
    return np.count_nonzero(images.reshape(len(images), -1), axis=1)


def _measure_batch(
    images: Images, labels: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    ink = count_ink(images)
    total = images.sum(axis=(1, 2), dtype=np.int64)
    darkness = total / np.maximum(ink, 1) / 255.0
    return {"label": labels, "ink": ink, "darkness": darkness, "hash": drawing_hashes(images)}


def _first_of_class(
    labels: npt.NDArray[np.int64], seen: npt.NDArray[np.int64], limit: int
) -> npt.NDArray[np.int64]:
    """Return the rows that are among the first `limit` of their class; count them in `seen`."""
    picked: list[npt.NDArray[np.int64]] = []
    for label in range(len(seen)):
        room = max(0, limit - int(seen[label]))
        rows = np.flatnonzero(labels == label)[:room] if room else np.zeros(0, np.int64)
        seen[label] += len(rows)
        picked.append(rows)
    return np.sort(np.concatenate(picked))


def _source(store: Store, path: str) -> Path | bytes:
    """Return a local file to read in parts, or a remote object's bytes."""
    local = store.local_path(path)
    return store.get(path) if local is None else local


def rate(mask: Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    """Return the part of a mask that is true; 0 for none at all."""
    return float(np.mean(mask)) if len(mask) else 0.0


def pick_rows(manifest: Manifest, store: Store, *, split: str, rows: Sequence[int]) -> list[Images]:
    """Return the pictures at these positions of a split, in the order asked for."""
    found: dict[int, Images] = {}
    start = 0
    for entry in split_entries(manifest, split):
        stop = start + int(entry.rows or 0)
        wanted = [row for row in rows if start <= row < stop]
        if wanted:
            with open_shard(_source(store, f"{manifest.prefix}/{entry.path}")) as parquet:
                table = parquet.read(columns=["image"]).take([row - start for row in wanted])
            found |= dict(zip(wanted, read_images(table["image"]), strict=True))
        start = stop
    return [found[row] for row in rows]
