"""Run work units on Apache Beam: distribute them, collect counters, report failures.

The graph is Create(units) | Reshuffle | ParDo(work). A unit is a small record; its work puts
objects under keys that depend only on the unit and returns counters. Units are therefore
idempotent: bundles may be retried or run twice at once, and every runner gives the same bytes.

A flag selects the runner. The default is FnApiRunner, because Beam's own default looks for a
binary on the network first. One worker runs in this process, several in child processes.

A runner returns text and no exceptions, so a unit's failure is sent as text:

    worker: exception -> UnitError("[[sketchmill:<base64 of pipelines.store.failures>]]") -> the runner's traceback
    here:   the runner's message, with any text around the mark -> the exception to raise

The same bad input is therefore the same error on every runner and with any number of workers.
"""

import base64
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.processes.progress import Progress, Rate, watch
from pipelines.store.artifacts import Store, open_store
from pipelines.store.failures import failure_from_json, failure_to_json
from pipelines.store.scratch import DAMAGED_UNITS

_LOGGER = logging.getLogger(__name__)
_MARK = re.compile(r"\[\[sketchmill:([A-Za-z0-9+/=]+)\]\]")
COUNTER_NAMESPACE = "sketchmill"
# A memory:// store exists in one process only; its pipeline must run here and find it.
_stores: dict[str, Store] = {}


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Importing Beam warns through the root logger, which would install a handler for all."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


with _quiet_root_logger():
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions


class Work(Protocol):
    """Does one unit; must be picklable. Returns numbers to count under their names."""

    def __call__(self, unit: Any, store: Store) -> Mapping[str, int]:
        """Do the unit's work against the store."""
        ...


class DoWork(beam.DoFn):
    """Runs the work of each unit, with counters; opens the store once a process."""

    def __init__(self, work: Work, store_url: str) -> None:
        self.work = work
        self.store_url = store_url

    def process(self, element: Any) -> None:
        """Do one unit; a failure leaves as text, which every runner hands back."""
        try:
            amounts = self.work(element, _open_shared(self.store_url))
        except Exception as error:
            raise pack_failure(error) from None
        for name, amount in amounts.items():
            beam.metrics.Metrics.counter(COUNTER_NAMESPACE, name).inc(amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How units are done; none of it changes a byte.

    beam_args  flags for Beam, passed on untouched; none: FnApiRunner in this process, or in
               `workers` processes
    progress   called as progress(stage, done, total, note) in drawings
    """

    beam_args: Sequence[str] = ()
    workers: int = 1
    progress: Progress | None = None

    @property
    def runner(self) -> str:
        """The runner's name; raises ValueError for flags that cannot be used."""
        return runner_name(runner_flags(self.beam_args, self.workers)) or "FnApiRunner"


def run_watched(
    units: Sequence[Any],
    work: Work,
    store: Store,
    options: RunOptions,
    *,
    stage: str,
    pending: Mapping[str, int],
    done: int = 0,
    place: Store | None = None,
) -> dict[str, int]:
    """Do units as `run_units` does, tell how far they are, and warn of what was damaged.

    pending  drawings by what the units put last, in `place`; by default in `store`
    done     drawings that need no unit
    """
    rate = Rate(stage, done + sum(pending.values()), options.progress)
    with watch(place or store, pending, lambda drawings: rate(done + drawings)):
        counters = run_units(
            units,
            work,
            store,
            label=stage.capitalize(),
            beam_args=options.beam_args,
            workers=options.workers,
        )
    if number := counters.get(DAMAGED_UNITS):
        _LOGGER.warning(
            "%s: the records of %d of %d units are damaged or of another version; these units are "
            "made again",
            stage,
            number,
            len(units),
        )
    return counters


def run_units(
    units: Sequence[Any],
    work: Work,
    store: Store,
    *,
    label: str,
    beam_args: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, int]:
    """Do all units on the runner that the flags name and return the counters.

    Raises ValueError for flags that cannot be used. What a unit raised comes with its own message
    on every runner: BadFileError, StoreError, FileNotFoundError and ValueError as they are, all
    else as WorkError.
    """
    if not units:
        return {}
    flags = runner_flags(beam_args, workers)
    if store.url.startswith("memory://") and not _runs_here(flags):
        raise ValueError("a memory:// store is in this process only: use one worker, FnApiRunner")
    _stores[store.url] = store
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        _ = (
            pipeline
            | f"{label} units" >> beam.Create(list(units), reshuffle=False)
            | f"Spread {label} units" >> beam.Reshuffle()
            | label >> beam.ParDo(DoWork(work, store.url))
        )
        quiet = _quiet_workers() if _starts_processes(flags) else contextlib.nullcontext()
        with quiet, _quiet_beam():
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        if (failure := unpack_failure(error)) is not None:
            raise failure from None
        raise
    finally:
        _stores.pop(store.url, None)
    return _counters(result)


def runner_flags(beam_args: Sequence[str], workers: int) -> list[str]:
    """Return Beam's flags with the runner named; what the user gave is passed on untouched.

    >>> runner_flags([], 1)
    ['--runner=FnApiRunner', '--direct_running_mode=in_memory']
    """
    flags = list(beam_args)
    runner = runner_name(flags)
    if runner is not None and runner.rsplit(".", 1)[-1].lower() == "daskrunner":
        raise ValueError(
            "DaskRunner is refused: in Beam 2.77 it computes only the last branch of a graph, "
            "merges tagged outputs and drops what finish_bundle gives, without an error; use "
            "FnApiRunner with --workers, or FlinkRunner, SparkRunner, DataflowRunner, PortableRunner"
        )
    if workers < 1:
        raise ValueError(f"workers must be at least 1, found {workers}")
    if runner is not None:
        return flags
    if workers == 1:
        return ["--runner=FnApiRunner", "--direct_running_mode=in_memory", *flags]
    mode = ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    return ["--runner=FnApiRunner", *mode, *flags]


def runner_name(beam_args: Sequence[str]) -> str | None:
    """Return the runner that the flags name, None if they leave it to us."""
    for index, flag in enumerate(beam_args):
        if flag.startswith("--runner="):
            return flag.split("=", 1)[1]
        if flag == "--runner" and index + 1 < len(beam_args):
            return beam_args[index + 1]
    return None


def _open_shared(url: str) -> Store:
    if url not in _stores:
        _stores[url] = open_store(url)
    return _stores[url]


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


def _starts_processes(flags: Sequence[str]) -> bool:
    return "--direct_running_mode=multi_processing" in flags


def _runs_here(flags: Sequence[str]) -> bool:
    return runner_name(flags) == "FnApiRunner" and "--direct_running_mode=in_memory" in flags


def _counters(result: Any) -> dict[str, int]:
    """Return our counters by name; empty on a runner that keeps none."""
    try:
        found = result.metrics().query()["counters"]
    except (NotImplementedError, ValueError):
        return {}
    return {
        item.key.metric.name: int(item.result)
        for item in found
        if item.key.metric.namespace == COUNTER_NAMESPACE
    }


class WorkError(RuntimeError):
    """A unit failed; the message is the failure's own, without the runner's."""


class UnitError(RuntimeError):
    """Carries a unit's failure as text that no traceback around it can spoil."""


def pack_failure(error: Exception) -> UnitError:
    """Return what a worker raises in place of `error`."""
    return UnitError(f"[[sketchmill:{base64.b64encode(failure_to_json(error).encode()).decode()}]]")


def unpack_failure(error: Exception) -> Exception | None:
    """Return the failure of a unit that the runner's exception tells of, None if it is another."""
    found = _MARK.search(str(error))
    return found and failure_from_json(base64.b64decode(found[1]).decode(), WorkError)
