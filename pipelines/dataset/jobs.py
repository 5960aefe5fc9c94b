"""Scan, plan and build several datasets together, with one Beam graph for each pass.

Results are found by key, so a resumed run does not repeat finished work. They are checked when they
are read; damaged ones are made again, with a warning. Beam's counters are kept beside the shards'
records and compared with the plan.
"""

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.beam import RunOptions, run_watched
from pipelines.dataset.contact_sheet import contact_sheets
from pipelines.dataset.describe import content_total
from pipelines.dataset.plan import BuildPlan, make_plan
from pipelines.dataset.scan import ScanUnit, ScanWork, forget_changed, missing_units, scan_units
from pipelines.dataset.selection import Selection
from pipelines.dataset.shards import (
    BuildWork,
    BuildWorks,
    DroppedUnit,
    ShardRecord,
    ShardUnit,
    record_path,
)
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.tfds_slice import slice_rule
from pipelines.processes.progress import doing
from pipelines.sources.base import BadFileError, Source
from pipelines.sources.files import is_remote
from pipelines.store.artifacts import Store
from pipelines.store.manifest import InputRef, artifact_digest, artifact_prefix
from pipelines.store.scratch import (
    ScratchError,
    checksum,
    damaged,
    forget_damaged,
    read_record,
    read_scratch,
    sealed,
)

_LOGGER = logging.getLogger(__name__)
COUNTERS_NAME = "counters.json"
# Damage that comes back is the machine's or the store's: nothing is made again for ever.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One dataset to make of a source."""

    spec: DatasetSpec
    source: Source
    name: str

    @property
    def digest(self) -> str:
        """The dataset's address."""
        return dataset_digest(self.spec, self.source)

    @property
    def prefix(self) -> str:
        """The dataset's directory in the store."""
        return artifact_prefix("datasets", self.name, self.digest)

    @property
    def scratch(self) -> str:
        """The directory of the shards' records."""
        return f"attempts/shards/{self.name}-{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(RunOptions):
    """Where and how the work is done; none of it changes a byte."""

    store: Store


@dataclass(frozen=True, slots=True)
class Built:
    """A dataset whose shards are in the store, and its contact sheets: path to PNG."""

    job: Job
    plan: BuildPlan
    records: tuple[ShardRecord, ...]
    sheets: dict[str, bytes]


class ChangedError(BadFileError):
    """The shards are not of the drawings that were scanned."""


def dataset_digest(spec: DatasetSpec, source: Source) -> str:
    """Return the address of the dataset that this spec makes of this source."""
    return artifact_digest("datasets", spec.to_json(), source_inputs(source))


def source_inputs(source: Source) -> tuple[InputRef, ...]:
    """Return the lineage of a dataset."""
    ref = InputRef(role="source", kind="source", name=source.name, digest=source.fingerprint)
    return (ref,)


def source_paths(units: Sequence[ScanUnit]) -> list[str]:
    """Return the local files that units read, and one of each kind of remote ones."""
    local: dict[str, None] = {}
    remote: dict[str, str] = {}
    for file in (unit.file for unit in units):
        for each in (file, file.metadata):
            if each is not None and not is_remote(each.url):
                local[each.url] = None
            elif each is not None and not any(each.secrets):
                remote.setdefault(each.format, each.url)
    return [*local, *remote.values()]


def places(jobs: Sequence[Job]) -> list[str]:
    """Return what a lease on the building of jobs names: the datasets, and all their scratch."""
    found: dict[str, None] = {}
    for job in jobs:
        units = _scan_units(job)
        found |= dict.fromkeys([job.prefix, job.scratch])
        found |= dict.fromkeys(unit.path.rpartition("/")[0] for unit in units)
    return list(found)


def build_jobs(jobs: Sequence[Job], run: Run) -> list[Built]:
    """Scan and build what is missing of all jobs, which differ in classes and files alone.

    Raises ChangedError if a source changes meanwhile, ScratchError if what is kept between the
    steps is damaged again and again.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _build_all(jobs, run)
        except (ScratchError, ChangedError) as error:
            found = _forget_damaged(jobs, run.store)
            if isinstance(error, ChangedError) and not found:
                raise
            for text in [str(damaged(path)) for path in found] or [str(error)]:
                _LOGGER.warning("%s; it is made again", text)
    return _build_all(jobs, run)


def _build_all(jobs: Sequence[Job], run: Run) -> list[Built]:
    if not jobs:
        return []
    units = _scan(jobs, run)
    plans = [_plan(job, found, run.store) for job, found in zip(jobs, units, strict=True)]
    _build(jobs, plans, run)
    return [
        Built(
            job,
            plan,
            _records(job, plan, run.store),
            contact_sheets(job.spec, plan, run.store),
        )
        for job, plan in zip(jobs, plans, strict=True)
    ]


def _scan_units(job: Job) -> tuple[ScanUnit, ...]:
    near = job.spec.near_duplicates is not None
    return scan_units(job.source, job.spec.image_size, with_difference_hash=near)


def _forget_damaged(jobs: Sequence[Job], store: Store) -> list[str]:
    """Delete the attributes and pixels that are not what was written, and return their paths."""
    units = [unit for job in jobs for unit in _scan_units(job)]
    paths = [path for unit in units for path in (unit.path, unit.pixels_path) if path is not None]
    return forget_damaged(store, paths)


@doing("scan", "checking what has been scanned")
def _scan(jobs: Sequence[Job], run: Run) -> list[tuple[ScanUnit, ...]]:
    """Make sure that every range has its attributes in the store; return the ranges by job."""
    spec = jobs[0].spec
    units = [_scan_units(job) for job in jobs]
    work = ScanWork(
        image_size=spec.image_size, with_difference_hash=spec.near_duplicates is not None
    )
    todo = missing_units([unit for found in units for unit in found], run.store)
    pending = {unit.path: unit.rows for unit in todo}
    done = sum(job.source.rows for job in jobs) - sum(pending.values())
    counters = run_watched(
        todo,
        work,
        run.store,
        run,
        stage="scan",
        pending=pending,
        done=done,
        files=source_paths(todo),
    )
    _LOGGER.info("scan: %s", counters)
    forget_changed([unit for found in units for unit in found], todo, run.store)
    return units


@doing("plan", "deciding which drawings are kept")
def _plan(job: Job, units: tuple[ScanUnit, ...], store: Store) -> BuildPlan:
    """Decide every row and lay out the shards."""
    rule = None
    if job.spec.tfds_slice is not None:
        rule = slice_rule(job.spec.tfds_slice, job.source)
    selection = Selection(spec=job.spec, in_slice=rule)
    return make_plan(job.source, job.spec, units, functools.partial(read_scratch, store), selection)


@doing("build", "checking what has been built")
def _build(jobs: Sequence[Job], plans: Sequence[BuildPlan], run: Run) -> None:
    """Build the shards that are not done yet."""
    works: list[BuildWork] = []
    units: list[ShardUnit] = []
    pending: dict[str, int] = {}
    dropped = Counter[str]()
    for job, plan in zip(jobs, plans, strict=True):
        units += _shard_units(job, plan, len(works), run.store)
        works.append(_build_work(job, plan))
        pending |= {record_path(job.scratch, each.shard): each.shard.rows for each in plan.shards}
        dropped.update({reason: sum(by.values()) for reason, by in plan.tally.dropped.items()})
    counters = run_watched(
        [*units, DroppedUnit(rows=dict(dropped))],
        BuildWorks(tuple(works)),
        run.store,
        run,
        stage="build",
        pending=pending,
        files=source_paths([unit for plan in plans for unit in plan.units if unit.file.is_direct]),
    )
    _check_counters(counters, sum(pending.values()), dropped)
    content = sealed(json.dumps(counters, sort_keys=True).encode("ascii"))
    for job in jobs:
        run.store.put(f"{job.scratch}/{COUNTERS_NAME}", content)


def _build_work(job: Job, plan: BuildPlan) -> BuildWork:
    return BuildWork(
        spec=job.spec,
        units=needed_to_build(plan.units),
        prefix=job.prefix,
        scratch=job.scratch,
        dataset_name=job.name,
        class_names=job.source.class_names,
    )


def _shard_units(job: Job, plan: BuildPlan, work: int, store: Store) -> list[ShardUnit]:
    """Write the plan of a job's shards, replacing one that may be damaged; return the shards."""
    blocks = b"".join(planned.blocks.tobytes() for planned in plan.shards)
    path = f"{job.scratch}/blocks-{hashlib.sha256(blocks).hexdigest()[:16]}.bin"
    store.put(path, blocks)
    units, first = [], 0
    for planned in plan.shards:
        own, count = checksum(planned.blocks.tobytes()), len(planned.blocks)
        units.append(ShardUnit(planned.shard, work, path, first, count, own))
        first += count
    return units


def needed_to_build(units: Sequence[ScanUnit]) -> tuple[ScanUnit, ...]:
    """Return the units without what only the scan needs: indices of lines, joined files."""
    return tuple(
        replace(
            unit,
            file=replace(
                unit.file,
                layout=unit.file.layout if unit.pixels_path is None else {},
                metadata=None,
            ),
        )
        for unit in units
    )


@doing("build", "checking what has been built")
def _records(job: Job, plan: BuildPlan, store: Store) -> tuple[ShardRecord, ...]:
    """Return the records of all shards; raise ChangedError if they are not of what was planned."""
    paths = [record_path(job.scratch, planned.shard) for planned in plan.shards]
    records = tuple(read_record(store, path, ShardRecord) for path in paths)
    if content_total(records) == plan.content:
        return records
    for path in paths:  # one of them was not made of the drawings that were scanned
        store.delete(path)
    raise ChangedError(
        f"source {job.source.name} changed while it was read: its drawings are no longer those that "
        "were scanned, nothing is published; run it again when its files no longer change"
    )


def _check_counters(counters: dict[str, int], rows: int, dropped: Counter[str]) -> None:
    """Say if Beam counted other rows than were planned; some runners count retries too."""
    _LOGGER.info("build: %s", counters)
    expected = {"rows_kept": rows} | {f"rows_dropped_{k}": n for k, n in dropped.items()}
    for name, planned in expected.items():
        if counters and counters.get(name, 0) != planned:
            found = counters.get(name, 0)
            _LOGGER.warning("the runner counted %s %d, the plan has %d", name, found, planned)
