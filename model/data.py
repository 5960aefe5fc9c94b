"""Load a dataset artifact as batches of tensors: reader, memory map, order.

    shards (Parquet, stored PNG) -> read_split -> uint8 arrays, no picture decoder
    open_split  -> a memory map beside the run, made once per dataset digest and split
    batch_rows  -> which rows make up global batch k: a pure function of (order key, k)

Global batch k is rows [k * B, (k + 1) * B) of an endless stream of epochs, each a keyed
permutation of all rows. So the step number is the only state that resuming needs, and the batch
does not depend on how many ranks share it. The permutation is a Feistel network (Black and
Rogaway 2002, "cycle-walking"): any element in constant time and no memory, where a shuffled
index of 50 million rows takes 400 MB a rank.
"""

import functools
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from model.disk import drop_scratch, lacking_room, map_size, scratch_folder
from model.ranks import Ranks
from pipelines.drawings.reading import read_shard, split_shards
from pipelines.drawings.stored_png import copy_pixels
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, StoreError
from pipelines.store.errors import FullError
from pipelines.store.local_files import fsync, naming_full
from pipelines.store.manifest import FileEntry, Manifest

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "validation", "test")

# 1.8 MB of stored PNGs of 28x28: measured 790 thousand drawings a second and core, 720 at 8,192.
_READ_ROWS = 2_048
# Positions of the stream that are permuted at once: 32 at a time costs 2 ms, 4,096 cost 3 ms.
_BLOCK_ROWS = 4_096
# Luby and Rackoff 1988: four rounds are indistinguishable from random for a random round
# function; two more make up for ours being a mixer.
_FEISTEL_ROUNDS = 6
_POLL_SEC = 0.2


@dataclass(frozen=True, slots=True)
class Drawings:
    """Drawings in arrays: images (n, h, w) uint8, labels (n,) int64, indices of class_names."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Return the class name of each drawing."""
        return [self.class_names[label] for label in self.labels]

    def pictures(self) -> list["Image.Image"]:
        """Return each drawing as a gray picture of PIL's."""
        from PIL import Image

        return [Image.fromarray(image) for image in self.images]

    def tensors(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[UInt8[Tensor, "batch 1 height width"], Int64[Tensor, " batch"]]:
        """Gather rows as the network takes them: NCHW uint8 and labels."""
        images = torch.from_numpy(self.images[rows])[:, None]
        return images, torch.from_numpy(self.labels[rows])


def open_split(store: Store, manifest: Manifest, *, split: str, cache_dir: Path) -> Drawings:
    """Memory-map one split of a dataset, reading its shards into `cache_dir` the first time.

    A cache belongs to the manifest and the hashes of its shards, and is complete or absent: it is
    written under a temporary name. It holds h * w + 8 bytes a drawing.

    Raises ValueError if the dataset has no such split, FullError if the disk has no room for it,
    and StoreError if a shard is damaged.
    """
    folder = _map_folder(manifest, split, cache_dir)
    images_path, labels_path = folder / f"{split}-images.npy", folder / f"{split}-labels.npy"
    if not labels_path.exists():
        check_map_room(manifest, [split], cache_dir)
        total = sum(entry.bytes for entry in split_files(manifest, split))
        what = f"unpacking the {split} drawings of {manifest.name}"
        with naming_full(folder), doing("open", what, total=total):
            folder.mkdir(parents=True, exist_ok=True)
            _write_cache(store, manifest, split, images_path, labels_path)
    return Drawings(
        np.load(images_path, mmap_mode="r", allow_pickle=False),
        np.load(labels_path, mmap_mode="r", allow_pickle=False),
        tuple(manifest.summary["class_names"]),
    )


def map_bytes(manifest: Manifest, splits: Sequence[str], cache_dir: Path) -> int:
    """Return the size of the memory maps of these splits that are not in `cache_dir` yet."""
    total = 0
    for split in splits:
        rows = sum(entry.rows or 0 for entry in split_shards(manifest, split))
        if rows and not (_map_folder(manifest, split, cache_dir) / f"{split}-labels.npy").exists():
            total += map_size(rows, *manifest.summary["image_shape"][:2])
    return total


def check_map_room(manifest: Manifest, splits: Sequence[str], cache_dir: Path) -> None:
    """Raise FullError unless the disk of `cache_dir` has room for what `map_bytes` says.

    Deletes first what killed processes left of these maps.
    """
    for split in splits:
        if split_shards(manifest, split):
            drop_scratch(_map_folder(manifest, split, cache_dir))
    if problem := lacking_room(cache_dir, map_bytes(manifest, splits, cache_dir)):
        raise FullError(problem)


def open_split_on_ranks(
    store: Store, manifest: Manifest, *, split: str, cache_dir: Path, ranks: Ranks
) -> Drawings:
    """Open a split on all ranks; the first of each machine writes the memory map.

    The others wait by short sums: writing may take longer than a collective may.
    """
    if ranks.size == 1:
        return open_split(store, manifest, split=split, cache_dir=cache_dir)
    with ThreadPoolExecutor(1) as thread:
        writing = None
        if ranks.local_rank == 0:
            writing = thread.submit(open_split, store, manifest, split=split, cache_dir=cache_dir)
        while any(ranks.sum([float(writing is not None and not writing.done())])):
            time.sleep(_POLL_SEC)
    if writing is not None:
        return writing.result()
    return open_split(store, manifest, split=split, cache_dir=cache_dir)


def read_split(
    store: Store, manifest: Manifest, *, split: str
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Yield a split's drawings, in the order of its shards' names: images (n, h, w), labels (n,).

    Labels are positions in the manifest's class_names, in both layouts.

    Images are views of the shard's memory where the shard has our layout. Every shard's SHA-256
    is checked before its first drawing is given. Raises as `open_split` does.
    """
    for entry in split_files(manifest, split):
        rows = 0
        for images, labels, _ in read_shard(manifest, entry, store, batch_rows=_READ_ROWS):
            rows += len(labels)
            yield images, labels
        if rows != entry.rows:
            path = f"{manifest.prefix}/{entry.path}"
            raise StoreError(f"shard {path} has {rows} rows, the manifest says {entry.rows}")


def split_files(manifest: Manifest, split: str) -> list[FileEntry]:
    """Return the shards of a split in order; raise ValueError if there is none."""
    entries = split_shards(manifest, split)
    if not entries:
        found = sorted({entry.split for entry in manifest.files if entry.split})
        raise ValueError(
            f"dataset {manifest.name}@{manifest.digest[:12]} has no Parquet shard of the split "
            f"{split!r}; it has {found}"
        )
    return sorted(entries, key=lambda entry: entry.path)


def count_rows(manifest: Manifest, split: str) -> int:
    """Return how many drawings a split has, from the manifest alone."""
    return sum(entry.rows or 0 for entry in split_files(manifest, split))


def order_key(dataset_digest: str, *, split: str, seed: int) -> str:
    """Return the key of a split's endless shuffled order."""
    return f"order:{dataset_digest}:{split}:{seed}"


def batch_rows(num_rows: int, batch_size: int, *, key: str, step: int) -> npt.NDArray[np.int64]:
    """Return the rows of global batch `step`, in order; it may span two epochs or more."""
    return stream_rows(num_rows, step * batch_size, (step + 1) * batch_size, key=key)


def stream_rows(num_rows: int, start: int, stop: int, *, key: str) -> npt.NDArray[np.int64]:
    """Return the rows at these places of the endless shuffled order."""
    if start == stop:
        return np.zeros(0, np.int64)
    block_rows = min(num_rows, _BLOCK_ROWS)
    first, last = start // block_rows, (stop - 1) // block_rows
    blocks = [_stream_block(num_rows, key, index) for index in range(first, last + 1)]
    offset = start - first * block_rows
    return np.concatenate(blocks)[offset : offset + stop - start]


class WeightedOrder:
    """An endless order in which some rows come `weight` times as often as the others.

    Each of the two kinds has a shuffled order of its own.
    """

    def __init__(self, is_heavy: npt.NDArray[np.bool_], weight: float, *, key: str) -> None:
        """Take which of the rows are the heavy ones."""
        self._kinds = np.flatnonzero(is_heavy), np.flatnonzero(~is_heavy)
        heavy, light = (len(rows) for rows in self._kinds)
        self._share = weight * heavy / (weight * heavy + light)
        self._key = key

    def rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at these places of the order, the heavy ones first."""
        first, last = (math.floor(self._share * place) for place in (start, stop))
        parts = (first, last), (start - first, stop - last)
        return np.concatenate(
            [
                rows[stream_rows(len(rows), *part, key=self._key)]
                for rows, part in zip(self._kinds, parts, strict=True)
            ]
        )


def rank_rows(rows: npt.NDArray[np.int64], *, rank: int, num_ranks: int) -> npt.NDArray[np.int64]:
    """Return one rank's equal, contiguous part of a global batch.

    Raises ValueError if the batch does not divide evenly.
    """
    if len(rows) % num_ranks:
        raise ValueError(
            f"a batch of {len(rows)} drawings does not divide among {num_ranks} ranks: use a "
            "batch_size that is a multiple of the number of processes"
        )
    share = len(rows) // num_ranks
    return rows[rank * share : (rank + 1) * share]


def permute(places: npt.NDArray[np.int64], size: int, *, key: str) -> npt.NDArray[np.int64]:
    """Return where a keyed permutation of range(size) sends `places`.

    >>> sorted(permute(np.arange(7), 7, key="any").tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    digest = hashlib.sha512(key.encode()).digest()
    keys = np.frombuffer(digest, "<u8")[:_FEISTEL_ROUNDS]
    found = _feistel(places.astype(np.uint64), half_bits, keys)
    while (outside := found >= size).any():
        found[outside] = _feistel(found[outside], half_bits, keys)
    return found.astype(np.int64)


@functools.lru_cache(maxsize=8)
def _stream_block(num_rows: int, key: str, index: int) -> npt.NDArray[np.int64]:
    """Return one block of the endless stream, of at most one epoch."""
    block_rows = min(num_rows, _BLOCK_ROWS)
    stream = np.arange(index * block_rows, (index + 1) * block_rows, dtype=np.int64)
    epochs, places = np.divmod(stream, num_rows)
    rows = np.empty(block_rows, np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        rows[chosen] = permute(places[chosen], num_rows, key=f"{key}:{epoch}")
    rows.flags.writeable = False
    return rows


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Permute the integers of 2 * half_bits bits."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for round_index, key in enumerate(keys):
        left, right = right, left ^ (_mix(right ^ key, round_index) & mask)
    return (left << shift) | right


def _mix(values: npt.NDArray[np.uint64], round_index: int) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit integers: the finalizer of splitmix64 (Steele et al. 2014)."""
    mixed = values + np.uint64((0x9E3779B97F4A7C15 * (round_index + 1)) & (2**64 - 1))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _map_folder(manifest: Manifest, split: str, cache_dir: Path) -> Path:
    """Return the folder of the labels and pixels of a split.

    The address alone is not enough: a machine of another kind may have drawn other samples there.
    """
    hashes = [entry.sha256 for entry in split_files(manifest, split)]
    return cache_dir / hashlib.sha256("\n".join([manifest.digest, *hashes]).encode()).hexdigest()


def _write_cache(
    store: Store, manifest: Manifest, split: str, images_path: Path, labels_path: Path
) -> None:
    """Write both arrays under temporary names, then rename them, the labels last."""
    count = count_rows(manifest, split)
    height, width = manifest.summary["image_shape"][:2]
    with scratch_folder(images_path.parent) as scratch:
        images_scratch, labels_scratch = scratch / "images.npy", scratch / "labels.npy"
        with images_scratch.open("wb") as images_file, labels_scratch.open("wb") as labels_file:
            _write_header(images_file, "|u1", (count, height, width))
            _write_header(labels_file, "<i8", (count,))
            for images, labels in read_split(store, manifest, split=split):
                if images.shape[1:] != (height, width):
                    raise StoreError(
                        f"a shard of {manifest.prefix} has drawings of {images.shape[1:]}, the "
                        f"manifest says {height}x{width}"
                    )
                _check_labels(labels, manifest)
                images_file.write(copy_pixels(images).data)
                labels_file.write(labels.astype("<i8").data)
        for scratch_path in (images_scratch, labels_scratch):
            fsync(scratch_path)
        images_scratch.replace(images_path)
        fsync(images_path.parent)
        labels_scratch.replace(labels_path)


def _write_header(file: BinaryIO, kind: str, shape: tuple[int, ...]) -> None:
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _check_labels(labels: npt.NDArray[np.int64], manifest: Manifest) -> None:
    num_classes = len(manifest.summary["class_names"])
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise StoreError(
            f"{manifest.prefix} has labels from {labels.min()} to {labels.max()} and "
            f"{num_classes} class names"
        )
