"""The reader and the order of batches."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.data import batch_rows, count_rows, open_split, order_key, permute, rank_rows, read_split
from model.disk import scratch_folder
from pipelines.store.artifacts import StoreError


@given(size=st.integers(1, 3_000), key=st.text(max_size=8))
def test_permute_is_a_bijection(size: int, key: str) -> None:
    found = permute(np.arange(size), size, key=key)
    assert np.array_equal(np.sort(found), np.arange(size))


def test_permute_moves_every_element_as_often_everywhere() -> None:
    size, keys = 30, 1_000
    places = np.stack([permute(np.arange(size), size, key=str(k)) for k in range(keys)])
    # Each of 900 counts is binomial with mean 33: chi-square of 29 * 29 degrees of freedom.
    counts = np.stack([np.bincount(places[:, i], minlength=size) for i in range(size)])
    chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
    assert abs(chi_square - 29 * 29) < 5 * np.sqrt(2 * 29 * 29)


def test_permute_of_a_large_range_needs_no_memory() -> None:
    size = 10**12
    found = permute(np.array([0, 1, size - 1]), size, key="k")
    assert len(set(found.tolist())) == 3
    assert (found < size).all()


@given(
    num_rows=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    num_epochs=st.integers(1, 3),
)
def test_stream_of_batches_holds_every_row_once_an_epoch(
    num_rows: int, batch_size: int, num_epochs: int
) -> None:
    num_batches = -(-num_rows * num_epochs // batch_size)
    batches = [batch_rows(num_rows, batch_size, key="k", step=k) for k in range(num_batches)]
    stream = np.concatenate(batches)[: num_rows * num_epochs].reshape(num_epochs, num_rows)
    assert (np.sort(stream, axis=1) == np.arange(num_rows)).all()


def test_epochs_have_different_orders() -> None:
    first, second = batch_rows(1_000, 2_000, key="k", step=0).reshape(2, 1_000)
    assert (first == second).mean() < 0.02


def test_stream_does_not_depend_on_batch_size() -> None:
    large = batch_rows(50, 60, key="k", step=1)
    small = [batch_rows(50, 20, key="k", step=k) for k in (3, 4, 5)]
    assert np.array_equal(large, np.concatenate(small))


def test_order_changes_with_dataset_split_and_seed() -> None:
    keys = [
        order_key(digest, split=split, seed=seed)
        for digest in "ab"
        for split in ("train", "test")
        for seed in (0, 1)
    ]
    orders = {tuple(batch_rows(100, 100, key=key, step=0)) for key in keys}
    assert len(orders) == len(keys)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_ranks_share_the_global_batch(num_ranks: int) -> None:
    rows = batch_rows(100, 16, key="k", step=3)
    shares = [rank_rows(rows, rank=r, num_ranks=num_ranks) for r in range(num_ranks)]
    assert np.array_equal(np.concatenate(shares), rows)
    assert {len(share) for share in shares} == {16 // num_ranks}


def test_uneven_share_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide among 3 ranks"):
        rank_rows(np.arange(16), rank=0, num_ranks=3)


def test_open_split_gives_what_the_shards_hold(store, make_dataset, tmp_path: Path) -> None:
    manifest = make_dataset(store)
    batches = list(read_split(store, manifest, split="train"))
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    for _ in range(2):
        drawings = open_split(store, manifest, split="train", cache_dir=tmp_path)
        assert np.array_equal(drawings.images, images)
        assert np.array_equal(drawings.labels, labels)
    assert len(drawings) == count_rows(manifest, "train") == 48
    assert drawings.class_names == ("bar", "dot", "ring")


def test_cache_is_memory_mapped_and_read_once(store, make_dataset, tmp_path: Path) -> None:
    manifest = make_dataset(store)
    open_split(store, manifest, split="test", cache_dir=tmp_path)
    for entry in manifest.files:
        store.delete(f"{manifest.prefix}/{entry.path}")
    drawings = open_split(store, manifest, split="test", cache_dir=tmp_path)
    assert isinstance(drawings.images, np.memmap)
    assert len(drawings) == 12


def test_other_pixels_under_the_same_address_are_not_taken_from_the_cache(
    store, make_dataset, tmp_path: Path
) -> None:
    manifest = make_dataset(store)
    open_split(store, manifest, split="test", cache_dir=tmp_path)
    other = dataclasses.replace(
        manifest, files=tuple(dataclasses.replace(e, sha256="0" * 64) for e in manifest.files)
    )
    with pytest.raises(StoreError, match="does not match its SHA-256"):
        open_split(store, other, split="test", cache_dir=tmp_path)


def test_what_a_killed_process_left_of_a_map_goes_and_that_of_a_living_one_stays(
    store, make_dataset, tmp_path: Path
) -> None:
    manifest, cache = make_dataset(store), tmp_path / "cache"
    open_split(store, manifest, split="test", cache_dir=cache)
    (folder,) = cache.iterdir()
    with scratch_folder(folder) as alive:
        left = folder / "scratch-left"
        shutil.copytree(alive, left)
        (left / "images.npy").write_bytes(bytes(1_000))
        (folder / "test-labels.npy").unlink()  # as if the map were not complete
        open_split(store, manifest, split="test", cache_dir=cache)
        assert (alive.exists(), left.exists()) == (True, False)
    assert sorted(path.name for path in folder.iterdir()) == ["test-images.npy", "test-labels.npy"]


def test_tensors_are_what_the_network_takes(store, make_dataset, tmp_path: Path) -> None:
    drawings = open_split(store, make_dataset(store), split="train", cache_dir=tmp_path)
    images, labels = drawings.tensors(np.array([5, 3]))
    assert (images.shape, images.dtype) == ((2, 1, 8, 8), torch.uint8)
    assert labels.dtype == torch.int64
    assert np.array_equal(images[1, 0].numpy(), drawings.images[3])


def test_damaged_shard_is_refused(store, make_dataset, tmp_path: Path) -> None:
    manifest = make_dataset(store)
    path = f"{manifest.prefix}/{manifest.files[1].path}"
    content = bytearray(store.get(path))
    content[200] ^= 1
    store.put(path, bytes(content))
    with pytest.raises(StoreError, match="is damaged, it does not match its SHA-256"):
        open_split(store, manifest, split="train", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_unknown_split_is_refused(store, make_dataset) -> None:
    with pytest.raises(ValueError, match="no Parquet shard of the split 'dev'"):
        count_rows(make_dataset(store), "dev")


def test_label_without_a_class_name_is_refused(store, make_dataset, tmp_path: Path) -> None:
    manifest = make_dataset(store)
    summary = dict(manifest.summary) | {"class_names": ["bar", "dot"]}
    manifest = dataclasses.replace(manifest, summary=summary)
    with pytest.raises(StoreError, match="labels from 0 to 2 and 2 class names"):
        open_split(store, manifest, split="train", cache_dir=tmp_path)
