"""Work that fails, is done twice, or is killed at any moment leaves the bytes of one that was not."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import beam
from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest

CLASSES = ("bee", "sun")


@pytest.fixture
def source_dir(write_npy_files) -> Path:
    return write_npy_files(CLASSES, 200)


def build(source_dir: Path, store: str, **options) -> Manifest:
    options = {"formats": ("parquet", "tfrecord")} | options
    source = open_source(str(source_dir), CLASSES, source_dir.parent / "cache")
    spec = DatasetSpec(class_names=CLASSES, rows_per_shard=100, **options)
    return build_dataset(spec, source, open_store(str(source_dir.parent / store)), "x")


def contents(root: Path) -> dict[str, bytes]:
    """Return every file that consumers read."""
    found = [p for part in ("datasets", "refs") for p in sorted((root / part).rglob("*"))]
    return {str(p.relative_to(root)): p.read_bytes() for p in found if p.is_file()}


@dataclass(frozen=True)
class Retried:
    """Work that a runner does again, at once and in the same run, when it has failed."""

    work: Any

    def __call__(self, unit, store):
        try:
            return self.work(unit, store)
        except OSError:
            return self.work(unit, store)


@dataclass(frozen=True)
class AtOnce:
    """Work that two workers do at the same time."""

    work: Any

    def __call__(self, unit, store):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: self.work(unit, store), range(2))
        assert first == second
        return first


def wrap_work(monkeypatch, wrapper):
    real = beam.run_units
    monkeypatch.setattr(
        beam,
        "run_units",
        lambda units, work, *rest, **run: real(units, wrapper(work), *rest, **run),
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "ending",
    ["00001-of-00004.parquet", ".tfrecord-00001-of-00004", "train-00001-of-00004.json", ".arrow"],
)
def test_a_bundle_retried_in_its_run_changes_nothing(source_dir, monkeypatch, ending, is_written):
    build(source_dir, "undisturbed")
    real, failed = Store.put, []

    def put(self, path, content):
        fails = path.endswith(ending) and not failed
        if is_written or not fails:
            real(self, path, content)
        if fails:
            failed.append(path)
            raise OSError("the worker lost its disk")

    monkeypatch.setattr(Store, "put", put)
    wrap_work(monkeypatch, Retried)
    build(source_dir, "failed")
    assert failed
    root = source_dir.parent
    assert contents(root / "failed") == contents(root / "undisturbed")


@pytest.mark.slow
def test_two_workers_that_write_one_shard_at_once_change_nothing(source_dir, monkeypatch):
    build(source_dir, "undisturbed")
    real, together = Store.put, threading.Barrier(2, timeout=60)
    writes = Counter[str]()

    def put(self, path, content):
        if threading.current_thread() is not threading.main_thread():
            writes[path] += 1
            if path.endswith((".parquet", ".json")) or ".tfrecord" in path:
                together.wait()
        real(self, path, content)

    wrap_work(monkeypatch, AtOnce)
    monkeypatch.setattr(Store, "put", put)
    build(source_dir, "twice")
    shards = {n for path, n in writes.items() if ".parquet" in path or ".tfrecord" in path}
    assert shards == {2}
    root = source_dir.parent
    assert contents(root / "twice") == contents(root / "undisturbed")


SLOW_BUILD = """
import sys, time
from pathlib import Path
from pipelines.dataset.shards import BuildWork
from pipelines.dataset.build import build_dataset
from pipelines.dataset.scan import ScanWork
from pipelines.sources.registry import open_source
from pipelines.dataset.spec import DatasetSpec
from pipelines.store.artifacts import Store, open_store

def pause(owner, name, when):
    real = getattr(owner, name)
    def slow(self, *arguments):
        result = real(self, *arguments)
        time.sleep(120 if when(arguments) else 0)
        return result
    setattr(owner, name, slow)

if __name__ == "__main__":
    root, stage, layout = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if stage == "scan":
        pause(ScanWork, "__call__", lambda _: True)
    if stage == "build":
        pause(BuildWork, "__call__", lambda given: given[0].shard.index == 1)
    if stage == "publish":
        pause(Store, "put", lambda given: given[0].endswith("croissant.json"))
    source = open_source(str(root / "source"), ("bee", "sun"), root / "cache")
    formats = ("parquet",) if layout == "linked" else ("parquet", "tfrecord")
    spec = DatasetSpec(
        class_names=("bee", "sun"), rows_per_shard=100, formats=formats, layout=layout
    )
    build_dataset(spec, source, open_store(str(root / "killed")), "x")
"""
LEAVES = {
    "scan": ("attempts/attributes/*/*.arrow", 1),
    "build": ("attempts/shards/*/train-00001-*.json", 1),
    "publish": ("datasets/*/*/croissant.json", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "layout"),
    [
        ("scan", "packed"),
        ("build", "packed"),
        ("publish", "packed"),
        ("build", "linked"),
        ("publish", "linked"),
    ],
)
def test_a_build_killed_at_any_stage_goes_on_to_the_same_bytes(source_dir, stage, layout):
    root = source_dir.parent
    script = root / "build.py"
    script.write_text(SLOW_BUILD)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), str(root), stage, layout]
    pattern, count = LEAVES[stage]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 120
        while len(list((root / "killed").glob(pattern))) < count:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert list((root / "killed").glob("datasets/x/*/manifest.json")) == []
    left = (root / "killed").glob("attempts/*/*/*[0-9].*")  # the plan is always put anew
    done = {p: p.stat().st_mtime_ns for p in left if not p.name.startswith("blocks-")}
    options = {"layout": layout} | ({"formats": ("parquet",)} if layout == "linked" else {})
    for name in ("killed", "undisturbed"):
        build(source_dir, name, **options)
    assert contents(root / "killed") == contents(root / "undisturbed")
    assert {p: p.stat().st_mtime_ns for p in done} == done  # what was done is not done again
