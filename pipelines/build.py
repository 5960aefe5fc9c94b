"""Build a dataset: scan, plan, build shards, publish; answer at once if it is there.

    source + spec -> digest -> in the store? -> attributes -> plan -> shards -> manifest

Everything is a pure function of source and spec, so an interrupted build is continued by
running it again: what is done is found by its key, and the result is the same to the byte.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from pipelines.assemble import (
    BuildWork,
    ShardRecord,
    ShardUnit,
    dataset_schema,
    record_from_bytes,
    record_path,
)
from pipelines.card import Described, describe, publish_files
from pipelines.contact_sheet import contact_sheets
from pipelines.engine import run_units, runner_flags, runner_name
from pipelines.linked import link_classes
from pipelines.packing import num_shards
from pipelines.plan import BuildPlan, make_plan
from pipelines.scan import ScanUnit, ScanWork, missing_units, scan_units
from pipelines.schema import InputRef, Manifest, artifact_digest, artifact_prefix
from pipelines.selection import Selection
from pipelines.sources.base import BadFileError, Source
from pipelines.spec import DatasetSpec
from pipelines.store import Store
from pipelines.tfds_slice import slice_rule
from pipelines.watching import ProgressCallback, Rate, watch

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


def dataset_digest(spec: DatasetSpec, source: Source) -> str:
    """Return the address of the dataset that this spec makes of this source."""
    return artifact_digest("datasets", spec.to_json(), _inputs(source))


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
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Build the dataset unless the store has it, and return its manifest.

    beam_args  flags for Beam, passed on untouched; none: FnApiRunner in this process, or in
               `workers` processes
    progress   called as progress(stage, done, total, note) in drawings

    Raises ValueError for what the source cannot give, BadFileError for a file that is not what
    it should be, under on_bad_file="fail".
    """
    _check(spec, source)
    flags = runner_flags(beam_args, workers)
    digest = dataset_digest(spec, source)
    if manifest := store.reuse("datasets", name, digest):
        return manifest

    def build_one(spec: DatasetSpec, source: Source, name: str) -> Manifest:
        digest = dataset_digest(spec, source)
        if manifest := store.reuse("datasets", name, digest):
            return manifest
        job = _Job(spec, source, store, name, digest, beam_args, workers, progress)
        plan = job.plan(job.scan())
        records = job.build(plan)
        described = describe(spec, source, plan, records, contact_sheets(spec, plan, store))
        return _publish(spec, source, store, name, described, versions)

    versions = library_versions() | {"runner": runner_name(flags) or "FnApiRunner"}
    if spec.layout == "packed":
        return build_one(spec, source, name)
    prefix = artifact_prefix("datasets", name, digest)
    described = link_classes(spec, source, store, prefix, build_one)
    return _publish(spec, source, store, name, described, versions)


def library_versions() -> dict[str, str]:
    """Return the versions of what makes the bytes."""
    names = ("sketchmill", "apache-beam", "numpy", "pyarrow", "xxhash")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


@dataclass(frozen=True, slots=True)
class _Job:
    """One build's settings and its three stages."""

    spec: DatasetSpec
    source: Source
    store: Store
    name: str
    digest: str
    beam_args: Sequence[str]
    workers: int
    progress: ProgressCallback | None

    def scan(self) -> tuple[ScanUnit, ...]:
        """Make sure that every range has its attributes in the store."""
        near = self.spec.near_duplicates is not None
        units = scan_units(self.source, self.spec.image_size, with_difference_hash=near)
        work = ScanWork(image_size=self.spec.image_size, with_difference_hash=near)
        todo = missing_units(units, self.store)
        done = self.source.rows - sum(unit.rows for unit in todo)
        rate = Rate("scan", self.source.rows, self.progress)
        pending = {unit.path: unit.rows for unit in todo}
        with watch(self.store, pending, lambda rows: rate(done + rows)):
            self._run("Scan", todo, work)
        return units

    def plan(self, units: tuple[ScanUnit, ...]) -> BuildPlan:
        """Decide every row and lay out the shards."""
        rule = None
        if self.spec.tfds_slice is not None:
            rule = slice_rule(self.spec.tfds_slice, self.source)
        selection = Selection(spec=self.spec, in_slice=rule)
        return make_plan(self.source, self.spec, units, self.store.get, selection)

    def build(self, plan: BuildPlan) -> tuple[ShardRecord, ...]:
        """Build the shards that have no record yet and return the records of all, in order."""
        scratch = f"attempts/shards/{self.name}-{self.digest}"
        prefix = artifact_prefix("datasets", self.name, self.digest)
        todo = []
        for shard in plan.shards:
            if not self._is_done(record_path(scratch, shard), prefix):
                needed = {piece.unit_index: plan.units[piece.unit_index] for piece in shard.pieces}
                todo.append(ShardUnit(plan=shard, units=needed))
        work = BuildWork(
            spec=self.spec,
            prefix=prefix,
            scratch=scratch,
            dataset_name=self.name,
            class_names=self.source.class_names,
        )
        total = sum(shard.rows for shard in plan.shards)
        done = total - sum(unit.plan.rows for unit in todo)
        rate = Rate("build", total, self.progress)
        pending = {record_path(scratch, unit.plan): unit.plan.rows for unit in todo}
        with watch(self.store, pending, lambda rows: rate(done + rows)):
            self._run("Build", todo, work)
        paths = [record_path(scratch, shard) for shard in plan.shards]
        return tuple(record_from_bytes(self.store.get(path)) for path in paths)

    def _run(self, label: str, todo: Sequence[object], work: ScanWork | BuildWork) -> None:
        run_units(
            todo, work, self.store, label=label, beam_args=self.beam_args, workers=self.workers
        )

    def _is_done(self, path: str, prefix: str) -> bool:
        """Whether a shard has its record and its files have the size recorded."""
        if self.store.size(path) is None:
            return False
        record = record_from_bytes(self.store.get(path))
        return all(self.store.size(f"{prefix}/{file}") == size for file, size, _ in record.files)


def _publish(
    spec: DatasetSpec,
    source: Source,
    store: Store,
    name: str,
    described: Described,
    versions: dict[str, str],
) -> Manifest:
    digest = dataset_digest(spec, source)
    files = publish_files(spec, name, artifact_prefix("datasets", name, digest), described, store)
    manifest = Manifest(
        kind="datasets",
        name=name,
        digest=digest,
        spec=spec.to_json(),
        inputs=_inputs(source),
        files=files,
        summary=described.summary,
        versions=versions,
    )
    return store.publish(manifest)


def _inputs(source: Source) -> tuple[InputRef, ...]:
    ref = InputRef(role="source", kind="source", name=source.name, digest=source.fingerprint)
    return (ref,)


def _check(spec: DatasetSpec, source: Source) -> None:
    if source.bad_files and spec.on_bad_file == "fail":
        raise BadFileError(source.bad_files[0][1])
    if source.image_size != spec.image_size:
        raise ValueError(
            f"the source gives {source.image_size}x{source.image_size} pixels, the dataset wants "
            f"{spec.image_size}x{spec.image_size}"
        )
    missing = [name for name in spec.class_names if name not in source.class_names]
    if missing and not source.bad_files:
        raise ValueError(f"source {source.name} has no drawings of {', '.join(missing)}")
    dataset_schema(spec)
