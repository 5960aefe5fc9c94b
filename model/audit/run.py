"""Run the audit of a samples dataset: an artifact with its numbers and the accepted rows.

    reports/<name>/<digest>/audit.json            every number
    reports/<name>/<digest>/kept/00000.npy ...    of each shard, which rows are accepted

The numbers are those of the accepted drawings, as only they are exported; "before_filters" has the
same of all. It is addressed by the samples, the dataset they are held against, the judge and the
spec, so asking again answers at once, even where there is no torch: only the work itself imports
it. A gate is checked against an audit, and is no part of it.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.audit.filters import (
    ACCEPTED,
    Filters,
    apply_filters,
    count_reasons,
)
from model.audit.measures import count_repeats, measure
from pipelines.drawings.reading import split_shards
from pipelines.processes.progress import Progress, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.errors import reading
from pipelines.store.manifest import FileEntry, InputRef, Manifest, artifact_digest, file_entry

AUDIT_NAME = "audit.json"
# Incremented when the numbers of equal samples change.
AUDIT_VERSION = 2
SAMPLES_SPLIT = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSpec:
    """Parameters of an audit besides its inputs.

    samples_per_class, training_per_class   pictures whose nearest neighbors are looked for
    held_out_split                          of the real drawings that set the standard
    """

    filters: Filters = field(default_factory=Filters)
    samples_per_class: int = 500
    training_per_class: int = 5_000
    held_out_split: str = "test"
    version: int = AUDIT_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"task": "audit"} | raw | {"filters": self.filters.to_json()}


def audit_samples(
    samples: Manifest,
    dataset: Manifest,
    store: Store,
    *,
    name: str,
    spec: AuditSpec,
    judge: Manifest | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Return the audit of samples against the dataset their model learned from.

    Raises ValueError if the two have different classes, or a filter needs a judge and there is
    none.
    """
    inputs = audit_inputs(samples, dataset, judge)
    digest = artifact_digest("reports", spec.to_json(), inputs)
    if found := store.reuse("reports", name, digest):
        return found
    numbers, codes = measure_samples(
        samples, dataset, store, spec=spec, judge=judge, progress=progress
    )
    contents = {AUDIT_NAME: json.dumps(numbers, indent=1, sort_keys=True).encode() + b"\n"}
    contents |= _masks(samples, codes)
    return _publish(name, digest, spec, inputs, contents, numbers, store)


def measure_samples(
    samples: Manifest,
    dataset: Manifest,
    store: Store,
    *,
    spec: AuditSpec,
    judge: Manifest | None = None,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    """Return the numbers of an audit and the code of each drawing; publish nothing.

    The samples need their files in the store, not to be published. Raises ValueError as
    audit_samples does.
    """
    if spec.filters.needs_judge and judge is None:
        raise ValueError("a filter needs a classifier, and none is given: train one, or name it")
    from model.audit.nearness import SetNearness
    from model.audit.numbers import audit_numbers, feature_numbers

    sides = _sides(samples, dataset, store, spec, judge, progress)
    codes = apply_filters(
        spec.filters,
        sides.samples,
        training_hashes=sides.training.hashes,
        judged=sides.judged,
        nearness=SetNearness(
            samples=samples, dataset=dataset, store=store, labels=sides.samples.labels
        ),
    )
    accepted = dataclasses.replace(sides, accepted=codes == ACCEPTED)
    numbers = audit_numbers(accepted)
    if judge is not None:
        numbers |= feature_numbers(judge, accepted, store)
    if filters := spec.filters.to_json():
        raw = audit_numbers(sides)
        numbers["before_filters"] = {k: v for k, v in raw.items() if k != "closest"}
    asked = [sides.class_names[label] for label in sides.asked]
    numbers |= {"filters": filters, "accepted": numbers["num_drawings"], "drawn": len(codes)}
    counts = count_reasons(codes, sides.samples.labels, sides.class_names)
    numbers["reasons"] = {name: counts[name] for name in asked}
    progress("audit", 4, 4, "done")
    return numbers, codes


def audit_inputs(
    samples: Manifest, dataset: Manifest, judge: Manifest | None
) -> tuple[InputRef, ...]:
    """Return the lineage of an audit."""
    roles = {"samples": samples, "dataset": dataset} | ({"judge": judge} if judge else {})
    return tuple(artifact.ref(role) for role, artifact in roles.items())


def read_audit(audit: Manifest, store: Store) -> dict[str, Any]:
    """Return the numbers of a published audit."""
    content = store.read(audit, AUDIT_NAME)
    with reading(f"{audit.prefix}/{AUDIT_NAME}", "an audit"):
        return dict(json.loads(content))


def kept_rows(audit: Manifest, samples: Manifest) -> dict[str, FileEntry]:
    """Return of each shard of the samples its mask: path in the store, accepted rows, hash."""
    entries = {entry.path: entry for entry in audit.files}
    masks = [mask_name(index) for index in range(len(split_shards(samples, SAMPLES_SPLIT)))]
    shards = split_shards(samples, SAMPLES_SPLIT)
    return {
        shard.path: dataclasses.replace(entries[mask], path=f"{audit.prefix}/{mask}")
        for shard, mask in zip(shards, masks, strict=True)
    }


def accepted_mask(audit: Manifest, samples: Manifest, store: Store) -> npt.NDArray[np.bool_] | None:
    """Return which drawings of the samples are accepted (n,); None: all, there were no filters."""
    if not audit.spec["filters"]:
        return None
    parts = []
    for kept in kept_rows(audit, samples).values():
        content = bytes(store.checked(kept.path, kept.bytes, kept.sha256))
        parts.append(np.load(io.BytesIO(content), allow_pickle=False))
    return np.concatenate(parts)


def mask_name(index: int) -> str:
    """Return the path in an audit of a shard's mask.

    >>> mask_name(3)
    'kept/00003.npy'
    """
    return f"kept/{index:05d}.npy"


def _sides(
    samples: Manifest,
    dataset: Manifest,
    store: Store,
    spec: AuditSpec,
    judge: Manifest | None,
    progress: Progress,
):
    """Return what is compared: samples, training and held-out drawings, the judge's answers."""
    from model.audit.numbers import Sides, judge_split
    from model.evaluation.classifier import open_classifier

    names = list(dataset.summary["class_names"])
    relabel = _relabel(list(samples.summary["class_names"]), names)
    progress("audit", 0, 4, "samples")
    made = measure(samples, store, split=SAMPLES_SPLIT, keep_per_class=spec.samples_per_class)
    made = dataclasses.replace(made, labels=relabel[made.labels])
    progress("audit", 1, 4, "training drawings")
    training = measure(dataset, store, split="train", keep_per_class=spec.training_per_class)
    progress("audit", 2, 4, "held-out drawings")
    split = spec.held_out_split
    held_out = measure(dataset, store, split=split, keep_per_class=spec.samples_per_class)
    progress("audit", 3, 4, "neighbors")
    sides = Sides(
        class_names=names,
        asked=sorted(relabel.tolist()),
        samples=made,
        training=training,
        held_out=held_out,
        repeats=count_repeats(dataset, held_out),
    )
    if judge is None:
        return sides
    network = open_classifier(store, judge)
    if list(judge.summary["class_names"]) != names:
        raise ValueError(f"judge {judge.name} was trained for other classes than {dataset.name}")
    return dataclasses.replace(
        sides,
        judged=judge_split(network, samples, store, split=SAMPLES_SPLIT, relabel=relabel),
        judged_held_out=judge_split(network, dataset, store, split=split),
    )


def _relabel(names: list[str], known: list[str]) -> npt.NDArray[np.int16]:
    """Return the dataset's label of each label of the samples."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"the dataset has no class {unknown[0]!r}, the samples have")
    return np.array([known.index(name) for name in names], np.int16)


def _masks(samples: Manifest, codes: npt.NDArray[np.uint8]) -> dict[str, bytes]:
    masks, start = {}, 0
    for index, entry in enumerate(split_shards(samples, SAMPLES_SPLIT)):
        rows = int(entry.rows or 0)
        buffer = io.BytesIO()
        np.save(buffer, codes[start : start + rows] == ACCEPTED, allow_pickle=False)
        masks[mask_name(index)] = buffer.getvalue()
        start += rows
    return masks


def _publish(
    name: str,
    digest: str,
    spec: AuditSpec,
    inputs: tuple[InputRef, ...],
    contents: Mapping[str, bytes],
    numbers: Mapping[str, Any],
    store: Store,
) -> Manifest:
    from model.network.weights import library_versions

    manifest = Manifest(
        kind="reports",
        name=name,
        digest=digest,
        spec=spec.to_json(),
        inputs=inputs,
        files=tuple(_entry(path, content) for path, content in contents.items()),
        summary={"task": "audit"}
        | {k: v for k, v in numbers.items() if isinstance(v, int | float)},
        versions=library_versions(),
    )
    return store.publish_files(manifest, contents)


def _entry(path: str, content: bytes) -> FileEntry:
    rows = None
    if path.endswith(".npy"):
        rows = int(np.load(io.BytesIO(content), allow_pickle=False).sum())
    return file_entry(path, content, rows=rows)
