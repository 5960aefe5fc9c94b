"""Freed memory stays with the process: the second time its pages are there already."""

import platform
import subprocess
import sys

import pytest

COUNT_PAGES = """
import resource
import torch
from model.ranks import keep_freed_memory

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(5_000_000) for _ in range(4)]  # 20 MB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
without = faults()
assert keep_freed_memory()
faults()
print(without, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_pages_are_not_asked_for_again() -> None:
    command = [sys.executable, "-c", COUNT_PAGES]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    without, kept = map(int, done.stdout.split())
    assert kept < without / 10, (without, kept)
