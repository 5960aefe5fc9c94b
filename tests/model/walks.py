"""Drawings that are random walks, published as a dataset or samples, for tests of the audit."""

import hashlib

import numpy as np
import pyarrow as pa
from published import publish_contents

from pipelines.drawings.parquet import shard_name, shard_schema, write_shard
from pipelines.store.artifacts import Store
from pipelines.store.manifest import InputRef, Manifest

NAMES = ("bee", "sea turtle", "sun")


def strokes(rng: np.random.Generator, count: int, label: int) -> np.ndarray:
    """Return drawings of one random walk each; each class begins in another corner."""
    images = np.zeros((count, 28, 28), np.uint8)
    place = np.tile([4 + 8 * label, 6], (count, 1))
    for _ in range(60):
        place = np.clip(place + rng.integers(-1, 2, place.shape), 0, 27)
        images[np.arange(count), place[:, 0], place[:, 1]] = 255
    return images


def drawings(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Return shuffled drawings of each class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(NAMES)), per_class)
    images = np.concatenate([strokes(rng, per_class, label) for label in range(len(NAMES))])
    order = rng.permutation(len(labels))
    return images[order], labels[order]


def publish(
    store: Store, kind: str, splits: dict, *, shards: int = 2, names=NAMES, **summary
) -> Manifest:
    """Publish drawings; samples get their row as sample_index and 2 bits/dim."""
    extra = {"bits_per_dim": pa.float32()} if kind == "samples" else {}
    spec = {"splits": {k: hashlib.sha256(v[0].tobytes()).hexdigest() for k, v in splits.items()}}
    inputs = (InputRef(role="source", kind="source", name="walks", digest="1" * 64),)
    contents = {}
    for split, (images, labels) in splits.items():
        for index, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
            columns = {"label": labels[rows]} | {name: np.full(len(rows), 2.0) for name in extra}
            content = write_shard(images[rows], columns, shard_schema(names, (28, 28), extra))
            contents[shard_name(split, index, shards)] = (content, len(rows), split)
    return publish_contents(
        store,
        kind,
        contents,
        name="walks",
        spec=spec,
        inputs=inputs,
        summary={"class_names": list(names), "image_shape": [28, 28]} | summary,
    )
