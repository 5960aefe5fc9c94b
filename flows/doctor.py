"""Checks that this machine and this store can do the work, before the work finds out."""

import ctypes.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from pipelines.probe import probe
from pipelines.store import open_store

# Versions that import well and fail later; the reasons are in pyproject.toml.
TRAPS = {"fastapi": ((0, 139), (0, 151)), "sqlalchemy": ((2, 0), (2, 1))}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: whether it holds, and what was found or what to do."""

    check: str
    is_ok: bool
    message: str
    is_required: bool = True


def examine(url: str) -> Iterator[Finding]:
    """Yield the findings one by one; a check that fails does not stop the others."""
    for name, check in _machine_checks():
        try:
            yield check()
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}")
    for answer in probe(open_store(url)):
        yield Finding(f"store: {answer.question}", answer.is_ok, answer.message)


def _machine_checks() -> list[tuple[str, Callable[[], Finding]]]:
    return [
        ("python", _python),
        ("versions", _versions),
        ("cairo", _cairo),
        ("compiler", _compiler),
        ("cores", _cores),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info[:2] >= (3, 11), f"{found}; 3.11 or newer is needed")


def _versions() -> Finding:
    wrong = []
    for package, (low, high) in TRAPS.items():
        found = metadata.version(package)
        if not low <= tuple(map(int, found.split(".")[:2])) < high:
            wrong.append(f"{package} {found} breaks Prefect: run `make run` to install the pins")
    names = ("apache-beam", "torch", "pyarrow", "prefect")
    listed = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Finding("versions", not wrong, "; ".join(wrong) or listed)


def _cairo() -> Finding:
    found = ctypes.util.find_library("cairo")
    message = found or "absent: sources of strokes need it (Debian: apt install libcairo2)"
    return Finding("cairo", found is not None, message, is_required=False)


def _compiler() -> Finding:
    found = shutil.which("c++") or shutil.which("g++")
    message = found or "absent: torch.compile is not used"
    return Finding("compiler", found is not None, message, is_required=False)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", True, f"{count}")
