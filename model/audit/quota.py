"""Keep drawing until every class has its number of accepted drawings.

    round 0: draw what is wanted; round k: draw what is missing, over the class's acceptance rate

Every round is a samples dataset of its own with an audit, so an interrupted run goes on with
the round it was in. The result is a samples dataset of the accepted drawings, in the order of
the rounds, with what was rejected for which reason.
"""

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.audit.filters import Filters
from model.audit.hashes import drawing_hashes
from model.audit.measures import split_entries
from model.audit.run import AuditSpec, audit_samples, kept_rows, read_audit
from model.progress import Progress, no_progress
from model.publish import library_versions
from model.sampling.bulk import sample_dataset
from model.sampling.spec import SampleSpec
from pipelines.schema import FileEntry, InputRef, Manifest, artifact_digest, artifact_prefix
from pipelines.shards import open_shard, read_images, shard_name, shard_writer
from pipelines.store import Store

SPLIT = "train"
ROWS_PER_SHARD = 8_192
MAX_ROUNDS = 12
# A class of which hardly anything is accepted is drawn at most so many times over in a round.
_MAX_FACTOR = 20.0


class QuotaError(RuntimeError):
    """A class did not fill its quota within the rounds; the message says how far it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSpec:
    """What is wanted: accepted drawings of each class, and what decides the drawing."""

    counts: Mapping[str, int]
    filters: Filters
    seed: int = 0
    temperature: float = 1.0
    batch_size: int = 64

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return {
            "task": "quota",
            "counts": dict(self.counts),
            "filters": self.filters.to_json(),
            "seed": self.seed,
            "temperature": self.temperature,
            "batch_size": self.batch_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The model that draws, the dataset it learned from, and a judge if filters ask one."""

    model: Manifest
    dataset: Manifest
    judge: Manifest | None = None

    def inputs(self) -> tuple[InputRef, ...]:
        """Return the lineage of the result."""
        roles = {"model": self.model, "dataset": self.dataset, "judge": self.judge}
        return tuple(
            InputRef(role=role, kind=m.kind, name=m.name, digest=m.digest)
            for role, m in roles.items()
            if m is not None
        )


@dataclass(slots=True)
class Tally:
    """How far the quotas are filled: accepted and drawn by class, reasons, rounds, tables."""

    accepted: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    hashes: set[int] = field(default_factory=set)
    picked: list[tuple[Manifest, str, npt.NDArray[np.int64]]] = field(default_factory=list)


def fill_quotas(
    spec: QuotaSpec,
    sources: Sources,
    store: Store,
    name: str,
    *,
    processes: int = 0,
    progress: Progress = no_progress,
) -> Manifest:
    """Return a samples dataset with exactly the accepted drawings that are wanted.

    Raises QuotaError if a class is not filled after MAX_ROUNDS rounds.
    """
    digest = artifact_digest("samples", spec.to_json(), sources.inputs())
    if found := store.reuse("samples", name, digest):
        return found
    tally, total = Tally(), sum(spec.counts.values())
    for number in range(MAX_ROUNDS):
        missing = missing_counts(spec, tally)
        if not missing:
            break
        sampling = round_spec(spec, tally, missing, number)
        drawn = sample_dataset(
            sampling, sources.model, store, f"{name[:52]}-round-{number}", processes=processes
        )
        _take_round(spec, sources, store, drawn, tally)
        progress("quota", sum(tally.accepted.values()), total, f"round {number}")
    if missing := missing_counts(spec, tally):
        worst = ", ".join(f"{c}: {tally.accepted[c]} of {spec.counts[c]}" for c in missing)
        raise QuotaError(f"after {MAX_ROUNDS} rounds the filters have accepted too few: {worst}")
    return _publish(spec, sources, store, name, digest, tally)


def missing_counts(spec: QuotaSpec, tally: Tally) -> dict[str, int]:
    """Return the classes that lack drawings, and how many."""
    lacking = {name: count - tally.accepted[name] for name, count in spec.counts.items()}
    return {name: count for name, count in lacking.items() if count > 0}


def round_spec(
    spec: QuotaSpec, tally: Tally, missing: Mapping[str, int], number: int
) -> SampleSpec:
    """Return what to draw in a round: what is missing, over the rate of acceptance so far."""
    counts = []
    for name, count in missing.items():
        rate = tally.accepted[name] / tally.drawn[name] if tally.drawn[name] else 1.0
        counts.append(
            math.ceil(count * min(_MAX_FACTOR, 1.1 / max(rate, 1e-9)) if number else count)
        )
    return SampleSpec(
        class_names=tuple(missing),
        per_class=tuple(counts),
        seed=round_seed(spec.seed, number),
        temperature=spec.temperature,
        batch_size=spec.batch_size,
    )


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round: the seed itself, then others that no one would choose.

    >>> round_seed(7, 0)
    7
    """
    if number == 0:
        return seed
    digest = hashlib.sha256(f"quota {seed} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _take_round(
    spec: QuotaSpec, sources: Sources, store: Store, drawn: Manifest, tally: Tally
) -> None:
    """Audit a round and take its accepted drawings as far as they are wanted."""
    audit = audit_samples(
        drawn,
        sources.dataset,
        store,
        name=f"{drawn.name[:57]}-audit",
        spec=AuditSpec(filters=spec.filters),
        judge=sources.judge,
    )
    numbers = read_audit(audit, store)
    for class_name, counts in numbers["reasons"].items():
        if class_name in drawn.summary["class_names"]:
            tally.drawn[class_name] += sum(counts.values())
            reasons = tally.reasons.setdefault(class_name, Counter())
            reasons.update({k: v for k, v in counts.items() if k != "accepted"})
    tally.rounds.append(
        {
            "name": drawn.name,
            "digest": drawn.digest,
            "audit": audit.digest,
            "seed": drawn.spec["seed"],
        }
    )
    masks = kept_rows(audit, drawn)
    for entry in split_entries(drawn, SPLIT):
        kept = masks[entry.path]
        content = bytes(store.checked(kept.path, kept.bytes, kept.sha256))
        mask = np.load(io.BytesIO(content), allow_pickle=False)
        table = open_shard(store.view_entry(drawn, entry)).read()
        rows = _wanted_rows(spec, tally, drawn, table, mask)
        tally.picked.append((drawn, entry.path, rows))


def _wanted_rows(
    spec: QuotaSpec,
    tally: Tally,
    drawn: Manifest,
    table: pa.Table,
    mask: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """Return the accepted rows that a class still lacks; duplicates of earlier rounds are none."""
    names = drawn.summary["class_names"]
    labels = table["label"].to_numpy()
    hashes = drawing_hashes(read_images(table["image"])).tolist()
    rows = []
    for row in np.flatnonzero(mask).tolist():
        class_name = names[labels[row]]
        if spec.filters.drop_duplicates and hashes[row] in tally.hashes:
            tally.reasons[class_name]["duplicate"] += 1
        elif tally.accepted[class_name] < spec.counts[class_name]:
            tally.hashes.add(hashes[row])
            tally.accepted[class_name] += 1
            rows.append(row)
        else:
            tally.reasons[class_name]["more_than_wanted"] += 1
    return np.array(rows, np.int64)


def _publish(
    spec: QuotaSpec, sources: Sources, store: Store, name: str, digest: str, tally: Tally
) -> Manifest:
    prefix = artifact_prefix("samples", name, digest)
    total = sum(spec.counts.values())
    count = math.ceil(total / ROWS_PER_SHARD)
    entries = []
    for index, table in enumerate(_shard_tables(spec, store, tally)):
        sink = pa.BufferOutputStream()
        with shard_writer(sink, table.schema) as writer:
            writer.write_table(table, row_group_size=ROWS_PER_SHARD)
        entries.append(_put(store, prefix, shard_name(SPLIT, index, count), sink, table.num_rows))
    summary = {
        "class_names": list(spec.counts),
        "image_shape": list(sources.dataset.summary["image_shape"][:2]),
        "num_drawings": total,
        "counts": {SPLIT: dict(spec.counts)},
        "drawn": dict(tally.drawn),
        "rejected": {name: dict(reasons) for name, reasons in tally.reasons.items()},
        "rounds": tally.rounds,
        "is_synthetic": True,
    }
    return store.publish(
        Manifest(
            kind="samples",
            name=name,
            digest=digest,
            spec=spec.to_json(),
            inputs=sources.inputs(),
            files=tuple(entries),
            summary=summary,
            versions=library_versions(),
        )
    )


def _shard_tables(spec: QuotaSpec, store: Store, tally: Tally) -> Iterator[pa.Table]:
    """Yield the accepted rows in tables of ROWS_PER_SHARD, labels as positions in the quotas."""
    waiting: list[pa.Table] = []
    for drawn, path, rows in tally.picked:
        table = open_shard(store.read(drawn, path)).read().take(pa.array(rows))
        waiting.append(_relabel(table, drawn.summary["class_names"], list(spec.counts)))
        joined = pa.concat_tables(waiting)
        while joined.num_rows >= ROWS_PER_SHARD:
            yield joined.slice(0, ROWS_PER_SHARD)
            joined = joined.slice(ROWS_PER_SHARD)
        waiting = [joined]
    if waiting and waiting[0].num_rows:
        yield waiting[0]


def _relabel(table: pa.Table, names: list[str], wanted: list[str]) -> pa.Table:
    """Return the table with labels and class names of the result."""
    places = np.array([wanted.index(name) for name in names], np.int64)
    labels = pa.array(places[table["label"].to_numpy()], pa.int64())
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    metadata = dict(table.schema.metadata or {})
    features = json.loads(metadata[b"huggingface"])
    features["info"]["features"]["label"]["names"] = wanted
    return table.replace_schema_metadata(metadata | {b"huggingface": json.dumps(features).encode()})


def _put(store: Store, prefix: str, path: str, sink: pa.BufferOutputStream, rows: int) -> FileEntry:
    content = sink.getvalue().to_pybytes()
    store.put(f"{prefix}/{path}", content)
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(path=path, bytes=len(content), sha256=digest, rows=rows, split=SPLIT)
