"""Sample a dataset from a model: Parquet shards in the standard layout, each made once.

    samples/<name>/<digest>/data/train-00000-of-00004.parquet ...   README.md
    drawings.png   manifest.json

A shard is created under its final name when it is complete, and never replaced, so every shard that
exists after an interruption is valid; its bytes follow from the spec and the shard's number. A
second run makes the missing shards and publishes. Shards have no unit records: a record lost after
its shard was written would cost minutes of a GPU, and another kind of GPU may round differently
from the existing shards. Columns: image, label, class_name, sample_index,
seed, bits_per_dim (of the model's own likelihood at temperature 1 and guidance 0), model and
dataset (the digests of the model and of the dataset that it learned from, empty if it names none).
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.network.weights import library_versions
from model.sampling.card import (
    CARD_NAME,
    SHEET_NAME,
    contact_sheet,
    dataset_card,
    manner,
    summarize,
)
from model.sampling.drawer import (
    Drawn,
    check_model,
    one_thread,
    open_drawer,
)
from model.sampling.spec import (
    SampleSpec,
    samples_digest,
    shard_batches,
    shard_size,
    spec_to_json,
)
from model.sampling.units import (
    SPLIT,
    Engine,
    ShardWork,
    samples_prefix,
    shard_bytes,
    shard_path,
)
from model.sampling.workers import drawing_processes, visible_gpus
from pipelines.drawings.parquet import open_shard, shard_name
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.leases import holding
from pipelines.store.manifest import (
    FileEntry,
    InputRef,
    Manifest,
    artifact_digest,
    artifact_prefix,
    file_entry,
)
from pipelines.store.scratch import missing_paths


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard that is in the store; of each class its rows and the sum of their bits/dim."""

    entry: FileEntry
    counts: npt.NDArray[np.int64]
    bits_per_dim: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples whose shards are in the store: their address, the model, and how it drew.

    how      the drawing in words, to stand after the model's name on the card
    details  fields of the summary that samples drawn at once have not
    """

    name: str
    spec: Mapping[str, Any]
    inputs: tuple[InputRef, ...]
    model: Manifest
    class_names: tuple[str, ...]
    how: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The address of the work."""
        return artifact_digest("samples", self.spec, self.inputs)

    @property
    def prefix(self) -> str:
        """The directory in the store."""
        return artifact_prefix("samples", self.name, self.digest)

    def put_card(
        self,
        shards: Sequence[FileEntry],
        store: Store,
        *,
        counts: npt.NDArray[np.int64],
        bits_per_dim: npt.NDArray[np.float64],
    ) -> Manifest:
        """Put card and picture, return the manifest; counts, bits_per_dim as in `summarize`."""
        summary = summarize(self.class_names, self.model, counts=counts, bits_per_dim=bits_per_dim)
        summary |= self.details
        card = dataset_card(self.model, self.name, summary, shards, how=self.how).encode()
        manifest = Manifest(
            kind="samples",
            name=self.name,
            digest=self.digest,
            spec=self.spec,
            inputs=self.inputs,
            files=tuple(shards),
            summary=summary,
            versions=library_versions(),
        )
        described = {CARD_NAME: card, SHEET_NAME: contact_sheet(manifest, store)}
        for name, content in described.items():
            store.put(f"{self.prefix}/{name}", content)
        entries = [file_entry(name, content) for name, content in described.items()]
        return dataclasses.replace(manifest, files=(*entries, *shards))


def sample_dataset(
    spec: SampleSpec,
    model: Manifest,
    store: Store,
    name: str,
    *,
    processes: int = 0,
    engine: Engine | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Return the drawings that `spec` makes with `model`, sampled unless the store has them.

    processes: 0 is one a GPU, or without GPUs one a core; of no meaning with an engine. Shards that
    an interrupted run has put are kept. Raises ValueError if the model cannot draw the spec,
    WorkerError if a process fails.
    """
    if found := store.reuse("samples", name, samples_digest(spec, model)):
        return found
    with holding(store, [samples_prefix(spec, model, name)], "sample"):
        make_shards(spec, model, store, name, processes=processes, engine=engine, progress=progress)
        return publish_samples(spec, model, store, name)


def make_shards(
    spec: SampleSpec,
    model: Manifest,
    store: Store,
    name: str,
    *,
    shards: Sequence[int] | None = None,
    processes: int = 0,
    engine: Engine | None = None,
    progress: Progress = no_progress,
) -> None:
    """Draw those of `shards` (None: of all) that the store lacks; nothing is published.

    Raises as `sample_dataset` does.
    """
    prefix = samples_prefix(spec, model, name)
    missing = missing_shards(spec, model, store, name, shards=shards)
    if not missing:
        return
    check_model(store, model, spec)
    if engine is not None:
        pending = {shard_path(spec, prefix, shard): shard_size(spec, shard) for shard in missing}
        engine(missing, ShardWork(spec=spec, model=model, name=name), pending=pending)
        return
    meter = _Meter(progress, sum(shard_size(spec, shard) for shard in missing))
    batches = [batch for shard in missing for batch in shard_batches(spec, shard)]
    with _drawing(spec, model, store, batches, processes=processes) as drawn:
        for shard in missing:
            parts = [meter.count(next(drawn)) for _ in shard_batches(spec, shard)]
            content = shard_bytes(spec, model, shard, parts)
            store.create(shard_path(spec, prefix, shard), content)


def missing_shards(
    spec: SampleSpec,
    model: Manifest,
    store: Store,
    name: str,
    *,
    shards: Sequence[int] | None = None,
) -> list[int]:
    """Return those of `shards` (None: of all) that the store lacks."""
    prefix = samples_prefix(spec, model, name)
    wanted = range(spec.num_shards) if shards is None else shards
    planned = {shard_path(spec, prefix, shard): shard for shard in wanted}
    return [planned[path] for path in missing_paths(store, prefix, planned)]


@doing("sample", "describing the shards")
def publish_samples(spec: SampleSpec, model: Manifest, store: Store, name: str) -> Manifest:
    """Publish shards that are all in the store; raise FileNotFoundError if one is not."""
    prefix = samples_prefix(spec, model, name)
    records = [_read_record(spec, store, prefix, shard) for shard in range(spec.num_shards)]
    samples = Samples(
        name=name,
        spec=spec_to_json(spec),
        inputs=(model.ref("model"),),
        model=model,
        class_names=tuple(spec.class_names),
        how=f"with seed {spec.seed} {manner(spec.temperature, spec.guidance)}",
    )
    manifest = samples.put_card(
        [record.entry for record in records],
        store,
        counts=np.sum([record.counts for record in records], axis=0),
        bits_per_dim=np.sum([record.bits_per_dim for record in records], axis=0),
    )
    return store.publish(manifest)


def _read_record(spec: SampleSpec, store: Store, prefix: str, shard: int) -> ShardRecord:
    content = store.get(shard_path(spec, prefix, shard))
    table = open_shard(content).read(["label", "bits_per_dim"])
    path = shard_name(SPLIT, shard, spec.num_shards)
    return describe_shard(path, content, table, len(spec.class_names))


def describe_shard(path: str, content: bytes, table: pa.Table, num_classes: int) -> ShardRecord:
    """Describe a shard by what it holds: its columns label and bits_per_dim."""
    labels = table["label"].to_numpy()
    weights = table["bits_per_dim"].to_numpy().astype(np.float64)
    return ShardRecord(
        file_entry(path, content, rows=table.num_rows, split=SPLIT),
        counts=np.bincount(labels, minlength=num_classes),
        bits_per_dim=np.bincount(labels, weights, minlength=num_classes).astype(np.float64),
    )


@contextlib.contextmanager
def _drawing(
    spec: SampleSpec, model: Manifest, store: Store, batches: Sequence[slice], *, processes: int
) -> Iterator[Iterator[Drawn]]:
    """Yield drawings batch by batch, from processes or, for one or a memory store, from here."""
    gpus = [] if spec.arithmetic == "portable" else visible_gpus()
    wanted = min(processes or len(gpus), len(gpus)) if gpus else processes or num_cores()
    num = min(wanted, len(batches))
    if num > 1 and not store.url.startswith("memory://"):
        with drawing_processes(spec, model, store, batches, num=num, gpus=gpus) as drawn:
            yield drawn
        return
    with one_thread():
        drawer = open_drawer(store, model, spec)
        yield (drawer.draw(batch) for batch in batches)


def num_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Meter:
    """Counts drawings and reports their rate."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._started = time.monotonic()
        progress("sample", 0, total, "starting")

    def count(self, drawn: Drawn) -> Drawn:
        """Report a batch and hand it on."""
        self._done += len(drawn.nats)
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        left = round((self._total - self._done) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        message = f"{rate:.3g} images/s, {clock} left"
        self._progress("sample", self._done, self._total, message)
        return drawn
