"""Denormal numbers are 0 while a run lasts, in all threads that it starts, and not after it."""

import platform
import subprocess
import sys

import pytest
import torch

from model.network.precision import denormals_as_zero
from model.options import RunOptions
from model.ranks import Ranks
from model.training.train import torch_settings

COUNT_KEPT = """
import torch
from model.network.precision import denormals_as_zero

tiny = torch.finfo(torch.float32).tiny
torch.set_num_threads(2)
with denormals_as_zero():
    print((torch.full((1_000_000,), tiny) / 2).count_nonzero().item())
"""

on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="torch flushes on x86-64 for sure"
)


def half_of_the_smallest() -> float:
    return (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item()


@on_x86
def test_denormals_are_zero_inside_and_numbers_outside() -> None:
    with denormals_as_zero():
        assert half_of_the_smallest() == 0
        with denormals_as_zero():
            pass
        assert half_of_the_smallest() == 0
    assert half_of_the_smallest() > 0


@on_x86
def test_a_run_takes_them_as_zero() -> None:
    with torch_settings(RunOptions(), Ranks()):
        assert half_of_the_smallest() == 0
    assert half_of_the_smallest() > 0


@on_x86
@pytest.mark.slow
def test_threads_started_inside_take_them_as_zero_too() -> None:
    command = [sys.executable, "-c", COUNT_KEPT]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "0"
