"""Beam's flags: which engine does the work, and what of them can be refused before any work."""

import re
from collections.abc import Sequence

from pipelines.store.errors import LackError, missing_extras
from pipelines.store.printable import printable

DASK = "DaskRunner"
# Beam knows most runners by a short name, but not this one.
_DASK_CLASS = f"apache_beam.runners.dask.dask_runner.{DASK}"
_ADDRESS = re.compile(r"(tcp|tls)://([^/\s:@\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")
_ADDRESS_FLAG = "--dask_client_address"
# A unit is a task: they are dealt as workers come for more, and a lost worker costs what it was at.
# Beam's own default, 128 units, leaves most workers of a small dataset without work.
_UNIT_A_TASK = "--dask_partition_size=1"
_SHARES = ("--dask_npartitions", "--dask_partition_size")


def runner_flags(beam_args: Sequence[str], workers: int, cluster: str = "") -> list[str]:
    """Return Beam's flags with the runner named; what the user gave is passed on untouched.

    cluster: address of a Dask scheduler, "" for none

    Raises ValueError for what cannot be used together.

    >>> runner_flags([], 1)
    ['--runner=FnApiRunner', '--direct_running_mode=in_memory']
    """
    flags = list(beam_args)
    runner = runner_name(flags)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    if cluster:
        if runner is not None:
            raise ValueError(
                f"--cluster {cluster} and --beam=--runner={runner} name two engines: give one"
            )
        return _dask_flags([f"{_ADDRESS_FLAG}={cluster}", *flags])
    if runner is not None:
        return _dask_flags(flags) if is_dask(runner) else flags
    if workers == 1:
        return ["--runner=FnApiRunner", "--direct_running_mode=in_memory", *flags]
    mode = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    return ["--runner=FnApiRunner", *mode, *flags]


def check_engine(beam_args: Sequence[str], workers: int, cluster: str) -> None:
    """Raise ValueError for flags that cannot be used, LackError without the engine's libraries."""
    flags = runner_flags(beam_args, workers, cluster)
    needed = ("apache_beam", *(("dask", "distributed") if cluster_address(flags) else ()))
    if lacking := missing_extras(*needed):
        raise LackError(lacking)


def _dask_flags(flags: Sequence[str]) -> list[str]:
    address = flag_value(flags, _ADDRESS_FLAG) or ""
    if not _ADDRESS.fullmatch(address):
        found = f", found {printable(address)!r}" if address else ""
        raise ValueError(
            f"{DASK} needs the address of a Dask scheduler, such as --cluster "
            f"tcp://scheduler:8786{found}: `dask scheduler` prints its own"
        )
    has_shares = any(flag_value(flags, name) is not None for name in _SHARES)
    return [
        f"--runner={_DASK_CLASS}",
        *without_runner(flags),
        *([] if has_shares else [_UNIT_A_TASK]),
    ]


def is_dask(runner: str) -> bool:
    """Return whether a runner is Beam's of Dask, by its short name or its class.

    >>> is_dask("DaskRunner"), is_dask("a.b.daskrunner"), is_dask("FlinkRunner")
    (True, True, False)
    """
    return runner.rsplit(".", 1)[-1].lower() == DASK.lower()


def cluster_address(flags: Sequence[str]) -> str:
    """Return the address of the Dask scheduler that does the work, "" if it is another engine."""
    return (flag_value(flags, _ADDRESS_FLAG) or "") if is_dask(runner_name(flags) or "") else ""


def runner_name(beam_args: Sequence[str]) -> str | None:
    """Return the runner that the flags name, None if they leave it to us."""
    return flag_value(beam_args, "--runner")


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """Return the value of a flag of Beam's, written with "=" or as the next one; None without it.

    >>> flag_value(["--a=1", "--b", "2"], "--b"), flag_value(["--a"], "--a")
    ('2', None)
    """
    for index, flag in enumerate(flags):
        if flag.startswith(f"{name}="):
            return flag.split("=", 1)[1]
        if flag == name and index + 1 < len(flags):
            return flags[index + 1]
    return None


def without_runner(flags: Sequence[str]) -> list[str]:
    """Return flags without the one that names the runner."""
    kept, is_value = [], False
    for flag in flags:
        if not is_value and flag != "--runner" and not flag.startswith("--runner="):
            kept.append(flag)
        is_value = flag == "--runner"
    return kept


def runs_here(flags: Sequence[str]) -> bool:
    """Return whether the units are done in this process."""
    return runner_name(flags) == "FnApiRunner" and "--direct_running_mode=in_memory" in flags


def starts_processes(flags: Sequence[str]) -> bool:
    """Return whether the units are done by child processes of this one."""
    return "--direct_running_mode=multi_processing" in flags
