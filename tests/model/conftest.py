"""A very small dataset in a store of its own; helper modules of this folder are importable."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from model.network.config import ConditionConfig, PixelCNNConfig
from model.training.spec import TrainSpec, apply_overrides, fit_to_dataset
from pipelines.drawings.parquet import shard_schema, write_shard
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import FileEntry, Manifest, artifact_digest

sys.path.insert(0, str(Path(__file__).parent))

CLASS_NAMES = ("bar", "dot", "ring")
MakeDataset = Callable[..., Manifest]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """Publish `rows` labelled 8x8 drawings a split, in shards of 16 rows."""
    return publish_dataset


def draw(rng: np.random.Generator, name: str) -> np.ndarray:
    """Return one 8x8 drawing: a bar, a dot or a ring at a random place, or a post."""
    canvas = np.zeros((8, 8), np.uint8)
    row, column = rng.integers(1, 5, 2)
    ink = np.uint8(rng.integers(180, 256))
    if name == "bar":
        canvas[row, :] = ink
    elif name == "post":
        canvas[:, column] = ink
    elif name == "dot":
        canvas[row : row + 2, column : column + 2] = ink
    else:
        canvas[row - 1 : row + 3, column - 1 : column + 3] = ink
        canvas[row : row + 2, column : column + 2] = 0
    return canvas


def publish_dataset(
    store: Store, *, rows: int = 48, seed: int = 0, class_names: Sequence[str] = CLASS_NAMES
) -> Manifest:
    splits = {"train": rows, "validation": max(rows // 4, 3), "test": max(rows // 4, 3)}
    spec = {"rows": rows, "seed": seed}
    if class_names != CLASS_NAMES:
        spec["class_names"] = list(class_names)
    digest = artifact_digest("datasets", spec, ())
    schema = shard_schema(class_names, (8, 8))
    entries = []
    for split_index, (split, count) in enumerate(splits.items()):
        rng = np.random.default_rng((seed, split_index))
        labels = np.arange(count) % len(class_names)
        images = np.stack([draw(rng, class_names[label]) for label in labels])
        for start in range(0, count, 16):
            part = slice(start, start + 16)
            content = write_shard(images[part], {"label": labels[part]}, schema)
            path = f"data/{split}-{start:05d}.parquet"
            store.put(f"datasets/tiny/{digest}/{path}", content)
            entries.append(
                FileEntry(
                    path=path,
                    bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                    rows=len(labels[part]),
                    split=split,
                )
            )
    summary = {"class_names": list(class_names), "image_shape": [8, 8], "counts": splits}
    manifest = Manifest(
        kind="datasets",
        name="tiny",
        digest=digest,
        spec=spec,
        files=tuple(entries),
        summary=summary,
    )
    return store.publish(manifest)


@pytest.fixture(scope="session")
def small_spec() -> Callable[..., TrainSpec]:
    """Return a spec that trains on 8x8 drawings in a fraction of a second."""
    return make_spec


def make_spec(dataset: Manifest, *assignments: str) -> TrainSpec:
    network = PixelCNNConfig(
        image_shape=(8, 8, 1),
        num_resnet=1,
        num_hierarchies=2,
        num_filters=4,
        num_logistic_mix=2,
        dropout_p=0.25,
        condition=ConditionConfig(kind="embedding", num_classes=3, embedding_dim=4),
    )
    spec = TrainSpec(
        network=network,
        budget_nimg=48,
        batch_size=8,
        learning_rate=0.01,
        muon_learning_rate=0.05,
        warmup_nimg=16,
        decay="cosine",
        clip_norm=100.0,
        ema_halflife_nimg=32,
        init_nimg=16,
    )
    return apply_overrides(fit_to_dataset(spec, dataset), assignments)
