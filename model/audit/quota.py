"""Sample in rounds until every class has its number of accepted drawings.

    round 0: draw what is wanted; round k: draw what is missing, over the class's acceptance rate

Every round is a separate samples dataset with an audit, so an interrupted run resumes in its round.
The result is a samples dataset of the accepted drawings, in the order of the rounds, with the
number of rejected drawings by reason; the rounds may then be deleted.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.audit.filters import Filters
from model.audit.gate import Limit, check_gate, require_passed
from model.audit.quota_rows import (
    AcceptedRows,
    QuotaSamples,
    Tally,
    put_samples,
    read_drawn,
    reject_known,
    wanted_rows,
)
from model.audit.run import AuditSpec, audit_samples, kept_rows, measure_samples, read_audit
from model.sampling.card import manner
from model.sampling.shards import sample_dataset
from model.sampling.spec import Arithmetic, SampleSpec
from model.sampling.units import SPLIT, Engine
from pipelines.drawings.reading import split_shards
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.leases import holding
from pipelines.store.manifest import InputRef, Manifest, artifact_digest

MAX_ROUNDS = 12
# Incremented when equal specs give other files.
QUOTA_VERSION = 2
# Upper bound on oversampling in a round, for classes with a very low acceptance rate.
_MAX_FACTOR = 20.0


class QuotaError(RuntimeError):
    """A class did not fill its quota within the rounds; the message gives the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSpec:
    """What is wanted: accepted drawings of each class, and what decides the drawing."""

    counts: Mapping[str, int]
    filters: Filters
    seed: int = 0
    temperature: float = 1.0
    guidance: float = 0.0
    batch_size: int = 64
    arithmetic: Arithmetic = "torch"

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return {
            "task": "quota",
            "version": QUOTA_VERSION,
            "counts": dict(self.counts),
            "filters": self.filters.to_json(),
            "seed": self.seed,
            "temperature": self.temperature,
            "guidance": self.guidance,
        } | self._arithmetic()

    def _arithmetic(self) -> dict[str, Any]:
        """Return what counts of the two, as in model.sampling.spec.spec_to_json."""
        if self.arithmetic == "portable":
            return {"arithmetic": self.arithmetic}
        return {"batch_size": self.batch_size}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The model, its training dataset, and a judge if filters use one."""

    model: Manifest
    dataset: Manifest
    judge: Manifest | None = None

    def inputs(self) -> tuple[InputRef, ...]:
        """Return the lineage of the result."""
        roles = {"model": self.model, "dataset": self.dataset, "judge": self.judge}
        return tuple(made.ref(role) for role, made in roles.items() if made is not None)


def fill_quotas(
    spec: QuotaSpec,
    sources: Sources,
    store: Store,
    name: str,
    *,
    gate: Sequence[Limit] = (),
    processes: int = 0,
    engine: Engine | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Return a samples dataset with exactly the accepted drawings that are wanted.

    Raises QuotaError if a class is not filled after MAX_ROUNDS rounds, GateError if the accepted
    drawings fail a limit of the gate; nothing is published then.
    """
    digest = artifact_digest("samples", spec.to_json(), sources.inputs())
    if found := store.reuse("samples", name, digest):
        _check(found, sources, store, gate)
        return found
    tally, total = Tally(), sum(spec.counts.values())
    for number in range(MAX_ROUNDS):
        missing = missing_counts(spec, tally)
        if not missing:
            break
        sampling = round_spec(spec, tally, missing, number)
        drawn = sample_dataset(
            sampling,
            sources.model,
            store,
            f"{name[:52]}-round-{number}",
            processes=processes,
            engine=engine,
            progress=progress,
        )
        with doing("quota", f"auditing round {number}"):
            _take_round(spec, sources, store, drawn, tally)
        progress("quota", sum(tally.accepted.values()), total, f"round {number}")
    if missing := missing_counts(spec, tally):
        worst = ", ".join(f"{c}: {tally.accepted[c]} of {spec.counts[c]}" for c in missing)
        raise QuotaError(f"after {MAX_ROUNDS} rounds the filters have accepted too few: {worst}")
    samples = _quota_samples(spec, sources, name, tally)
    with holding(store, [samples.prefix], "quota"):
        manifest = put_samples(samples, store)
        _check(manifest, sources, store, gate)
        return store.publish(manifest)


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
        guidance=spec.guidance,
        batch_size=spec.batch_size,
        arithmetic=spec.arithmetic,
    )


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round: the seed itself, then seeds unlikely to be chosen by a user.

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
        tally.drawn[class_name] += sum(counts.values())
        for reason in sorted(set(counts) - {"accepted"}):
            tally.reject(class_name, reason, counts[reason])
    tally.rounds.append(
        {
            "name": drawn.name,
            "digest": drawn.digest,
            "audit": audit.digest,
            "seed": drawn.spec["seed"],
            "spec": drawn.spec,
        }
    )
    masks = kept_rows(audit, drawn)
    earlier, hashes = list(tally.picks), [tally.hashes]
    for entry in split_shards(drawn, SPLIT):
        kept = masks[entry.path]
        content = bytes(store.checked(kept.path, kept.bytes, kept.sha256))
        mask = np.load(io.BytesIO(content), allow_pickle=False)
        shard = read_drawn(drawn, entry.path, store)
        reject_known(spec.filters, tally, shard, mask, earlier=earlier, store=store)
        rows = wanted_rows(spec.counts, tally, shard, mask)
        tally.picks.append(AcceptedRows(drawn, entry.path, rows))
        hashes.append(shard.hashes[rows])
    tally.hashes = np.sort(np.concatenate(hashes))


def _quota_samples(spec: QuotaSpec, sources: Sources, name: str, tally: Tally) -> QuotaSamples:
    rules = json.dumps(spec.filters.to_json())
    return QuotaSamples(
        name=name,
        spec=spec.to_json(),
        inputs=sources.inputs(),
        model=sources.model,
        class_names=tuple(spec.counts),
        picks=tally.picks,
        how=f"with seed {spec.seed} and others that follow from it (`rounds` in manifest.json)\n"
        f"{manner(spec.temperature, spec.guidance)}, until the filters `{rules}`\n"
        f"had accepted them: {tally.drawn.total():,} were drawn",
        details={
            "drawn": dict(tally.drawn),
            "rejected": {name: dict(reasons) for name, reasons in tally.reasons.items()},
            "rounds": tally.rounds,
        },
    )


def _check(samples: Manifest, sources: Sources, store: Store, gate: Sequence[Limit]) -> None:
    """Raise GateError if the drawings fail a limit."""
    if gate:
        numbers, _ = measure_samples(
            samples, sources.dataset, store, spec=AuditSpec(), judge=sources.judge
        )
        require_passed(check_gate(gate, numbers))
