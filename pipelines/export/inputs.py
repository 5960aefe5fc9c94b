"""What goes into an export: the dataset's shards and schema, masks of rows, files beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.credit import credit_of
from pipelines.export.job import Job, Shard
from pipelines.export.spec import ExportSpec
from pipelines.labels import label_ids
from pipelines.schema import FileEntry, InputRef, Manifest, artifact_digest
from pipelines.shards import open_shard
from pipelines.store import Store


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
    ref = InputRef(role=role, kind=dataset.kind, name=dataset.name, digest=dataset.digest)
    return (ref, *extras.inputs)


def is_synthetic(dataset: Manifest) -> bool:
    """Return whether a program made the drawings."""
    summary = dataset.summary
    flagged = summary.get("is_synthetic", summary.get("synthetic", False))
    return dataset.kind == "samples" or bool(flagged)
