"""The linked layout: a dataset chooses among immutable shards of one class each.

Every class is a dataset of its own, `class-<name>`, built once for a source and a set of rules.
A dataset for a list of classes copies their shards inside the store (a hard link on a local
disk, a copy by the server on S3) and adds what describes it: nothing is decoded or encoded.
Labels in such shards are TFDS ids; the manifest's `label_ids[i]` is that of class_names[i].
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import obstore

from pipelines.card import Described, content_digest, statistics
from pipelines.catalogue import class_entry
from pipelines.hashing import add_sums
from pipelines.schema import FileEntry, Manifest, slug
from pipelines.sources.base import Source
from pipelines.spec import DatasetSpec
from pipelines.store import Store

BuildOne = Callable[[DatasetSpec, Source, str], Manifest]


def link_classes(
    spec: DatasetSpec, source: Source, store: Store, prefix: str, build_one: BuildOne
) -> Described:
    """Build the classes that are missing, link all, and return what describes the whole.

    Raises ValueError if a class is none of Google's, or the source mixes classes in its files.
    """
    parts = [
        build_one(
            dataclasses.replace(spec, class_names=(class_name,)),
            one_class(source, class_name),
            f"class-{slug(class_name)}",
        )
        for class_name in spec.class_names
    ]
    entries = [
        _link(part, entry, store, prefix)
        for part in parts
        for entry in part.files
        if entry.split is not None
    ]
    entries.sort(key=lambda entry: (spec.split_names.index(entry.split or ""), entry.path))
    return Described(summary=_summary(spec, source, parts), shards=tuple(entries), records=())


def one_class(source: Source, class_name: str) -> Source:
    """Return the part of a source that holds one class."""
    class_entry(class_name)
    files = tuple(file for file in source.files if file.class_name == class_name)
    if not files:
        raise ValueError(
            f"source {source.name} has no file of class {class_name!r} alone: the linked layout "
            "needs a file for each class"
        )
    return dataclasses.replace(source, class_names=(class_name,), files=files)


def _link(part: Manifest, entry: FileEntry, store: Store, prefix: str) -> FileEntry:
    """Copy a shard inside the store under a name that tells its class."""
    split, _, rest = entry.path.removeprefix("data/").partition("-")
    path = f"data/{split}-{part.name.removeprefix('class-')}-{rest}"
    target = f"{prefix}/{path}"
    if store.size(target) != entry.bytes:
        obstore.copy(store.backend, f"{part.prefix}/{entry.path}", target)
    return dataclasses.replace(entry, path=path)


def _summary(spec: DatasetSpec, source: Source, parts: Sequence[Manifest]) -> dict[str, Any]:
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
        "counts": {split: _merged(s["counts"][split] for s in summaries) for split in rows},
        "dropped": _merged_twice([summary["dropped"] for summary in summaries]),
        "bad_files": [bad for summary in summaries for bad in summary["bad_files"]],
        "repairs": dict(source.repairs),
        "content_digest": content_digest(spec, rows, total),
        "content_sum": f"{total:032x}",
        "statistics": statistics(spec, sum(rows.values()), *sums)
        | {"ink_histogram": _merged(s["statistics"]["ink_histogram"] for s in summaries)},
        "parts": [f"{part.name}@{part.digest}" for part in parts],
        "is_synthetic": source.is_synthetic,
        "source": source.name,
        "attribution": source.attribution,
    }


def _merged(mappings: Any) -> dict[str, Any]:
    """Return the union of mappings by class, which have no key in common."""
    return {key: value for mapping in mappings for key, value in mapping.items()}


def _merged_twice(mappings: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, Any]:
    reasons = dict.fromkeys(reason for mapping in mappings for reason in mapping)
    return {reason: _merged(m.get(reason, {}) for m in mappings) for reason in reasons}
