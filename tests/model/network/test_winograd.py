"""Winograd's convolution is the direct one, within float32, and reads nothing else."""

import functools
import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.kernels import native, winograd
from model.network.kernels.activations import Border, without_border
from model.network.layers import bordered_conv

# Sizes that tiles of 2 x 4 cover, do not cover, and that are smaller than one.
SIZES = [(28, 28), (7, 7), (5, 9), (1, 1), (2, 3)]
NO_BORDER = Border(0, 0, 0)

needs_compiler = pytest.mark.skipif(not winograd.lanes(), reason="no C compiler to make it with")


@pytest.fixture
def threads():
    """Return torch's own choice of threads afterward."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def drawn(*size: int, memory: torch.memory_format = torch.contiguous_format) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(size, generator=generator).contiguous(memory_format=memory).requires_grad_()


def bordered(size: tuple[int, int], width: int, *, images: int, channels: int) -> tuple:
    """Return an input of this size in its border of zeros, and the border."""
    border = Border(1, width - 2, 1)
    inside = drawn(images, channels, *size).detach()
    x = F.pad(inside, (border.left, border.right, border.top, 0))
    return x.contiguous(memory_format=torch.channels_last).requires_grad_(), border


def error(found: Tensor, exact: Tensor) -> float:
    """Return the root of the mean square error, as a part of the values' own."""
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("channels", [(32, 32), (64, 32), (32, 160)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_are_those_of_the_direct_one(size, width, channels, has_bias) -> None:
    inputs, outputs = channels
    x, border = bordered(size, width, images=3, channels=inputs)
    weight, bias = drawn(outputs, inputs, 2, width), drawn(outputs) if has_bias else None
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    assert winograd.suits(x, weight)
    found = bordered_conv(x, weight, bias, border)
    exact = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert error(found, exact) < 2e-6
    gradient = drawn(*found.shape).detach()
    into = torch.autograd.grad(found, leaves, gradient)
    exactly = torch.autograd.grad(exact, leaves, gradient.double())
    assert error(without_border(into[0], border), without_border(exactly[0], border)) < 2e-6
    outside = into[0].clone()
    without_border(outside, border).zero_()
    assert not outside.any()
    for left, right in zip(into[1:], exactly[1:], strict=True):
        assert error(left, right) < 2e-6


@needs_compiler
@pytest.mark.parametrize("width", [2, 3])
def test_an_input_without_a_border_has_its_whole_gradient(width) -> None:
    x, weight = drawn(2, 32, 6, 9), drawn(32, 32, 2, width)
    (found,) = torch.autograd.grad(bordered_conv(x, weight, None, NO_BORDER).sum(), x)
    (exact,) = torch.autograd.grad(F.conv2d(x.double(), weight.double()).sum(), x)
    assert error(found, exact) < 2e-6


@needs_compiler
@pytest.mark.parametrize("width", [2, 3])
def test_an_output_is_made_of_the_rows_and_columns_that_it_reads(width) -> None:
    """Not even a number that is not finite gets further, but to a tile's columns of 2x3 taps."""
    weight = drawn(32, 32, 2, width).detach()
    for row, col in itertools.product(range(5), range(6)):
        x = drawn(1, 32, 5, 4 + width).detach()
        x[0, :, row, col] = torch.nan
        y = winograd.conv(x, weight, None)[0]
        for i, j in itertools.product(range(4), range(5)):
            reads_row = i in (row - 1, row)
            reads = reads_row and col - width < j <= col
            if reads or width == 2 or not reads_row:
                assert y[:, i, j].isnan().all() == reads, (row, col, i, j)


@needs_compiler
@pytest.mark.parametrize("width", [2, 3])
def test_values_depend_on_neither_threads_nor_neighbors(width, threads) -> None:
    x, border = bordered((7, 7), width, images=5, channels=64)
    weight, bias = drawn(64, 64, 2, width), drawn(64)
    alone = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        alone.append(bordered_conv(x, weight, bias, border))
    alone.append(torch.cat([bordered_conv(one[None], weight, bias, border) for one in x]))
    assert all(torch.equal(one, alone[0]) for one in alone)


@needs_compiler
def test_any_order_of_memory_is_taken() -> None:
    weight = drawn(32, 64, 2, 2).detach()
    plain = drawn(3, 64, 6, 6).detach()
    expected = winograd.conv(plain, weight, None)
    for x in (
        plain.contiguous(memory_format=torch.channels_last),
        plain.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat((plain, plain), dim=1)[:, 64:],
    ):
        assert torch.equal(winograd.conv(x, weight, None), expected)
    turned = weight.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(winograd.conv(plain, turned, None), expected)


@needs_compiler
def test_it_serves_its_own_kind_alone() -> None:
    def suits(channels: int, *taps: int, dtype: torch.dtype = torch.float32) -> bool:
        x = torch.zeros(1, channels, 8, 8, dtype=dtype)
        return winograd.suits(x, torch.zeros(channels, channels, *taps, dtype=dtype))

    assert suits(32, 2, 2)
    assert suits(32, 2, 3)
    assert not any((suits(32, 1, 1), suits(32, 3, 3), suits(32, 2, 4), suits(24, 2, 2)))
    assert not suits(32, 2, 2, dtype=torch.float64)
    with torch.device("meta"):
        assert not suits(32, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(32, 2, 2)


@needs_compiler
def test_operators_keep_torch_s_contract() -> None:
    x, weight, bias = drawn(2, 32, 5, 6).detach(), drawn(32, 32, 2, 3).detach(), drawn(32).detach()
    gradient = drawn(2, 32, 4, 4).detach()
    tests = ("test_schema", "test_faketensor")
    ops = torch.ops.sketchmill
    for found in (
        torch.library.opcheck(ops.winograd.default, (x, weight, bias), test_utils=tests),
        torch.library.opcheck(
            ops.winograd_input_gradient.default, (gradient, weight, [1, 1, 1]), test_utils=tests
        ),
        torch.library.opcheck(
            ops.winograd_weight_gradient.default, (gradient, x, 3), test_utils=tests
        ),
    ):
        assert set(found.values()) == {"SUCCESS"}


FORK = """
import os, torch
from model.network.kernels import native
from model.network.kernels import winograd
x, weight = torch.ones(4, 32, 8, 8), torch.ones(32, 32, 2, 2)
torch.set_num_threads(2)
expected = winograd.conv(x, weight, None)
if pid := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
torch.set_num_threads(1)
os._exit(not torch.equal(winograd.conv(x, weight, None), expected))
"""


@needs_compiler
@pytest.mark.slow
def test_a_forked_process_can_go_on() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


@pytest.mark.parametrize(
    ("compiler", "num_warnings"), [("false", 1), ("/no/such/compiler -O1", 1), ("", 0)]
)
def test_without_a_compiler_torch_serves(compiler, num_warnings, fresh, monkeypatch, caplog):
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    x, weight = drawn(1, 32, 4, 4).detach(), drawn(32, 32, 2, 2).detach()
    for _ in range(2):
        assert not winograd.suits(x, weight)
        assert torch.equal(bordered_conv(x, weight, None, NO_BORDER), F.conv2d(x, weight))
    assert len(caplog.records) == num_warnings
    assert all(one.message.startswith("winograd.c is not used, ") for one in caplog.records)


@needs_compiler
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.slow
def test_vectors_of_wider_cpus_compute_the_same(width, fresh, monkeypatch) -> None:
    """The compiler makes AVX-512's vectors of shorter ones where the CPU has none."""
    monkeypatch.setattr(native, "_COMPILE", (*native._COMPILE, "-D__AVX512F__=1"))
    assert winograd.lanes() == 16
    x, border = bordered((5, 9), width, images=3, channels=64)
    weight = drawn(96, 64, 2, width)
    found, exact = bordered_conv(x, weight, None, border), F.conv2d(x.double(), weight.double())
    assert error(found, exact) < 2e-6
    gradient = drawn(*found.shape).detach()
    into = torch.autograd.grad(found, (x, weight), gradient)
    exactly = torch.autograd.grad(exact, (x, weight), gradient.double())
    assert error(*(without_border(part[0], border) for part in (into, exactly))) < 2e-6
    assert error(into[1], exactly[1]) < 2e-6


@pytest.fixture
def fresh(monkeypatch) -> None:
    """Nothing is compiled yet."""
    monkeypatch.setattr(winograd, "_known_lanes", None)
    for cached in (native.library, winograd._library):
        function = cached.__wrapped__
        module = sys.modules[function.__module__]
        monkeypatch.setattr(module, function.__name__, functools.cache(function))
