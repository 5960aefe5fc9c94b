"""Build a dataset: scan, plan, build shards, publish. Return an existing one immediately.

    source + spec -> digest -> in the store? -> attributes -> plan -> shards -> manifest

Everything is a pure function of source and spec. Running an interrupted build again resumes it:
finished work is found by its key, and the result has the same bytes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.dataset.class_shards import class_jobs, link_parts
from pipelines.dataset.describe import Described, describe, publish_files, source_credit
from pipelines.dataset.jobs import (
    Built,
    Job,
    Run,
    build_jobs,
    dataset_digest,
    places,
    source_inputs,
)
from pipelines.dataset.packing import num_shards
from pipelines.dataset.shards import dataset_schema
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.tfds_slice import check_slice
from pipelines.processes.progress import Progress
from pipelines.sources.base import BadFileError, Source
from pipelines.sources.strokes.cairo import cairo_version
from pipelines.store.artifacts import Store
from pipelines.store.errors import BusyError
from pipelines.store.leases import holding
from pipelines.store.manifest import Manifest
from pipelines.store.versions import versions_of

__all__ = ["DatasetPlan", "build_dataset", "dataset_digest", "library_versions", "plan_dataset"]

# Measured on the twenty classes of the seed; used to tell the size before the work.
_PARQUET_BYTES = 298
_TFRECORD_BYTES = {"png": 450, "raw": 838}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlan:
    """What building would do, known from the sizes of the files.

    rows_by_class  drawings the source has; None for files that mix classes
    shards         about how many, before anything is dropped
    bytes          about how many, in all formats
    is_built       whether the store has it
    """

    digest: str
    rows: int
    rows_by_class: dict[str, int] | None
    source_bytes: int
    shards: int
    bytes: int
    is_built: bool


def plan_dataset(spec: DatasetSpec, source: Source, store: Store, name: str) -> DatasetPlan:
    """Say what `build_dataset` would do, without reading a drawing."""
    _check(spec, source)
    digest = dataset_digest(spec, source)
    by_class = source.rows_by_class()
    rows = source.rows
    row_bytes = _PARQUET_BYTES * ("parquet" in spec.formats)
    row_bytes += _TFRECORD_BYTES[spec.tfrecord_images] * ("tfrecord" in spec.formats)
    return DatasetPlan(
        digest=digest,
        rows=rows,
        rows_by_class=by_class or None,
        source_bytes=source.bytes,
        shards=sum(num_shards(round(rows * f), spec.rows_per_shard) for _, f in spec.splits),
        bytes=rows * row_bytes,
        is_built=store.find("datasets", name, digest) is not None,
    )


def build_dataset(
    spec: DatasetSpec,
    source: Source,
    store: Store,
    name: str,
    *,
    beam_args: Sequence[str] = (),
    workers: int = 1,
    cluster: str = "",
    progress: Progress | None = None,
) -> Manifest:
    """Build the dataset unless the store has it, and return its manifest.

    beam_args, workers, cluster, progress: as in RunOptions. Raises ValueError for what the source cannot
    give, BadFileError for a file that is not what it should be, under on_bad_file="fail".
    """
    _check(spec, source)
    run = Run(store=store, beam_args=beam_args, workers=workers, cluster=cluster, progress=progress)
    runner = run.runner
    job = Job(spec=spec, source=source, name=name)
    if manifest := store.reuse("datasets", name, job.digest):
        return manifest
    versions = library_versions() | {"runner": runner}
    parts = class_jobs(job) if spec.layout == "linked" else []
    # No ref leads to an unfinished dataset or to parts that are not linked yet.
    with holding(store, places([job, *parts]), "build"), _scratch_needed():
        if spec.layout == "linked":
            return _publish(job, store, _linked(job, parts, run, versions), versions)
        (built,) = build_jobs([job], run)
        return _publish(job, store, _described(built), versions)


@contextlib.contextmanager
def _scratch_needed() -> Iterator[None]:
    """Say what helps where scratch is gone: after a stop of longer than a lease counts."""
    try:
        yield
    except FileNotFoundError as error:
        if "attempts/" not in str(error):  # a file of the source's
            raise
        raise BusyError(
            f"a garbage collection took what was built, run it again: {error}"
        ) from error


def _linked(job: Job, jobs: Sequence[Job], run: Run, versions: dict[str, str]) -> Described:
    """Build the classes that are missing, all in one graph, and link what there is of all."""
    store = run.store
    found = [store.reuse("datasets", each.name, each.digest) for each in jobs]
    missing = [each for each, part in zip(jobs, found, strict=True) if part is None]
    built = {each.job.name: each for each in build_jobs(missing, run)}
    parts, bad_files = [], list(job.source.bad_files)
    for each, part in zip(jobs, found, strict=True):
        if part is None:
            one = built[each.name]
            if not one.plan.shards:  # its only file is bad, and bad files are skipped
                bad_files += one.plan.tally.bad_files
                continue
            part = _publish(each, store, _described(one), versions)
        parts.append(part)
    return link_parts(job, parts, bad_files, store)


def _described(built: Built) -> Described:
    return describe(built.job.spec, built.job.source, built.plan, built.records, built.sheets)


def library_versions() -> dict[str, str]:
    """Return the versions of what makes the bytes."""
    names = ("apache-beam", "numpy", "pyarrow", "xxhash", "zlib-ng", "pillow")
    return versions_of(*names) | cairo_version()


def _publish(job: Job, store: Store, described: Described, versions: dict[str, str]) -> Manifest:
    manifest = Manifest(
        kind="datasets",
        name=job.name,
        digest=job.digest,
        spec=job.spec.to_json(),
        inputs=source_inputs(job.source),
        files=publish_files(job.spec, job.name, job.prefix, described, store),
        summary=described.summary,
        versions=versions,
    )
    return store.publish(manifest)


def _check(spec: DatasetSpec, source: Source) -> None:
    if source.bad_files and spec.on_bad_file == "fail":
        raise BadFileError(source.bad_files[0][1])
    if source.image_size != spec.image_size:
        raise ValueError(
            f"the source gives {source.image_size}x{source.image_size} pixels, the dataset wants "
            f"{spec.image_size}x{spec.image_size}: give --image-size {source.image_size}, or --fit pad "
            "or crop"
        )
    missing = [name for name in spec.class_names if name not in source.class_names]
    if missing and not source.bad_files:
        raise ValueError(f"source {source.name} has no drawings of {', '.join(missing)}")
    check_slice(spec, source)
    source_credit(spec, source)
    dataset_schema(spec)
