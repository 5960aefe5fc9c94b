"""A small trained model and drawings of two classes, in a store: rows and columns of ink."""

import dataclasses
import hashlib

import numpy as np
import torch

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN, initialize_from_data
from model.network.weights import model_files
from pipelines.drawings.parquet import shard_schema, write_shard
from pipelines.store.artifacts import Store
from pipelines.store.manifest import FileEntry, InputRef, Manifest, artifact_digest

CLASS_NAMES = ("row", "column")
CONFIG = PixelCNNConfig(
    image_shape=(4, 4, 1),
    num_resnet=1,
    num_hierarchies=2,
    num_filters=4,
    num_logistic_mix=3,
    high=3,
    dropout_p=0.0,
    condition=ConditionConfig(kind="embedding", num_classes=2, embedding_dim=4),
)
BYTES = dataclasses.replace(CONFIG, high=255)
INK = 3


def drawings(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 4, 4) and labels: a row of ink, a column of ink, a row, ..."""
    labels = np.arange(num) % 2
    images = np.zeros((num, 4, 4), np.uint8)
    for i, place in enumerate(np.random.default_rng(seed).integers(0, 4, num)):
        if labels[i] == 0:
            images[i, place] = INK
        else:
            images[i, :, place] = INK
    return images, labels


def trained() -> PixelCNN:
    """Return a model that has seen enough of both classes to tell them apart."""
    torch.manual_seed(0)
    model = PixelCNN(CONFIG)
    initialize_from_data(model, *_tensors(32, seed=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(60):
        optimizer.zero_grad()
        (-model(*_tensors(32, seed=step)).mean()).backward()
        optimizer.step()
    return model.eval()


def publish_drawings(store: Store, images: np.ndarray, labels: np.ndarray) -> Manifest:
    """Publish drawings as both the training and the test split of a dataset."""
    content = write_shard(images, {"label": labels}, shard_schema(CLASS_NAMES, (4, 4)))
    spec = {"sha": hashlib.sha256(content).hexdigest()}
    return _publish(
        store,
        Manifest(
            kind="datasets",
            name="strokes",
            digest=artifact_digest("datasets", spec, ()),
            spec=spec,
            summary={"class_names": list(CLASS_NAMES), "image_shape": [4, 4]},
            files=(),
        ),
        {f"data/{split}-00000-of-00001.parquet": content for split in ("test", "train")},
        rows=len(labels),
    )


def publish_model(store: Store, model: PixelCNN, dataset: Manifest, name: str) -> Manifest:
    """Publish a model that learned from a dataset; its classes are this dataset's."""
    inputs = (InputRef(role="dataset", kind="datasets", name="strokes", digest=dataset.digest),)
    kind = model.config.condition.kind
    names = CLASS_NAMES if kind != "none" else ()
    spec = {"kind": kind, "name": name}
    manifest = Manifest(
        kind="models",
        name=name,
        digest=artifact_digest("models", spec, inputs),
        spec=spec,
        inputs=inputs,
        summary={"class_names": list(CLASS_NAMES), "image_shape": [4, 4]},
        files=(),
    )
    return _publish(store, manifest, model_files(model, class_names=names))


def _publish(
    store: Store, manifest: Manifest, files: dict[str, bytes], rows: int | None = None
) -> Manifest:
    entries = []
    for path, content in files.items():
        store.put(f"{manifest.prefix}/{path}", content)
        sha256 = hashlib.sha256(content).hexdigest()
        split = path.removeprefix("data/").partition("-")[0] if rows else None
        entries.append(
            FileEntry(path=path, bytes=len(content), sha256=sha256, rows=rows, split=split)
        )
    return store.publish(dataclasses.replace(manifest, files=tuple(entries)))


def _tensors(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = drawings(num, seed)
    return torch.from_numpy(images)[:, None].float(), torch.from_numpy(labels)
