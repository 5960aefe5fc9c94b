"""Attributes of single rows, without reading a table for every shard."""

import contextlib
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from pipelines.dataset.attributes import read_table_rows, table_to_bytes
from pipelines.dataset.jobs import needed_to_build
from pipelines.dataset.scan import ScanUnit
from pipelines.sources.base import SourceFile
from pipelines.store.artifacts import open_store
from pipelines.store.scratch import sealed


def make_table(seed: int, rows: int = 5_000) -> pa.Table:
    rng = np.random.default_rng(seed)
    countries = rng.choice(["DE", "US", "JP"], rows)
    return pa.table({"key_id": rng.integers(0, 2**62, rows), "country_code": countries})


@pytest.mark.parametrize("place", ["directory", "memory"])
def test_rows_are_those_of_the_table_and_each_remote_table_is_fetched_once(tmp_path, place):
    store = open_store("memory://" if place == "memory" else str(tmp_path))
    tables = {f"attempts/attributes/{i}.arrow": make_table(i) for i in range(3)}
    for path, table in tables.items():
        store.put(path, sealed(table_to_bytes(table)))
    fetched, get = [], store.get
    store.get = lambda path: fetched.append(path) or get(path)
    for start in (0, 1_000, 3_500):
        rows = np.arange(start, start + 900, 7)
        for path, table in tables.items():
            assert read_table_rows(store, path, rows).equals(table.take(rows)), path
    assert fetched == (list(tables) if place == "memory" else [])


def test_threads_of_a_process_get_each_its_own_table():
    """Runners that have several bundles at once in a process read through the same copies."""
    store = open_store("memory://threads")
    tables = {f"attempts/attributes/{i}.arrow": make_table(i, 50 + i) for i in range(400)}
    for path, table in tables.items():
        store.put(path, sealed(table_to_bytes(table)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # take turns a thousand times as often as usual
    with contextlib.ExitStack() as stack:
        stack.callback(sys.setswitchinterval, interval)
        pool = stack.enter_context(ThreadPoolExecutor(8))
        found = list(pool.map(lambda path: read_table_rows(store, path, np.arange(50)), tables))
    for path, rows in zip(tables, found, strict=True):
        assert rows.equals(tables[path].slice(0, 50)), path


def test_what_travels_to_build_has_no_index_of_lines_and_no_joined_file():
    lines = SourceFile(
        url="sun.ndjson",
        format="simplified",
        class_name="sun",
        rows=100_000,
        bytes=1,
        digest="sha256:0",
        layout={"lines": np.arange(100_000)},
    )
    direct = SourceFile(
        url="sun.npy",
        format="npy",
        class_name="sun",
        rows=100_000,
        bytes=1,
        digest="sha256:1",
        layout={"offset": 80, "side": 28},
        metadata=lines,
        is_direct=True,
    )
    units = [
        ScanUnit(file=lines, start=0, stop=9, path="a.arrow", pixels_path="a.npy"),
        ScanUnit(file=direct, start=0, stop=9, path="b.arrow", pixels_path=None),
    ]
    slim = needed_to_build(units)
    assert len(pickle.dumps(slim)) < 2_000
    assert slim[1].file.layout == direct.layout
    assert [unit.path for unit in slim] == ["a.arrow", "b.arrow"]
