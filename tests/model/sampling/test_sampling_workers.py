"""Who draws which batches: processes that each see one GPU, and ranks that meet in the store."""

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from model.ranks import Ranks
from model.sampling import __main__ as command
from model.sampling import shards as bulk
from model.sampling import workers
from model.sampling.__main__ import sample_on_ranks
from model.sampling.shards import make_shards, sample_dataset
from model.sampling.spec import SampleSpec, shard_batches
from model.sampling.workers import drawing_processes, visible_gpus
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

SPEC = SampleSpec(
    class_names=("cat", "ant"), per_class=(3, 5), seed=7, batch_size=2, rows_per_shard=3
)


def shard_digests(manifest: Manifest) -> list[str]:
    return [entry.sha256 for entry in manifest.files if entry.rows]


@pytest.mark.parametrize(
    ("visible", "count", "found"),
    [
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("GPU-aa, GPU-bb", 2, ["GPU-aa", "GPU-bb"]),
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_keep_the_names_that_this_process_was_given(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, found: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == found


def test_few_batches_are_begun_before_somebody_takes_them() -> None:
    begun: list[int] = []

    def draw(batch: slice) -> int:
        begun.append(batch.start)
        return batch.start

    batches = [slice(start, start + 1) for start in range(1_000)]
    with ThreadPoolExecutor(2) as pool:
        drawn = workers._in_order(pool, draw, batches, ahead=8)
        assert next(drawn) == 0
        time.sleep(0.05)  # for those that would be begun too early
        assert len(begun) <= 9
        assert list(drawn) == list(range(1, 1_000))


@pytest.mark.slow
def test_each_process_sees_one_gpu(store: Store, model: Manifest) -> None:
    batches = shard_batches(SPEC, 0)
    seen = []
    with drawing_processes(SPEC, model, store, batches, num=3, gpus=["4", "7"]):
        me = os.getpid()
        for folder in Path("/proc").glob("[0-9]*"):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == me:
                environment = (folder / "environ").read_bytes().split(b"\0")
                seen += [v for v in environment if v.startswith(b"CUDA_VISIBLE_DEVICES=")]
    assert sorted(seen) == [b"CUDA_VISIBLE_DEVICES=" + n for n in (b"4", b"4", b"7")]


@pytest.mark.slow
def test_every_gpu_of_a_machine_draws(
    store: Store, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shard_digests(sample_dataset(SPEC, model, store, "whole", processes=1))
    started: list[str | None] = []
    start = workers.Worker.__init__

    def count(self, *arguments, gpu: str | None = None) -> None:
        started.append(gpu)
        start(self, *arguments, gpu=gpu)

    monkeypatch.setattr(workers.Worker, "__init__", count)
    monkeypatch.setattr(bulk, "visible_gpus", lambda: ["0", "1"])
    made = sample_dataset(SPEC, model, store, "gpus", processes=64)
    assert started == ["0", "1"]
    assert shard_digests(made) == expected


@pytest.mark.slow
def test_ranks_wait_for_shards_and_for_nothing_else(
    store: Store, model: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process group is there: a barrier would fail, or time out behind a slow rank."""
    monkeypatch.setattr(command, "POLL_SEC", 0.01)
    expected = shard_digests(sample_dataset(SPEC, model, store, "whole", processes=1))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sample_on_ranks, SPEC, model, store, "ranks", Ranks(rank=0, size=3))
        third = pool.submit(sample_on_ranks, SPEC, model, store, "ranks", Ranks(rank=2, size=3))
        time.sleep(0.5)
        assert not first.done()
        assert not third.done()
        make_shards(SPEC, model, store, "ranks", shards=[1], processes=1)
        assert shard_digests(first.result(timeout=60)) == expected
        assert third.result(timeout=60) == first.result()


def test_more_ranks_than_shards_end_too(store: Store, model: Manifest) -> None:
    spec = dataclasses.replace(SPEC, rows_per_shard=100)
    made = sample_on_ranks(spec, model, store, "ranks", Ranks(rank=0, size=4))
    assert sample_on_ranks(spec, model, store, "ranks", Ranks(rank=3, size=4)) == made
