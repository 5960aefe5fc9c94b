"""An export by several machines that share nothing but the store and the place of the files.

Each makes some of the files that the plan names. Whoever finds that none is missing joins and
publishes, so no machine waits for another and none has to come last; what a lost one has left
is made by any later run.
"""

from collections.abc import Sequence

from pipelines.export.job import NO_EXTRAS, Extras, Job, Unit, check_same, record_path
from pipelines.export.run import ExportOptions, begin, export_dataset, making, plan_units, run_stage
from pipelines.export.spec import ExportSpec
from pipelines.export.target import Target
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest


def export_part(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    *,
    name: str,
    part: int,
    parts: int,
    options: ExportOptions | None = None,
    extras: Extras = NO_EXTRAS,
) -> int:
    """Make every `parts`-th file from number `part` on and return how many; publish nothing.

    export_dataset then finds them, makes what is missing, joins and publishes. Raises ValueError
    if there is no such part.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts}: parts are counted from 0")
    options = options or ExportOptions()
    job, target = begin(dataset, store, spec, name, options, extras)
    if _is_published(job, target, options):
        return 0
    mine = _first_units(job)[part::parts]
    with making(job, target):
        run_stage(mine, 0, job, store, target, options)
    return len(mine)


def export_range(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    *,
    name: str,
    first: int,
    last: int,
    options: ExportOptions | None = None,
    extras: Extras = NO_EXTRAS,
) -> tuple[int, Manifest | None]:
    """Make the files number `first` to `last`, both included; publish if none is missing then.

    Returns how many files are missing still, and the export if it is published. Raises ValueError
    if there are no such files.
    """
    options = options or ExportOptions()
    job, target = begin(dataset, store, spec, name, options, extras)
    units = _first_units(job)
    if not 0 <= first <= last < len(units):
        raise ValueError(f"--shards {first}-{last}: the export has the files 0 to {len(units) - 1}")
    if not _is_published(job, target, options):
        with making(job, target):
            run_stage(units[first : last + 1], 0, job, store, target, options)
        if missing := _missing(units, job, target):
            return missing, None
    export = export_dataset(dataset, store, spec, name=name, options=options, extras=extras)
    return 0, export


def num_files(job: Job) -> int:
    """Return how many files machines can share: those of the first stage."""
    return len(_first_units(job))


def _first_units(job: Job) -> list[Unit]:
    return plan_units(job, 0, {name: [] for name in job.spec.formats})


def _is_published(job: Job, target: Target, options: ExportOptions) -> bool:
    if (found := target.manifest()) is None:
        return False
    check_same(found, job, options.out)
    return True


def _missing(units: Sequence[Unit], job: Job, target: Target) -> int:
    """Return how many units have no record; none if they are swept as the export is there."""
    there = {item.path for item in target.store.objects(f"{job.scratch}/records")}
    lacking = sum(record_path(job, unit) not in there for unit in units)
    return 0 if target.manifest() is not None else lacking
