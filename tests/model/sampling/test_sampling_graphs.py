"""What CUDA graphs need of the sampler, checked without a GPU.

A graph repeats recorded operations on recorded memory, so rows that share a graph must do the
same operations on the same memory.
"""

import gc
import weakref

import pytest
import torch
from families import FAMILIES, build, condition
from torch.utils._python_dispatch import TorchDispatchMode

from model.network.likelihood import num_draws
from model.sampling.cached import CachedSampler
from model.sampling.drawer import draw_uniforms
from model.sampling.evaluator import graph_key

Operation = tuple[object, ...]


class Recorder(TorchDispatchMode):
    """Records each operation with the memory it was given; temporaries are told by shape."""

    def __init__(self, lasting: set[int]) -> None:
        super().__init__()
        self.lasting, self.operations = lasting, list[Operation]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        named = [*args, *(kwargs or {}).values()]
        self.operations.append((str(func), *(self._describe(value) for value in named)))
        return func(*args, **(kwargs or {}))

    def _describe(self, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple(self._describe(item) for item in value)
        if not isinstance(value, torch.Tensor):
            return str(value)
        place = value.untyped_storage().data_ptr()
        offset = value.storage_offset() if place in self.lasting else None
        return place if offset is not None else 0, offset, tuple(value.shape)


def record_rows(family: str) -> tuple[list[list[Operation]], int]:
    model = build(FAMILIES[family])
    sampler = CachedSampler(model, batch=3)
    height, width, _ = model.config.image_shape
    sampler._code_rows = []
    sampler._encode(condition(model.config))
    sampler._uniforms.copy_(
        draw_uniforms(3, num_draws(model.config), height, width, seed=0).permute(2, 3, 0, 1)[0]
    )
    lasting = tensors_of(sampler)
    rows = []
    for row in range(2 * sampler._evaluator.period + 2):
        with Recorder(lasting) as recorder, torch.no_grad():
            sampler._run_row(row)
        rows.append(recorder.operations)
    return rows, sampler._evaluator.period


def tensors_of(root: object) -> set[int]:
    """Return the memory of every tensor that an object holds, at any depth."""
    found, seen, waiting = set(), set(), [root]
    while waiting:
        here = waiting.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, torch.Tensor):
            found.add(here.untyped_storage().data_ptr())
        elif isinstance(here, list | tuple):
            waiting += here
        elif isinstance(here, dict):
            waiting += here.values()
        elif type(here).__module__.startswith("model."):
            names = [n for kind in type(here).__mro__ for n in getattr(kind, "__slots__", ())]
            waiting += [getattr(here, name) for name in names]
            waiting += getattr(here, "__dict__", {}).values()
    return found


@pytest.mark.parametrize("family", ["tiny", "three levels", "high view", "spatial", "softmax"])
def test_rows_of_one_graph_do_the_same(family: str) -> None:
    rows, period = record_rows(family)
    for row, operations in enumerate(rows):
        assert operations == rows[graph_key(row, period)], row


def test_rows_of_different_levels_differ() -> None:
    # Otherwise the comparison above would compare nothing.
    rows, _ = record_rows("three levels")
    assert len(rows[12]) > len(rows[10]) > len(rows[9])


def test_row_graphs_capture_each_kind_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []
    graphs = fake_cuda_graphs(monkeypatch, done)
    for row in range(7):
        graphs.run(row, lambda row: done.append(("run", row)))
    ran = [row for what, row in done if what == "run"]
    assert ran == [0, 0, 1, 1, 2, 2, 3, 3]  # once eagerly, once while capturing
    assert [row for what, row in done if what == "replay"] == [2, 3, 2]


def fake_cuda_graphs(monkeypatch: pytest.MonkeyPatch, done: list[tuple[str, int]]):
    """Stand in for CUDA, which this machine may lack."""
    import contextlib

    from model.sampling.evaluator import RowGraphs

    class Graph:
        row = -1

        def replay(self) -> None:
            done.append(("replay", self.row))

    captured: list[Graph] = []

    @contextlib.contextmanager
    def capture(graph: Graph, pool: object):
        captured.append(graph)
        yield
        graph.row = done[-1][1]

    for name, stand_in in {
        "CUDAGraph": Graph,
        "graph": capture,
        "graph_pool_handle": lambda: (0, 0),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return RowGraphs(period=2)


def test_memory_of_a_sampler_is_free_once_nobody_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle would keep it until Python's collector comes, while the next one needs memory."""
    sampler = CachedSampler(build(FAMILIES["tiny"]), batch=3)
    sampler._graphs = fake_cuda_graphs(monkeypatch, [("run", 0)])
    uniforms = draw_uniforms(3, num_draws(sampler.config), 8, 8, seed=0)
    sampler.sample(uniforms)
    gone = weakref.ref(sampler)
    memory = weakref.ref(sampler._evaluator._start.outs[0].value.tensor)
    gc.disable()
    try:
        del sampler
        assert gone() is None
        assert memory() is None
    finally:
        gc.enable()
