"""Run work units on Apache Beam: distribute them, collect counters, report failures.

The graph is Create(units) | Reshuffle | ParDo(work). A unit is a small record; its work puts
objects under keys that depend only on the unit and returns counters. Units are therefore
idempotent: bundles may be retried or run twice at once, and every runner gives the same bytes.

A flag selects the runner (pipelines/engines). The default is FnApiRunner, because Beam's own
default looks for a binary on the network first. One worker runs in this process, several in child
processes. No runner is believed: what every unit puts must be there at the end.

A runner returns text and no exceptions, so a unit's failure is sent as text:

    worker: exception -> UnitError("[[sketchmill:<base64 of pipelines.store.failures>]]") -> the runner's traceback
    here:   the runner's message, with any text around the mark -> the exception to raise

The same bad input is therefore the same error on every runner and with any number of workers.
"""

import base64
import contextlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.engines.flags import (
    cluster_address,
    is_dask,
    runner_flags,
    runner_name,
    runs_here,
    starts_processes,
)
from pipelines.engines.job_service import check_endpoint, job_failure
from pipelines.engines.local import run_guarded
from pipelines.engines.quiet import quiet_engine
from pipelines.processes.progress import Progress, Rate, doing, watch
from pipelines.store.artifacts import Store, open_store
from pipelines.store.errors import EngineError
from pipelines.store.failures import failure_from_json, failure_to_json
from pipelines.store.scratch import DAMAGED_UNITS, missing_paths
from pipelines.store.versions import versions_of

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

    def __init__(self, work: Work, store_url: str, versions: Mapping[str, str]) -> None:
        """Refuse to work where these versions are others; none: where they cannot be."""
        self.work = work
        self.store_url = store_url
        self.versions = versions

    def setup(self) -> None:
        """Check that this process has the versions of the one that sent the work."""
        found = _worker_versions() if self.versions else {}
        if found != self.versions:
            raise pack_failure(
                EngineError(
                    f"a worker has {_listed(found)}, this machine {_listed(self.versions)}: give "
                    "the workers the same versions; the same command then goes on"
                )
            )

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
    cluster    address of a Dask scheduler whose workers do the work; "" for none
    progress   called as progress(stage, done, total, note) in drawings
    """

    beam_args: Sequence[str] = ()
    workers: int = 1
    cluster: str = ""
    progress: Progress | None = None

    @property
    def flags(self) -> list[str]:
        """Beam's flags; raises ValueError for those that cannot be used."""
        return runner_flags(self.beam_args, self.workers, self.cluster)

    @property
    def runner(self) -> str:
        """The runner's name; raises ValueError for flags that cannot be used."""
        name = runner_name(self.flags) or "FnApiRunner"
        return name.rpartition(".")[2] if is_dask(name) else name


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
    files: Sequence[str] = (),
) -> dict[str, int]:
    """Do units as `run_units` does, tell how far they are, and check that nothing was lost.

    pending  drawings by what the units put last, in `place`; by default in `store`
    done     drawings that need no unit
    files    of the source's, which the units read: paths and URLs

    Raises EngineError if something of `pending` is not there at the end, or if the workers of a
    cluster cannot do the work. Warns of what was damaged.
    """
    target = place or store
    address = cluster_address(options.flags)
    if units and address:
        from pipelines.engines.dask import check_workers

        check_workers(address, [store], target, files)
    rate = Rate(stage, done + sum(pending.values()), options.progress)
    with watch(target, pending, lambda drawings: rate(done + drawings)):
        counters = run_units(
            units,
            work,
            store,
            label=stage.capitalize(),
            beam_args=options.beam_args,
            workers=options.workers,
            cluster=options.cluster,
        )
    _check_whole(target, pending, options.runner, stage)
    if number := counters.get(DAMAGED_UNITS):
        _LOGGER.warning(
            "%s: the records of %d of %d units are damaged or of another version; these units are "
            "made again",
            stage,
            number,
            len(units),
        )
    return counters


def _check_whole(store: Store, pending: Mapping[str, int], runner: str, stage: str) -> None:
    """Raise EngineError if something is not there that a unit puts: no engine is believed."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in pending:
        by_folder[path.rpartition("/")[0]].append(path)
    with doing(stage, "checking that nothing was lost"):
        lost = [
            path
            for folder, paths in by_folder.items()
            for path in missing_paths(store, folder, paths)
        ]
    if lost:
        raise EngineError(
            f"{runner} said that all is done and dropped {len(lost)} of {len(pending)} units of "
            f"{stage} ({lost[0]}), or a garbage collection took what they had made: nothing is "
            "published, and the same command makes only these"
        )


def run_units(
    units: Sequence[Any],
    work: Work,
    store: Store,
    *,
    label: str,
    beam_args: Sequence[str] = (),
    workers: int = 1,
    cluster: str = "",
) -> dict[str, int]:
    """Do all units on the runner that the flags name and return the counters.

    Raises ValueError for flags that cannot be used, EngineError for what is the engine's. What a
    unit raised comes with its own message on every runner: BadFileError, StoreError,
    FileNotFoundError and ValueError as they are, all else as WorkError.
    """
    if not units:
        return {}
    flags = runner_flags(beam_args, workers, cluster)
    if store.url.startswith("memory://") and not runs_here(flags):
        raise ValueError("a memory:// store is in this process only: use one worker, FnApiRunner")
    check_endpoint(flags)
    is_local = runs_here(flags) or starts_processes(flags)
    versions = {} if is_local else _worker_versions()
    _stores[store.url] = store
    try:
        with quiet_engine(flags), _sent(work, cluster_address(flags)) as sent:
            pipeline = beam.Pipeline(options=PipelineOptions(flags))
            _ = (
                pipeline
                | f"{label} units" >> beam.Create(list(units), reshuffle=False)
                | f"Spread {label} units" >> beam.Reshuffle()
                | label >> beam.ParDo(DoWork(sent, store.url, versions))
            )
            result = _run(pipeline, flags)
    except Exception as error:
        if (failure := unpack_failure(error)) is not None:
            raise failure from None
        if (failure := job_failure(flags, error)) is not None:
            raise failure from error
        raise
    finally:
        _stores.pop(store.url, None)
    return _counters(result)


def _sent(work: Work, address: str) -> AbstractContextManager[Work]:
    """Return the context in which tasks may refer to the work, and what they have of it."""
    if not address:
        return contextlib.nullcontext(work)
    from pipelines.engines.dask import sent_once

    return sent_once(address, work)


def _run(pipeline: beam.Pipeline, flags: Sequence[str]) -> Any:
    """Run the pipeline to its end and return Beam's result."""
    if cluster := cluster_address(flags):
        from pipelines.engines.dask import run_on
        from pipelines.engines.graph import check_one_branch

        check_one_branch(pipeline)
        return run_on(cluster, pipeline.run)
    return run_guarded(lambda: _to_end(pipeline)) if starts_processes(flags) else _to_end(pipeline)


def _to_end(pipeline: beam.Pipeline) -> Any:
    result = pipeline.run()
    result.wait_until_finish()
    return result


def _worker_versions() -> dict[str, str]:
    """Return the versions that submitter and workers share; of Python the minor one."""
    found = versions_of("apache-beam")
    return found | {"python": ".".join(found["python"].split(".")[:2])}


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _open_shared(url: str) -> Store:
    if url not in _stores:
        _stores[url] = open_store(url)
    return _stores[url]


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
