"""Rings as drawings, with a model and samples, for tests of the report."""

import json

import numpy as np
import pyarrow as pa
from published import publish_contents

from pipelines.drawings.parquet import shard_name, shard_schema, write_shard
from pipelines.store.artifacts import Store
from pipelines.store.manifest import InputRef, Manifest

NAMES = ("bee", "The Eiffel Tower", 'sea <turtle> & "co"')


def rings(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rings of random size and place; each class has more of them."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(NAMES)), per_class)
    y, x = np.mgrid[:28, :28]
    images = np.zeros((len(labels), 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        for _ in range(label + 1):
            center, radius = rng.uniform(8, 20, 2), rng.uniform(3, 8)
            off = np.abs(np.hypot(y - center[0], x - center[1]) - radius)
            np.maximum(image, (255 * np.clip(1.5 - off, 0, 1)).astype(np.uint8), out=image)
    return images, labels


def publish(store: Store, kind: str, files: dict[str, tuple], inputs=(), **summary) -> Manifest:
    """Publish splits of drawings, or texts, as an artifact."""
    extra = {"bits_per_dim": pa.float32()} if kind == "samples" else {}
    contents = {}
    for name, content in files.items():
        if not isinstance(content, tuple):
            contents[name] = (content, None, None)
            continue
        images, labels = content
        columns = {"label": labels} | {column: np.full(len(labels), 1.5) for column in extra}
        shard = write_shard(images, columns, shard_schema(NAMES, (28, 28), extra))
        contents[shard_name(name, 0, 1)] = (shard, len(labels), name)
    return publish_contents(
        store,
        kind,
        contents,
        name="rings",
        spec={"files": sorted(files), "summary": sorted(summary)},
        inputs=inputs,
        summary={"class_names": list(NAMES), "image_shape": [28, 28]} | summary,
    )


def ref(role: str, manifest: Manifest) -> InputRef:
    """Return an entry of lineage."""
    return InputRef(role=role, kind=manifest.kind, name=manifest.name, digest=manifest.digest)


def make_chain(store: Store) -> tuple[Manifest, Manifest, Manifest]:
    """Publish a dataset, what the page needs of a model, and samples."""
    source = InputRef(role="source", kind="source", name="rings", digest="7" * 64)
    counts = {split: dict.fromkeys(NAMES, 60) for split in ("train", "test")}
    dataset = publish(
        store,
        "datasets",
        {"train": rings(1, 60), "test": rings(2, 60)},
        (source,),
        counts=counts,
        dropped={"blank": {"bee": 3}, "too_much_ink": {"bee": 1}},
    )
    rows = [{"nimg": 32 * i, "loss_bpd": 3 - 0.02 * i} for i in range(1, 60)]
    rows[-1]["validation_bpd"] = 1.9
    by_class = {name: {"bits_per_dim": 1.8, "bits_per_dim_stderr": 0.02} for name in NAMES}
    test = {"bits_per_dim": 1.85, "bits_per_dim_stderr": 0.01, "classes": by_class}
    texts = {
        "curve.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "evaluation.json": json.dumps({"test": test}).encode(),
    }
    model = publish(store, "models", texts, (ref("dataset", dataset),))
    samples = publish(store, "samples", {"train": rings(3, 40)}, (ref("model", model),))
    return dataset, model, samples
