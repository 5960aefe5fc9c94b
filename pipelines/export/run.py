"""Export a dataset: plan, make the files on Beam, describe them, publish the manifest last.

    dataset + spec -> digest -> there already? -> units -> files and records -> manifest

A unit that has a record is done, if its files are there with their size and SHA-256; so an
interrupted export is continued by running it again. Records lie where the files go, so that a store
that may only be read can be exported to another place. Nothing of the outcome depends on runner,
workers, order or retries.
"""

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pipelines.beam import run_units, runner_flags, runner_name
from pipelines.dataset.build import library_versions
from pipelines.export.croissant import export_croissant
from pipelines.export.formats.png_tree import MAX_LISTED, lists_pictures
from pipelines.export.formats.registry import export_format
from pipelines.export.job import (
    NO_EXTRAS,
    Extras,
    Job,
    Record,
    Unit,
    check_same,
    export_inputs,
    make_job,
    read_record,
    record_path,
)
from pipelines.export.readme import export_readme, load_lines
from pipelines.export.spec import ExportSpec
from pipelines.export.target import Target
from pipelines.processes.progress import ProgressCallback, Rate, doing, watch
from pipelines.store.artifacts import Store, StoreError, open_store
from pipelines.store.leases import holding
from pipelines.store.lineage import PROVENANCE_NAME, provenance_json
from pipelines.store.manifest import (
    FileEntry,
    InputRef,
    Manifest,
    artifact_prefix,
)
from pipelines.store.scratch import ScratchError, damaged

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How an export is made; none of it changes a byte.

    out        directory or URL to fill instead of the artifact store
    beam_args  flags for Beam; none: FnApiRunner here, or in `workers` processes
    progress   called as progress(stage, done, total, note) in drawings
    """

    out: str | None = None
    beam_args: Sequence[str] = ()
    workers: int = 1
    progress: ProgressCallback | None = None


@dataclass(frozen=True, slots=True)
class ExportWork:
    """Makes the files of one unit; travels to the workers. `out` is "" for the store itself."""

    job: Job
    out: str
    prefix: str

    def __call__(self, unit: Unit, store: Store) -> Mapping[str, int]:
        """Make the unit's files unless its record says that they are there."""
        target = Target(_open_once(self.out) if self.out else store, self.prefix)
        counted = {"made_units": 1}
        try:
            if is_done(unit, self.job, target):
                return {"kept_units": 1}
        except ScratchError:  # the caller warns: a worker's log may be lost
            counted["damaged_units"] = 1
        record = export_format(unit.format).make(unit, self.job, store, target)
        target.store.put(record_path(self.job, unit), record.to_bytes())
        return counted


def export_dataset(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    *,
    name: str,
    options: ExportOptions | None = None,
    extras: Extras = NO_EXTRAS,
) -> Manifest:
    """Export a dataset or samples, unless that is done, and return the export's manifest.

    Raises ValueError if the dataset cannot be exported so, or another export is at `out`.
    """
    options = options or ExportOptions()
    runner = runner_name(runner_flags(options.beam_args, options.workers)) or "FnApiRunner"
    job, target = begin(dataset, store, spec, name, options, extras)
    if (found := _published(job, store, target, options)) is not None:
        return found
    with making(job, target):
        return _export(dataset, store, job, target, options, extras, runner)


def making(job: Job, target: Target) -> AbstractContextManager[None]:
    """Return the lease on what an export is made of while it is not published.

    In a place of the user's no collection takes anything.
    """
    if not target.prefix:
        return contextlib.nullcontext()
    return holding(target.store, [target.prefix, job.scratch], "export")


def _export(
    dataset: Manifest,
    store: Store,
    job: Job,
    target: Target,
    options: ExportOptions,
    extras: Extras,
    runner: str,
) -> Manifest:
    try:
        records = _make_files(job, store, target, options)
    except FileNotFoundError:  # who published first has swept what both worked from
        if (found := target.manifest()) is not None:
            return check_same(found, job, options.out)
        raise
    _check_unlisted(job, records, target)
    files = [entry for record in records for entry in record.files]
    files += _closing_entries(job, records, target, extras.attachments)
    files.append(target.put("croissant.json", export_croissant(job, files)))
    manifest = _manifest(job, export_inputs(dataset, extras), records, files)
    statement = provenance_json(manifest, store, runner)
    # A place of the user's may have another export's, which was never finished.
    write = target.create if options.out is None else target.put
    files.append(write(PROVENANCE_NAME, statement))
    _check_alone(job, files, target, options)
    published = target.publish(_manifest(job, export_inputs(dataset, extras), records, files))
    target.sweep_scratch(job.scratch)
    return published


def _published(job: Job, store: Store, target: Target, options: ExportOptions) -> Manifest | None:
    """Return the export if it is there; in the store it is the latest of its name then."""
    if options.out is None:
        return store.reuse("exports", job.name, job.digest)
    found = target.manifest()
    return found and check_same(found, job, options.out)


@doing("export", "reading what is to be exported")
def begin(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    name: str,
    options: ExportOptions,
    extras: Extras,
) -> tuple[Job, Target]:
    """Return the job and where its files go; raise ValueError if they cannot go there."""
    job = make_job(dataset, store, spec, name=name, extras=extras)
    _check_place(job, options)
    return job, _target(job, store, options.out)


def is_done(unit: Unit, job: Job, target: Target) -> bool:
    """Return whether the unit has a record and every file of it has its size and SHA-256.

    Raises ScratchError if the record, or what is kept for the next stage, is not what was written.
    """
    try:
        record = read_record(target.store, record_path(job, unit))
    except FileNotFoundError:
        return False
    for entry in record.scratch_files:
        path = f"{job.scratch}/{entry.path}"
        if not target.store.holds(path, entry.bytes, entry.sha256):
            raise damaged(path)
    return all(target.holds(entry) for entry in record.files) and export_format(
        unit.format
    ).is_whole(record, target)


@doing("export", "laying out the files")
def _make_files(job: Job, store: Store, target: Target, options: ExportOptions) -> list[Record]:
    """Run every stage of every format and return all records, in the order of the plan."""
    records: dict[str, list[Record]] = {name: [] for name in job.spec.formats}
    for stage in range(max(export_format(name).num_stages for name in job.spec.formats)):
        units = plan_units(job, stage, records)
        run_stage(units, stage, job, store, target, options)
        for unit in units:
            records[unit.format].append(read_record(target.store, record_path(job, unit)))
    return [record for name in job.spec.formats for record in records[name]]


def plan_units(job: Job, stage: int, records: Mapping[str, list[Record]]) -> list[Unit]:
    """Return the units of a stage of all formats; `records` are those of the stages before."""
    return [
        unit
        for name in job.spec.formats
        if stage < export_format(name).num_stages
        for unit in export_format(name).units(job, stage, records[name])
    ]


def run_stage(
    units: Sequence[Unit],
    stage: int,
    job: Job,
    store: Store,
    target: Target,
    options: ExportOptions,
) -> None:
    """Do units on Beam, but for those that are done."""
    label = "export" if stage == 0 else "join"
    rate = Rate(label, sum(unit.rows for unit in units), options.progress)
    pending = {record_path(job, unit): unit.rows for unit in units}
    with watch(target.store, pending, rate):
        counters = run_units(
            units,
            ExportWork(job, options.out or "", target.prefix),
            store,
            label=label.capitalize(),
            beam_args=options.beam_args,
            workers=options.workers,
        )
    if number := counters.get("damaged_units"):
        _LOGGER.warning(
            "what was kept of %d files of the export is damaged; they are made again", number
        )


def _check_unlisted(job: Job, records: Sequence[Record], target: Target) -> None:
    """Raise StoreError if files that no manifest lists are missing or of another size."""
    for name in job.spec.formats:
        own = [record for record in records if record.name.startswith(f"{name}-")]
        if problems := export_format(name).unlisted_problems(job, own, target):
            raise StoreError(f"cannot publish: {'; '.join(problems[:3])}; run it again")


def _check_alone(
    job: Job, files: Sequence[FileEntry], target: Target, options: ExportOptions
) -> None:
    """Raise ValueError if a place of the user's has files of another export beside ours.

    Readers take every file of a folder, so they would mix the two.
    """
    if options.out is None:
        return
    ours = {entry.path for entry in files}
    kinds = {_folder_and_suffix(path) for path in ours}
    for name in job.spec.formats:
        if name == "png" and not lists_pictures(job):
            continue
        for path in target.below(name):
            if path not in ours and _folder_and_suffix(path) in kinds:
                raise ValueError(
                    f"{options.out} has {path}, which is no file of this export: delete it, or "
                    "choose an empty place"
                )


def _folder_and_suffix(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, PurePosixPath(name).suffix


@doing("export", "writing what goes beside the files")
def _closing_entries(
    job: Job, records: Sequence[Record], target: Target, attachments: Mapping[str, bytes]
) -> list[FileEntry]:
    contents = {"README.md": export_readme(job, records), **attachments}
    for name in job.spec.formats:
        own = [record for record in records if record.name.startswith(f"{name}-")]
        contents |= export_format(name).closing_files(job, own)
    return [target.put(path, content) for path, content in sorted(contents.items())]


def _manifest(
    job: Job, inputs: tuple[InputRef, ...], records: Sequence[Record], files: Sequence[FileEntry]
) -> Manifest:
    counts = _counts(job, records)
    return Manifest(
        kind="exports",
        name=job.name,
        digest=job.digest,
        spec=job.spec.to_json(),
        inputs=inputs,
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        summary={
            "class_names": list(job.class_names),
            "image_shape": list(job.image_shape),
            "num_drawings": sum(counts.values()),
            "splits": {split: job.rows(split) for split in job.splits},
            "counts": counts,
            "is_synthetic": job.is_synthetic,
            **job.credit.to_json(),
            "load": load_lines(job, records),
        },
        versions=library_versions(),
    )


def _counts(job: Job, records: Sequence[Record]) -> dict[str, int]:
    """Return the drawings of each class; every format must have written all of them."""
    total = sum(shard.rows for shard in job.shards)
    sums = []
    for name in job.spec.formats:
        own = [r.counts for r in records if r.name.startswith(f"{name}-") and r.counts]
        sums.append(np.sum(own, axis=0))
    for found in sums:
        if found.sum() != total or (found != sums[0]).any():
            raise StoreError(f"the formats hold {[int(s.sum()) for s in sums]} of {total} drawings")
    return dict(zip(job.class_names, sums[0].tolist(), strict=True))


def _check_place(job: Job, options: ExportOptions) -> None:
    if "png" in job.spec.formats and options.out is None and not lists_pictures(job):
        raise ValueError(
            f"more than {MAX_LISTED:,} pictures do not fit a manifest: export png with --out to a "
            "place of your own, or choose webdataset"
        )


def _target(job: Job, store: Store, out: str | None) -> Target:
    if out is None:
        return Target(store, artifact_prefix("exports", job.name, job.digest))
    if out.startswith("memory://"):
        raise ValueError("--out cannot be memory://: nothing would be left of it")
    return Target(_open_once(out), "")


@functools.cache
def _open_once(url: str) -> Store:
    return open_store(url)
