"""`sketchmill doctor`: check that this machine and this store can do the work.

A machine need not have every library: the image of the pipelines has no torch, that of the model
no Beam. What is absent is a note that names the stages which cannot run here; only versions that
are known to break fail.
"""

import ctypes.util
import dataclasses
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from flows.options import Cluster, Common
from flows.stages.base import writable_cache
from flows.terminal import print_result
from pipelines.processes.guard import check_system
from pipelines.processes.progress import doing
from pipelines.store.artifacts import open_store
from pipelines.store.backends import one_line
from pipelines.store.probe import probe

# Versions that import well and fail later; the reasons are in pyproject.toml. Prefect before
# 3.8.3 allows remote code execution on its server.
TRAPS = {
    "fastapi": ((0, 139), (0, 151)),
    "sqlalchemy": ((2, 0, 40), (2, 1)),
    "prefect": ((3, 8, 3), (4,)),
}
# Library that one of the two images lacks -> stages that need it.
STAGES = {
    "apache-beam": "build",
    "tensorflow-datasets": "build from prepared TFDS directories",
    "torch": "train, evaluate, sample, report, audit, classifier, score",
    "prefect": "run, deploy, serve",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check, with what was found or what to do."""

    check: str
    is_ok: bool
    message: str
    is_required: bool = True


def examine(url: str | None, cluster: str = "") -> Iterator[Finding]:
    """Yield the findings one by one; a check that fails does not stop the others.

    url      of the store; None asks none
    cluster  address of a Dask scheduler whose workers are asked too; "" for none
    """
    for name, check in _machine_checks():
        try:
            yield check()
        except Exception as error:
            yield Finding(name, False, one_line(error) or type(error).__name__)
    if url is not None:
        try:
            for answer in probe(open_store(url)):
                yield Finding(f"store: {answer.question}", answer.is_ok, answer.message)
        except Exception as error:
            yield Finding("store", False, one_line(error) or type(error).__name__)
    if cluster:
        try:
            yield from _workers(cluster, url)
        except Exception as error:
            yield Finding("cluster", False, one_line(error) or type(error).__name__)


def _workers(address: str, url: str | None) -> Iterator[Finding]:
    """Yield a finding for each worker: versions, and whether it reaches the store."""
    from pipelines.engines.dask import ask_workers
    from pipelines.engines.flags import check_engine

    check_engine((), 1, address)
    reports = ask_workers(address, [], None if url is None else open_store(url), [])
    if not reports:
        yield Finding("cluster", False, f"no worker is at {address}: dask worker {address}")
    for each in reports:
        has = each.has if url is None else f"{each.has}, reaches the store"
        message = f"{each.has}, {'; '.join(each.lacks)}" if each.lacks else has
        yield Finding(f"worker {each.address}", not each.lacks, message)


def _machine_checks() -> list[tuple[str, Callable[[], Finding]]]:
    return [
        ("python", _python),
        ("system", _system),
        ("versions", _versions),
        ("stages", _stages),
        ("cairo", _cairo),
        ("compiler", _compiler),
        ("cores", _cores),
        ("cache", _cache),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info[:2] >= (3, 11), f"{found}; 3.11 or newer is needed")


def _system() -> Finding:
    try:
        check_system()
    except ValueError as error:
        return Finding("system", False, str(error), is_required=False)
    return Finding("system", True, f"{platform.system()} {platform.machine()}")


def _versions() -> Finding:
    found = {name: _version(name) for name in ("apache-beam", "torch", "pyarrow", *TRAPS)}
    wrong = [
        f"{name} {found[name]} breaks Prefect: pip install '{name}>={_text(low)},<{_text(high)}'"
        for name, (low, high) in TRAPS.items()
        if found[name] and not low <= _numbers(found[name]) < high
    ]
    listed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    return Finding("versions", not wrong, "; ".join(wrong) or listed)


def _stages() -> Finding:
    lacking = [
        f"{name} is absent: no {what}" for name, what in STAGES.items() if not _version(name)
    ]
    message = "; ".join(lacking) or "all can run here"
    return Finding("stages", not lacking, message, is_required=False)


def _version(package: str) -> str:
    """Return the installed version of a package, empty if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release of a version: of `3.8.8rc1` and `2.13.0+cpu` the numbers alone."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _cairo() -> Finding:
    found = ctypes.util.find_library("cairo")
    message = found or "absent: sources of strokes need it (Debian: apt install libcairo2)"
    return Finding("cairo", found is not None, message, is_required=False)


def _compiler() -> Finding:
    uses = {"cc": "training takes up to 1.7 times as long", "c++": "torch.compile is not used"}
    absent = [f"no {name}: {use}" for name, use in uses.items() if not shutil.which(name)]
    message = "; ".join(absent) or " and ".join(uses)
    return Finding("compiler", not absent, message, is_required=False)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", True, f"{count}")


def _cache() -> Finding:
    return Finding("cache", True, str(writable_cache()))


def doctor(*, cluster: Cluster = "", common: Common = Common()) -> None:
    """Check versions, libraries, disk space, and the store operations that publishing needs.

    The check of the store writes to it; --dry-run skips it.
    """
    with doing("doctor", "asking the machine and the store"):
        findings = list(examine(None if common.dry_run else common.store, cluster))
    if common.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print_result({"findings": rows}, as_json=True)
    else:
        print_result({_label(f): f.message for f in findings}, as_json=False)
    failed = [f.check for f in findings if f.is_required and not f.is_ok]
    if failed:
        raise RuntimeError(f"this will not work here: {', '.join(failed)}")


def _label(finding) -> str:
    mark = "ok  " if finding.is_ok else ("FAIL" if finding.is_required else "note")
    return f"{mark}  {finding.check}"
