"""Export a dataset: plan, write the files on Beam, describe them, publish the manifest last.

    dataset + spec -> digest -> there already? -> units -> files and records -> manifest

An interrupted export is continued by running it again. Several machines may make some of the files
each; they share nothing but the store and the place of the files, so no machine waits for another,
and what a lost one has left is made by any later run. Records lie where the files go, so that a
store that may only be read can be exported to another place. Nothing of the outcome depends on
runner, workers, order or retries.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines.beam import RunOptions, run_watched
from pipelines.export.croissant import export_croissant
from pipelines.export.describe import closing_files, export_manifest, records_of
from pipelines.export.formats.png_tree import MAX_LISTED, lists_pictures
from pipelines.export.formats.registry import export_format
from pipelines.export.job import (
    NO_EXTRAS,
    Extras,
    Job,
    Record,
    Unit,
    export_inputs,
    make_job,
    record_path,
)
from pipelines.export.spec import ExportSpec
from pipelines.export.target import Target
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store, StoreError, open_store
from pipelines.store.errors import EngineError
from pipelines.store.leases import holding
from pipelines.store.lineage import PROVENANCE_NAME, provenance_json
from pipelines.store.manifest import FileEntry, Manifest, artifact_label, artifact_prefix
from pipelines.store.scratch import damaged, do_unit, holds_all, missing_paths, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions(RunOptions):
    """How an export is made; none of it changes a byte.

    out  directory or URL to fill instead of the artifact store
    """

    out: str | None = None


@dataclass(frozen=True, slots=True)
class ExportWork:
    """Makes the files of one unit; travels to the workers. `out` is "" for the store itself."""

    job: Job
    out: str
    prefix: str

    def __call__(self, unit: Unit, store: Store) -> Mapping[str, int]:
        """Make the unit's files unless its record says that they are there."""
        target = Target(_open_once(self.out) if self.out else store, self.prefix)
        form = export_format(unit.format)
        _, counted = do_unit(
            target.store,
            record_path(self.job, unit),
            Record,
            is_whole=lambda found: self._is_whole(found, target) and form.is_whole(found, target),
            make=lambda: form.make(unit, self.job, store, target),
        )
        return counted

    def _is_whole(self, record: Record, target: Target) -> bool:
        for entry in record.scratch_files:
            if not holds_all(target.store, self.job.scratch, [entry]):
                raise damaged(f"{self.job.scratch}/{entry.path}")
        return holds_all(target.store, target.prefix, record.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export before any work: of what and how, what its files are, and where they go."""

    dataset: Manifest
    store: Store
    options: ExportOptions
    extras: Extras
    job: Job
    target: Target

    def found(self) -> Manifest | None:
        """Return the export if it is there; raise ValueError if another one is."""
        found = self.target.manifest()
        if found is not None and found.digest != self.job.digest:
            raise ValueError(
                f"{self.options.out} holds another export ({artifact_label(found)}): choose an "
                "empty place"
            )
        return found

    def making(self) -> AbstractContextManager[None]:
        """Return the lease on what an export is made of while it is not published.

        In a place of the user's no collection takes anything.
        """
        if self.options.out is not None:
            return contextlib.nullcontext()
        return holding(self.store, [self.target.prefix, self.job.scratch], "export")


@doing("export", "reading what is to be exported")
def begin(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    *,
    name: str,
    options: ExportOptions | None = None,
    extras: Extras = NO_EXTRAS,
) -> Export:
    """Return the export of a dataset or of samples.

    Raises ValueError if they cannot be exported so, or not to that place.
    """
    options = options or ExportOptions()
    _ = options.runner  # raises for flags that cannot be used
    job = make_job(dataset, store, spec, name=name, extras=extras)
    _check_place(job, options)
    target = _target(job, store, options.out)
    return Export(
        dataset=dataset, store=store, options=options, extras=extras, job=job, target=target
    )


def export_dataset(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    *,
    name: str,
    options: ExportOptions | None = None,
    extras: Extras = NO_EXTRAS,
) -> Manifest:
    """Export a dataset or samples: `finish` what `begin` returns."""
    return finish(begin(dataset, store, spec, name=name, options=options, extras=extras))


def make_share(export: Export, files: slice) -> tuple[int, int]:
    """Make some of the files that the plan numbers from 0, as one of several machines.

    files: slice(first, stop), or slice(part, None, parts). Returns how many these are, and how many
    of all files are still missing: a caller that finds none may `finish`. Both are 0 if the export
    is there. Raises ValueError if there are no such files, or another export is at `out`.
    """
    job, target = export.job, export.target
    units = plan_units(job)
    chosen = _chosen(units, files)
    if export.found():
        return 0, 0
    with export.making():
        try:
            run_stage(export, 0, chosen)
        except EngineError:
            if not export.found():  # who published meanwhile has swept the records
                raise
    paths = [record_path(job, unit) for unit in units]
    missing = missing_paths(target.store, f"{job.scratch}/records", paths)
    return len(chosen), 0 if export.found() else len(missing)


def _chosen(units: Sequence[Unit], files: slice) -> Sequence[Unit]:
    first, stop, step = files.start, files.stop, files.step
    if stop is None and not 0 <= first < step:
        raise ValueError(f"part {first} of {step}: parts are counted from 0")
    if stop is not None and not 0 <= first < stop <= len(units):
        last = len(units) - 1
        raise ValueError(f"--shards {first}-{stop - 1}: the export has the files 0 to {last}")
    return units[files]


def finish(export: Export) -> Manifest:
    """Make what is missing of an export and publish it, unless it is there.

    Raises ValueError if another export is at `out`.
    """
    job, target = export.job, export.target
    if (found := _published(export)) is not None:
        return found
    with export.making():
        try:
            records = _make_files(export)
        # Who published first has swept what both worked from.
        except (FileNotFoundError, EngineError):
            if (found := export.found()) is not None:
                return found
            raise
        files = _describe(export, records)
        published = target.publish(_manifest(export, records, files))
        target.sweep_scratch(job.scratch)
        return published


def _describe(export: Export, records: Sequence[Record]) -> list[FileEntry]:
    """Put what goes beside the files, unless these are not right; return the entries of all."""
    job, target = export.job, export.target
    _check_unlisted(job, records, target)
    files = [entry for record in records for entry in record.files]
    files += _put_closing(export, records)
    files.append(target.put("croissant.json", export_croissant(job, files)))
    manifest = _manifest(export, records, files)
    statement = provenance_json(manifest, export.store, export.options.runner)
    # A place of the user's may have another export's, which was never finished.
    write = target.create if export.options.out is None else target.put
    files.append(write(PROVENANCE_NAME, statement))
    _check_alone(job, files, target, export.options)
    return files


def _manifest(export: Export, records: Sequence[Record], files: Sequence[FileEntry]) -> Manifest:
    inputs = export_inputs(export.dataset, export.extras)
    return export_manifest(export.job, inputs, records, files)


def _published(export: Export) -> Manifest | None:
    """Return the export if it is there; in the store it is the latest of its name then."""
    if export.options.out is None:
        return export.store.reuse("exports", export.job.name, export.job.digest)
    return export.found()


@doing("export", "laying out the files")
def _make_files(export: Export) -> list[Record]:
    """Run every stage of every format and return all records, in the order of the plan."""
    job, store = export.job, export.target.store
    records: dict[str, list[Record]] = {name: [] for name in job.spec.formats}
    for stage in range(max(export_format(name).num_stages for name in job.spec.formats)):
        units = plan_units(job, stage, records)
        run_stage(export, stage, units)
        for unit in units:
            records[unit.format].append(read_record(store, record_path(job, unit), Record))
    return [record for name in job.spec.formats for record in records[name]]


def plan_units(
    job: Job, stage: int = 0, records: Mapping[str, Sequence[Record]] | None = None
) -> list[Unit]:
    """Return the units of a stage of all formats; `records` are those of the stages before.

    Machines can share those of the first one.
    """
    return [
        unit
        for name in job.spec.formats
        if stage < export_format(name).num_stages
        for unit in export_format(name).units(job, stage, records[name] if records else ())
    ]


def run_stage(export: Export, stage: int, units: Sequence[Unit]) -> None:
    """Do units on Beam, but for those that are done."""
    job, target, options = export.job, export.target, export.options
    run_watched(
        units,
        ExportWork(job, target.store.url if options.out else "", target.prefix),
        export.store,
        options,
        stage="export" if stage == 0 else "join",
        pending={record_path(job, unit): unit.rows for unit in units},
        place=target.store,
    )


def _check_unlisted(job: Job, records: Sequence[Record], target: Target) -> None:
    """Raise StoreError if files that no manifest lists are missing or of another size."""
    for name in job.spec.formats:
        own = records_of(name, records)
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
                    f"{options.out} has {path}, which is not a file of this export: delete it, or "
                    "choose an empty place"
                )


def _folder_and_suffix(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, PurePosixPath(name).suffix


@doing("export", "writing what goes beside the files")
def _put_closing(export: Export, records: Sequence[Record]) -> list[FileEntry]:
    contents = {**closing_files(export.job, records), **export.extras.attachments}
    return [export.target.put(path, content) for path, content in sorted(contents.items())]


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
        raise ValueError("--out cannot be memory://: the files would be lost when the command ends")
    return Target(_open_once(out), "")


@functools.cache
def _open_once(url: str) -> Store:
    return open_store(url)
