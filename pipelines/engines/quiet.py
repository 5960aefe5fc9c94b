"""Keep what engines say of themselves off the terminal; failures reach us as exceptions.

With --debug, which is a root logger at INFO or below, they say everything.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from pipelines.engines.flags import cluster_address, starts_processes


@contextlib.contextmanager
def quiet_engine(flags: Sequence[str]) -> Iterator[None]:
    """Keep Beam, and the engine that its flags name, quiet."""
    with contextlib.ExitStack() as stack:
        if starts_processes(flags):
            stack.enter_context(_quiet_workers())
        if cluster_address(flags):
            stack.enter_context(quiet_dask())
        stack.enter_context(_quiet_beam())
        yield


@contextlib.contextmanager
def quiet_dask() -> Iterator[None]:
    """Let Dask, when it is imported, leave logging alone, and keep its log off the terminal.

    After a failure it stays quiet: a client that has lost its scheduler speaks of it for a while.
    """
    import dask.config

    dask.config.set(logging={"version": 1, "disable_existing_loggers": False})
    logger = logging.getLogger("distributed")
    before = logger.level
    if not logging.getLogger().isEnabledFor(logging.INFO):
        logger.setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(before)


@contextlib.contextmanager
def _quiet_beam() -> Iterator[None]:
    """Keep Beam from logging the tracebacks of failures that reach us as exceptions.

    With --debug, which is a root logger at INFO or below, Beam says everything. What a job service
    says comes through the root logger itself.
    """
    root, logger = logging.getLogger(), logging.getLogger("apache_beam")
    before = logger.level
    if root.isEnabledFor(logging.INFO):
        yield
        return
    logger.setLevel(logging.CRITICAL + 1)
    root.addFilter(_is_not_of_a_job)
    try:
        yield
    finally:
        root.removeFilter(_is_not_of_a_job)
        logger.setLevel(before)


def _is_not_of_a_job(record: logging.LogRecord) -> bool:
    return record.module != "portable_runner"


@contextlib.contextmanager
def _quiet_workers() -> Iterator[None]:
    """Keep what Beam's local workers say of their lives off the terminal.

    They inherit file 2; what this process says meanwhile goes to a copy of it. Failures reach
    us as exceptions, with the worker's traceback.
    """
    sys.stderr.flush()
    ours, python_stderr = os.dup(2), sys.stderr
    with open(os.devnull, "wb") as nowhere, open(ours, "w", buffering=1) as terminal:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
        if _is_file_2(python_stderr):
            sys.stderr = terminal
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            os.dup2(nowhere.fileno(), ours)  # this process ends: its workers have no more to say
            raise
        finally:
            sys.stderr = python_stderr
            terminal.flush()
            os.dup2(ours, 2)


def _is_file_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
