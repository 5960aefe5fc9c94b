"""One shard of samples: its place, its bytes, and its drawing as a unit of work of an engine."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from model.sampling.card import COLUMNS
from model.sampling.drawer import Drawer, Drawn, one_thread, open_drawer, shard_rows
from model.sampling.spec import SampleSpec, samples_digest, shard_batches, shard_size
from pipelines.drawings.parquet import shard_name, shard_schema, write_shard
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest, artifact_prefix

SPLIT = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWork:
    """Draws a shard on a machine that has the store: a unit of work of an engine.

    The model is opened once a process, which draws one shard at a time: on its GPU, or with one
    thread.
    """

    spec: SampleSpec
    model: Manifest
    name: str

    def __call__(self, shard: int, store: Store) -> Mapping[str, int]:
        """Put the shard unless the store has it; return what to count."""
        path = shard_path(self.spec, samples_prefix(self.spec, self.model, self.name), shard)
        if store.size(path) is None:
            with _ONE_AT_A_TIME, one_thread():
                drawer = _open_once(self, store)
                parts = [drawer.draw(batch) for batch in shard_batches(self.spec, shard)]
            store.create(path, shard_bytes(self.spec, self.model, shard, parts))
        return {"drawings": shard_size(self.spec, shard)}


class Engine(Protocol):
    """Does the work of all units, on other machines too, and returns when all is done."""

    def __call__(
        self, units: Sequence[int], work: ShardWork, *, pending: Mapping[str, int]
    ) -> object:
        """Do them; pending: drawings by the path that each unit puts."""
        ...


_ONE_AT_A_TIME = threading.Lock()
_drawers: dict[tuple[str, str], Drawer] = {}


def _open_once(work: ShardWork, store: Store) -> Drawer:
    """Return the drawer of this work, which is kept until another one is asked for."""
    key = store.url, samples_digest(work.spec, work.model)
    if key not in _drawers:
        _drawers.clear()
        _drawers[key] = open_drawer(store, work.model, work.spec)
    return _drawers[key]


def samples_prefix(spec: SampleSpec, model: Manifest, name: str) -> str:
    """Return the artifact's directory in its store."""
    return artifact_prefix("samples", name, samples_digest(spec, model))


def shard_path(spec: SampleSpec, prefix: str, shard: int) -> str:
    """Return a shard's path in the store."""
    return f"{prefix}/{shard_name(SPLIT, shard, spec.num_shards)}"


def shard_bytes(spec: SampleSpec, model: Manifest, shard: int, parts: Sequence[Drawn]) -> bytes:
    """Return a shard's Parquet file from the drawings of its batches."""
    rows = shard_rows(spec, shard)
    images = np.concatenate([part.images for part in parts])
    nats = np.concatenate([part.nats for part in parts])
    num_dims = images.shape[1] * images.shape[2]
    columns = {
        "label": rows.labels,
        "class_name": np.array(spec.class_names, object)[rows.labels],
        "sample_index": rows.indices,
        "seed": np.full(len(rows), spec.seed),
        "bits_per_dim": nats / (-np.log(2) * num_dims),
        "model": pa.repeat(model.digest, len(rows)),
        "dataset": pa.repeat(_dataset_digest(model), len(rows)),
    }
    return write_shard(images, columns, shard_schema(spec.class_names, images.shape[1:], COLUMNS))


def _dataset_digest(model: Manifest) -> str:
    """Return the dataset that a model learned from; empty for a model that was imported."""
    ref = model.input("dataset")
    return ref.digest if ref else ""
