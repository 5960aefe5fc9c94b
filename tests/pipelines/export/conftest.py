"""Small datasets in a store, as the build and the sampler leave them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.drawings.credit import GOOGLES
from pipelines.drawings.parquet import shard_name, shard_schema, write_shard
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import FileEntry, InputRef, Manifest, artifact_digest, artifact_prefix

NAMES = ("bee", "The Eiffel Tower", "sea turtle")


class Drawn:
    """A published dataset and the pixels and labels of its splits, in order."""

    def __init__(self, manifest: Manifest, images: Mapping, labels: Mapping) -> None:
        self.manifest, self.images, self.labels = manifest, images, labels


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def make_dataset():
    return publish_dataset


@pytest.fixture
def dataset(store: Store) -> Drawn:
    return publish_dataset(store, {"train": (7, 0, 12), "test": (5,)})


def publish_dataset(
    store: Store,
    shards: Mapping[str, tuple[int, ...]],
    *,
    names: tuple[str, ...] = NAMES,
    kind: str = "datasets",
    shape: tuple[int, int] = (28, 28),
    extra: Mapping[str, pa.DataType] | None = None,
    seed: int = 0,
) -> Drawn:
    """Publish random drawings in shards of these sizes; `extra` columns hold the row number."""
    rng = np.random.default_rng(seed)
    spec = {"seed": seed, "shards": {k: list(v) for k, v in shards.items()}, "names": list(names)}
    inputs = (InputRef(role="source", kind="source", name="random", digest="5" * 64),)
    digest = artifact_digest(kind, spec, inputs)
    prefix = artifact_prefix(kind, "small", digest)
    schema = shard_schema(names, shape, extra)
    entries, images, labels = [], {}, {}
    for split, sizes in shards.items():
        pixels = rng.integers(0, 256, (sum(sizes), *shape), np.uint8)
        classes = rng.integers(0, len(names), sum(sizes))
        images[split], labels[split] = pixels, classes
        start = 0
        for index, rows in enumerate(sizes):
            part = slice(start, start + rows)
            numbers = pa.array(range(start, start + rows), pa.int64())
            columns = {"label": classes[part]}
            columns |= {name: numbers.cast(kind) for name, kind in (extra or {}).items()}
            content = write_shard(pixels[part], columns, schema)
            path = shard_name(split, index, len(sizes))
            store.put(f"{prefix}/{path}", content)
            digest_of_file = hashlib.sha256(content).hexdigest()
            entries.append(
                FileEntry(
                    path=path, bytes=len(content), sha256=digest_of_file, rows=rows, split=split
                )
            )
            start += rows
    manifest = Manifest(
        kind=kind,
        name="small",
        digest=digest,
        spec=spec,
        inputs=inputs,
        files=tuple(entries),
        summary={"class_names": list(names), "image_shape": list(shape)} | GOOGLES.to_json(),
    )
    return Drawn(store.publish(manifest), images, labels)
