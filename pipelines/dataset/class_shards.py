"""The linked layout: datasets that share immutable single-class shards.

Every class is a dataset of its own, `class-<name>`, built once for a source and a set of rules.
A dataset for a list of classes copies their shards inside the store (a hard link on a local
disk, a copy by the server on S3) and adds what describes it: nothing is decoded or encoded.
Labels in such shards are TFDS ids; the manifest's `label_ids[i]` is that of class_names[i].
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import obstore

from pipelines.catalogue import class_entry
from pipelines.dataset.bad_rows import check_limit, nothing_left
from pipelines.dataset.contact_sheet import joined_sheets
from pipelines.dataset.describe import (
    Described,
    content_digest,
    source_credit,
    source_files,
    statistics,
    without_folder,
)
from pipelines.dataset.jobs import Job
from pipelines.dataset.plan import INK_BINS
from pipelines.drawings.hashing import add_sums
from pipelines.sources.base import Source
from pipelines.store.artifacts import Store
from pipelines.store.backends import whole
from pipelines.store.manifest import FileEntry, Manifest, slug


def class_jobs(job: Job) -> list[Job]:
    """Return the jobs of the classes that a linked dataset is to be made of.

    What a class's dataset says depends on nothing but that class. A class whose file was left
    out as bad has none. Raises ValueError if a class is none of Google's, or the source mixes
    classes in its files.
    """
    jobs = []
    for class_name in job.spec.class_names:
        source = one_class(job.source, class_name)
        if not source.files and job.spec.on_bad_file == "skip" and job.source.bad_files:
            continue
        if not source.files:
            raise ValueError(
                f"source {source.name} has no file of class {class_name!r} alone: the linked "
                "layout needs a file for each class"
            )
        # The limit is of the whole; what a class's dataset is does not depend on it.
        spec = dataclasses.replace(job.spec, class_names=(class_name,), max_bad_rows=None)
        jobs.append(Job(spec=spec, source=source, name=f"class-{slug(class_name)}"))
    return jobs


def link_parts(
    job: Job,
    parts: Sequence[Manifest],
    bad_files: Sequence[tuple[str, str]],
    store: Store,
) -> Described:
    """Copy the shards of the classes under the dataset's own names and describe the whole.

    Raises ValueError if there is no class left, BadFileError if too many rows were left out.
    """
    if not parts:
        raise nothing_left(bad_files)
    num_bad_rows = sum(part.summary.get("num_bad_rows", 0) for part in parts)
    check_limit(job.spec, num_bad_rows)
    entries = [
        _link(part, entry, store, job.prefix)
        for part in parts
        for entry in part.files
        if entry.split is not None
    ]
    names = job.spec.split_names
    entries.sort(key=lambda entry: (names.index(entry.split or ""), entry.path))
    return Described(
        summary=_summary(job, parts, bad_files),
        shards=tuple(entries),
        sheets=joined_sheets([_sheets(part, store) for part in parts], job.spec.image_size),
    )


def one_class(source: Source, class_name: str) -> Source:
    """Return the part of a source that holds one class, as if nothing else were in it."""
    class_entry(class_name)
    files = tuple(file for file in source.files if file.class_name == class_name)
    repairs = Counter(str(file.layout.get("repair", "")) for file in files)
    repairs.pop("", None)
    return dataclasses.replace(
        source, class_names=(class_name,), files=files, bad_files=(), repairs=dict(repairs)
    )


def _sheets(part: Manifest, store: Store) -> dict[str, bytes]:
    return {
        entry.path: store.read(part, entry.path)
        for entry in part.files
        if entry.path.startswith("sheets/")
    }


def _link(part: Manifest, entry: FileEntry, store: Store, prefix: str) -> FileEntry:
    """Copy a shard inside the store under a name that tells its class."""
    split, _, rest = entry.path.removeprefix("data/").partition("-")
    path = f"data/{split}-{part.name.removeprefix('class-')}-{rest}"
    target = f"{prefix}/{path}"
    if store.size(target) != entry.bytes:
        whole(lambda: obstore.copy(store.backend, f"{part.prefix}/{entry.path}", target))
    return dataclasses.replace(entry, path=path)


def _summary(
    job: Job, parts: Sequence[Manifest], bad_files: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    spec, source = job.spec, job.source
    summaries = [part.summary for part in parts]
    splits = Counter[str]()
    for summary in summaries:
        splits.update(summary["splits"])
    total = add_sums(*(int(summary["content_sum"], 16) for summary in summaries))
    rows = {split: splits[split] for split in spec.split_names}
    ids = [class_entry(name).tfds_id for name in spec.class_names]
    sums = [
        sum(summary["statistics"][name] for summary in summaries)
        for name in ("pixel_sum", "pixel_square_sum")
    ]
    return {
        "class_names": list(spec.class_names),
        "tfds_ids": ids,
        "label_ids": ids,
        "image_shape": list(spec.image_shape),
        "num_drawings": sum(rows.values()),
        "splits": rows,
        "counts": {
            split: dict.fromkeys(spec.class_names, 0)
            | _merged(s["counts"][split] for s in summaries)
            for split in rows
        },
        "dropped": _merged_twice([summary["dropped"] for summary in summaries]),
        "bad_files": [without_folder(file, reason) for file, reason in bad_files]
        + [bad for summary in summaries for bad in summary["bad_files"]],
        "repairs": dict(source.repairs),
        **_row_notes(summaries),
        "content_digest": content_digest(spec, rows, total),
        "content_sum": f"{total:032x}",
        "statistics": statistics(spec, sum(rows.values()), *sums)
        | {
            "ink_histogram": {name: [0] * INK_BINS for name in spec.class_names}
            | _merged(s["statistics"]["ink_histogram"] for s in summaries)
        },
        "parts": [f"{part.name}@{part.digest}" for part in parts],
        "is_synthetic": source.is_synthetic,
        "source": source.name,
        "source_files": source_files(source),
        **source_credit(spec, source).to_json(),
    }


def _row_notes(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if bad := [row for summary in summaries for row in summary.get("bad_rows", ())]:
        notes["bad_rows"] = bad
        notes["num_bad_rows"] = sum(summary.get("num_bad_rows", 0) for summary in summaries)
    if repaired := [summary["repaired"] for summary in summaries if "repaired" in summary]:
        notes["repaired"] = _merged_twice(repaired)
    return notes


def _merged(mappings: Any) -> dict[str, Any]:
    """Return the union of mappings by class, which have no key in common."""
    return {key: value for mapping in mappings for key, value in mapping.items()}


def _merged_twice(mappings: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    reasons = dict.fromkeys(reason for mapping in mappings for reason in mapping)
    return {reason: _merged(m.get(reason, {}) for m in mappings) for reason in reasons}
