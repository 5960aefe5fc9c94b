"""The spec decides all: rows, batches, address."""

import contextlib
import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sampling.drawer import shard_rows
from model.sampling.spec import (
    SampleSpec,
    find_row,
    shard_batches,
    spec_from_json,
    spec_rows,
    spec_to_json,
)

SPECS = st.builds(
    lambda numbers, batch, rows: SampleSpec(
        class_names=tuple(f"c{i}" for i in range(len(numbers))),
        per_class=tuple(numbers),
        batch_size=batch,
        rows_per_shard=rows,
    ),
    st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any),
    st.integers(1, 20),
    st.integers(1, 40),
)


@settings(deadline=None)
@given(SPECS)
def test_batches_cover_each_drawing_once(spec: SampleSpec) -> None:
    rows = spec_rows(spec)
    covered = []
    for shard in range(spec.num_shards):
        batches = shard_batches(spec, shard)
        assert all(0 < batch.stop - batch.start <= spec.batch_size for batch in batches)
        assert batches[-1].stop - batches[0].start <= spec.rows_per_shard
        for batch in batches:
            part = rows.part(batch)
            covered += list(zip(part.labels.tolist(), part.indices.tolist(), strict=True))
    numbers = enumerate(spec.counts.values())
    assert sorted(covered) == [(label, i) for label, number in numbers for i in range(number)]


@settings(deadline=None)
@given(SPECS)
def test_a_shard_holds_its_part_of_the_drawings_sorted_by_number_then_class(spec) -> None:
    numbers = list(spec.counts.values())
    labels = np.repeat(np.arange(len(numbers)), numbers)
    indices = np.concatenate([np.arange(number) for number in numbers])
    order = np.lexsort((labels, indices))
    for shard in range(spec.num_shards):
        part = order[shard * spec.rows_per_shard : (shard + 1) * spec.rows_per_shard]
        rows = shard_rows(spec, shard)
        assert rows.labels.tolist() == labels[part].tolist()
        assert rows.indices.tolist() == indices[part].tolist()
    for row in range(spec.num_rows):
        name = spec.class_names[labels[order[row]]]
        assert find_row(spec, name, int(indices[order[row]])) == row


def test_a_shard_of_fifty_million_is_planned_without_the_others() -> None:
    names = tuple(f"c{i}" for i in range(345))
    spec = SampleSpec(class_names=names, per_class=145_000)
    with assert_memory_below(64 << 20):
        rows = shard_rows(spec, spec.num_shards - 1)
    assert len(rows) == spec.num_rows % spec.rows_per_shard
    assert (rows.labels[-1], rows.indices[-1]) == (344, 144_999)


@contextlib.contextmanager
def assert_memory_below(limit_bytes: int):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes


def test_a_drawing_that_the_spec_lacks_has_no_row() -> None:
    spec = SampleSpec(class_names=("a", "b"), per_class=(2, 1))
    for name, index in (("b", 1), ("a", -1), ("c", 0)):
        with pytest.raises(ValueError, match="the spec has no drawing"):
            find_row(spec, name, index)


@settings(deadline=None)
@given(SPECS)
def test_spec_survives_json(spec: SampleSpec) -> None:
    assert spec_from_json(spec_to_json(spec)) == spec


def test_more_drawings_append_rows() -> None:
    small = SampleSpec(class_names=("a", "b"), per_class=3)
    few, many = spec_rows(small), spec_rows(dataclasses.replace(small, per_class=5))
    assert (many.labels[: len(few)] == few.labels).all()
    assert (many.indices[: len(few)] == few.indices).all()


def test_spec_of_another_sampler_is_refused() -> None:
    raw = spec_to_json(SampleSpec(class_names=("a",), per_class=1))
    with pytest.raises(ValueError, match="this is sampler 1, the spec is for 2"):
        spec_from_json(raw | {"sampler_version": 2})
    with pytest.raises(ValueError, match="unexpected or missing fields"):
        spec_from_json(raw | {"color": "red"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ()}, "class_names must be different and not empty"),
        ({"class_names": ("a", "a")}, "class_names must be different"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"per_class": (1, 2)}, "per_class has 2 numbers for 1 classes"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, r"seed must be in \[0, 2\^63\)"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"dtype": "float16"}, "dtype 'float16': expected one of float32, bfloat16, float64"),
    ],
)
def test_bad_fields_are_named(change: dict, message: str) -> None:
    fields = {"class_names": ("a",), "per_class": 1} | change
    with pytest.raises(ValueError, match=message):
        SampleSpec(**fields)
