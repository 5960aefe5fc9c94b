"""Data classes of an export: the job, its units and their records.

Job      the dataset, the spec and the places; small, travels to every worker
Unit     a planned range of rows of one split and the files to make of them
Record   the files a unit made and the drawings of each class in them; it is what a resumed
         export finds (pipelines/store/scratch.py)

The plan says which rows go to which file before one is read. A split is one sequence of rows,
shard after shard. Files are equal cuts of it, so their sizes differ by at most one row and their
names and content depend on neither workers nor time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.drawings.credit import Credit, credit_of
from pipelines.drawings.parquet import open_shard
from pipelines.drawings.reading import label_ids
from pipelines.export.spec import ExportSpec
from pipelines.store.artifacts import Store
from pipelines.store.manifest import (
    FileEntry,
    InputRef,
    Manifest,
    artifact_digest,
)
from pipelines.store.scratch import UnitRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One input shard; `kept` is the mask of its rows, `rows` counts the kept ones."""

    path: str
    rows: int
    split: str
    bytes: int
    sha256: str
    kept: FileEntry | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The kept rows [start, stop) of one shard."""

    shard: Shard
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One export.

    shards       of the chosen splits, in the order of the dataset
    splits       their names, in order, those without rows left out
    columns      of the shards besides image and label
    column_types their Arrow types
    label_ids    of the linked layout: what stands in the shards for each of class_names
    scratch      directory, beside the files, for records and files between stages
    """

    name: str
    digest: str
    spec: ExportSpec
    shards: tuple[Shard, ...]
    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int]
    columns: tuple[str, ...]
    is_synthetic: bool
    credit: Credit
    scratch: str
    label_ids: tuple[int, ...] = ()
    column_types: tuple[str, ...] = ()

    @property
    def provenance(self) -> dict[str, str]:
        """Name and Arrow type of the columns that no label tells; none if tfds_id is all."""
        columns = dict(zip(self.columns, self.column_types, strict=True))
        return columns if columns.keys() - {"tfds_id"} else {}

    def rows(self, split: str) -> int:
        """Return the number of rows of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Rows to read and files to make of them.

    name       unique in the export, safe in a path
    task       which of the format's tasks it is
    first_row  position of the first row in its split
    outputs    paths relative to the export
    ranges     (path, start, length) of bytes to read, where a unit reads files and not rows
    """

    format: str
    stage: int
    name: str
    task: str
    split: str = ""
    first_row: int = 0
    rows: int = 0
    pieces: tuple[Piece, ...] = ()
    outputs: tuple[str, ...] = ()
    ranges: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(UnitRecord):
    """What a unit made.

    counts  drawings by label in what it read
    sizes   bytes by label in the last of scratch_files, where its lines differ in length
    """

    name: str
    stage: int
    counts: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


def record_path(job: Job, unit: Unit) -> str:
    """Return where the unit's record is kept."""
    return f"{job.scratch}/records/{unit.name}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What goes along with the drawings.

    inputs       more lineage, such as the audit
    kept         of each shard (its path in the manifest) the path in the store of a mask of its
                 rows, and the number of rows in it; None: all rows
    attachments  more small files, such as the audit's numbers and a report
    """

    inputs: tuple[InputRef, ...] = ()
    kept: Mapping[str, FileEntry] | None = None
    attachments: Mapping[str, bytes] = field(default_factory=dict)


NO_EXTRAS = Extras()


def make_job(
    dataset: Manifest,
    store: Store,
    spec: ExportSpec,
    *,
    name: str,
    extras: Extras = NO_EXTRAS,
) -> Job:
    """Return what is known before any work; reads the footer of one shard.

    Raises ValueError if there are no Parquet shards, no rows, or no such split.
    """
    shards = dataset_shards(dataset, extras.kept)
    known = list(dict.fromkeys(shard.split for shard in shards))
    if missing := [split for split in spec.splits if split not in known]:
        raise ValueError(f"{dataset.name} has no split {missing[0]!r}; it has {', '.join(known)}")
    shards = [s for s in shards if s.rows and s.split in (spec.splits or known)]
    if not shards:
        raise ValueError(f"{dataset.kind}/{dataset.name} has no drawings to export")
    first = shards[0]
    digest = artifact_digest("exports", spec.to_json(), export_inputs(dataset, extras))
    with open_shard(store.checked(first.path, first.bytes, first.sha256)) as parquet:
        fields = [f for f in parquet.schema_arrow if f.name not in ("image", "label")]
    splits = spec.splits or known
    return Job(
        name=name,
        digest=digest,
        spec=spec,
        shards=tuple(shards),
        splits=tuple(s for s in splits if any(shard.split == s for shard in shards)),
        class_names=tuple(dataset.summary["class_names"]),
        image_shape=tuple(dataset.summary["image_shape"][:2]),
        columns=tuple(field.name for field in fields),
        column_types=tuple(str(field.type) for field in fields),
        is_synthetic=is_synthetic(dataset),
        credit=credit_of(dataset.summary),
        scratch=f"attempts/exports/{name}-{digest}",
        label_ids=label_ids(dataset),
    )


def dataset_shards(dataset: Manifest, kept: Mapping[str, FileEntry] | None = None) -> list[Shard]:
    """Return the Parquet shards of a dataset in order; raise ValueError if it has none."""
    entries = [e for e in dataset.files if e.path.endswith(".parquet") and e.rows is not None]
    if not entries:
        raise ValueError(
            f"{dataset.kind}/{dataset.name} has no Parquet shards; build it with "
            "formats=parquet to export it"
        )
    return [
        Shard(
            path=f"{dataset.prefix}/{entry.path}",
            rows=(entry if kept is None else kept[entry.path]).rows or 0,
            split=entry.split or "train",
            bytes=entry.bytes,
            sha256=entry.sha256,
            kept=None if kept is None else kept[entry.path],
        )
        for entry in entries
    ]


def export_inputs(dataset: Manifest, extras: Extras = NO_EXTRAS) -> tuple[InputRef, ...]:
    """Return the lineage of an export."""
    role = "samples" if dataset.kind == "samples" else "dataset"
    return (dataset.ref(role), *extras.inputs)


def is_synthetic(dataset: Manifest) -> bool:
    """Return whether a program made the drawings."""
    summary = dataset.summary
    flagged = summary.get("is_synthetic", summary.get("synthetic", False))
    return dataset.kind == "samples" or bool(flagged)


def cut_rows(shards: Sequence[Shard], first: int, last: int) -> tuple[Piece, ...]:
    """Return the pieces that make up rows [first, last) of the sequence of all shards."""
    pieces = []
    begin = 0
    for shard in shards:
        start, stop = max(first - begin, 0), min(last - begin, shard.rows)
        if start < stop:
            pieces.append(Piece(shard, start, stop))
        begin += shard.rows
    return tuple(pieces)


def range_units(job: Job, *, format: str, task: str, rows_per_file: int, path: str) -> list[Unit]:
    """Cut every split into units of at most `rows_per_file` rows with one output each.

    path: format of the output with the fields split, index and count.
    """
    units = []
    for split in job.splits:
        shards = [shard for shard in job.shards if shard.split == split]
        total = sum(shard.rows for shard in shards)
        count = -(-total // rows_per_file)
        for index in range(count):
            first, last = total * index // count, total * (index + 1) // count
            units.append(
                Unit(
                    format=format,
                    stage=0,
                    task=task,
                    name=f"{format}-{task}-{split}-{index:05d}-of-{count:05d}",
                    split=split,
                    first_row=first,
                    rows=last - first,
                    pieces=cut_rows(shards, first, last),
                    outputs=(path.format(split=split, index=index, count=count),),
                )
            )
    return units
