"""A small CNN classifier of real drawings, used to score generated ones (`sketchmill judge`).

    3x3 conv 32, 32 | pool | 64, 64 | pool | 128 | mean over positions | 128 features | classes

Batch normalization and ReLU follow each convolution. The classifier is trained on the real
training split and published like any model, so that scores of different models are comparable if
they name the same classifier digest. Its 128 features (after ReLU) are the space of the Frechet
distance and of precision, recall, density and coverage. It is fixed and small, accurate enough to
separate the classes but not tuned for accuracy.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load, save
from torch import Tensor, nn

from model.data import Drawings, batch_rows, count_rows, open_split, order_key
from model.network.weights import library_versions
from model.options import Device, RunOptions, drawings_folder
from model.ranks import device_kind
from pipelines.drawings.credit import credit_of
from pipelines.processes.progress import Progress, advance, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest, artifact_digest, artifact_entries

NUM_FEATURES = 128
_BATCH_SIZE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSpec:
    """Training configuration. 300 thousand drawings take 2 minutes on two CPU cores."""

    architecture: str = "judge-cnn-1"
    image_shape: tuple[int, int] = (28, 28)
    num_classes: int
    budget_nimg: int = 300_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    max_shift: int = 2
    seed: int = 0


class Classifier(nn.Module):
    """Classifies drawings; `features` is the space in which sets of drawings are compared."""

    def __init__(self, num_classes: int) -> None:
        """Create an untrained classifier."""
        super().__init__()
        self.stages = nn.Sequential(
            _stage(1, 32), _stage(32, 32), nn.MaxPool2d(2),
            _stage(32, 64), _stage(64, 64), nn.MaxPool2d(2),
            _stage(64, NUM_FEATURES),
        )  # fmt: skip
        self.output = nn.Linear(NUM_FEATURES, num_classes)

    def features(
        self, images: UInt8[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the features of drawings, non-negative."""
        scaled = images.to(self.output.weight.dtype) / 127.5 - 1
        return self.stages(scaled).mean((2, 3))

    def forward(
        self, images: UInt8[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return a logit for every class."""
        return self.output(self.features(images))


def train_classifier(
    spec: ClassifierSpec,
    dataset: Manifest,
    store: Store,
    name: str,
    *,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
) -> Manifest:
    """Return the classifier of a dataset; train and publish it if it is not in the store.

    Its manifest's summary holds the accuracy on real test drawings, the upper bound for samples.
    """
    digest = classifier_digest(spec, dataset)
    if found := store.reuse("models", name, digest):
        return found
    folder = drawings_folder(options or RunOptions(), store)
    splits = {
        split: open_split(store, dataset, split=split, cache_dir=folder)
        for split in ("train", "test")
    }
    judge = fit_classifier(
        spec,
        splits["train"],
        dataset_digest=dataset.digest,
        device=(options or RunOptions()).device,
        progress=progress,
    )
    predicted = predict(judge, splits["test"].images)
    accuracy = float((predicted == splits["test"].labels).mean())
    return _publish_classifier(judge, spec, dataset, store, name, accuracy=accuracy)


def classifier_spec(dataset: Manifest) -> ClassifierSpec:
    """Return a dataset's default spec: five passes, or 5 million drawings."""
    rows = count_rows(dataset, "train")
    height, width = dataset.summary["image_shape"][:2]
    return ClassifierSpec(
        image_shape=(height, width),
        num_classes=len(dataset.summary["class_names"]),
        budget_nimg=min(5 * rows, 5_000_000),
    )


def classifier_digest(spec: ClassifierSpec, dataset: Manifest) -> str:
    """Return the digest of the classifier for this spec and dataset."""
    return artifact_digest("models", dataclasses.asdict(spec), (dataset.ref("dataset"),))


@doing("judge", "training", is_detail=True)
def fit_classifier(
    spec: ClassifierSpec,
    drawings: Drawings,
    *,
    dataset_digest: str,
    device: Device = "auto",
    progress: Progress = no_progress,
) -> Classifier:
    """Train a classifier: AdamW, one-cycle learning rate, random shifts of `max_shift` pixels.

    Returns it on the device that it was trained on: the GPU if device is "auto" and there is one.
    """
    place = torch.device(device_kind(device))
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        judge = Classifier(spec.num_classes).to(place)
    num_steps = max(1, spec.budget_nimg // spec.batch_size)
    optimizer = torch.optim.AdamW(
        judge.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, spec.learning_rate, total_steps=num_steps + 1, cycle_momentum=False
    )
    key = order_key(dataset_digest, split="train", seed=spec.seed)
    for step in range(num_steps):
        rows = batch_rows(len(drawings), spec.batch_size, key=key, step=step)
        images, labels = drawings.tensors(rows)
        images = shift(images, spec.max_shift, generator).to(place)
        loss = F.cross_entropy(judge(images), labels.to(place))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == num_steps - 1:
            done = (step + 1) * spec.batch_size
            progress("judge", done, num_steps * spec.batch_size, f"loss {loss.item():.3f}")
    return judge.eval()


def shift(
    images: UInt8[Tensor, "batch 1 height width"], max_shift: int, generator: torch.Generator
) -> UInt8[Tensor, "batch 1 height width"]:
    """Shift each drawing by a random whole number of pixels in both directions."""
    if max_shift == 0:
        return images
    batch, _, height, width = images.shape
    padded = F.pad(images, (max_shift,) * 4)
    offsets = torch.randint(0, 2 * max_shift + 1, (2, batch, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height))[:, :, None]
    columns = (offsets[1] + torch.arange(width))[:, None, :]
    index = torch.arange(batch)[:, None, None]
    return padded[index, 0, rows, columns][:, None]


def predict(judge: Classifier, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the predicted class of each drawing (n,)."""
    return _apply(judge, judge, images).argmax(1)


def probabilities(judge: Classifier, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the class probabilities of each drawing (n, classes) float64."""
    return _apply(judge, lambda batch: judge(batch).double().softmax(1), images)


def features(judge: Classifier, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the features of drawings (n, h, w) uint8 as (n, 128) float64."""
    return _apply(judge, judge.features, images)


def open_classifier(store: Store, manifest: Manifest) -> Classifier:
    """Load a published classifier; raise ValueError if the model is something else."""
    if manifest.summary.get("role") != "judge":
        raise ValueError(f"model {manifest.name}@{manifest.digest[:12]} is not a judge")
    judge = Classifier(manifest.spec["num_classes"])
    judge.load_state_dict(load(store.read(manifest, "judge.safetensors")))
    return judge.eval().to(device_kind("auto"))


def _apply(
    judge: Classifier, function: Any, images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    parts = []
    judge.eval()
    place = judge.output.weight.device
    with torch.inference_mode(), doing("judge", "classifying drawings", total=len(images)):
        for start in range(0, len(images), _BATCH_SIZE):
            batch = torch.from_numpy(np.array(images[start : start + _BATCH_SIZE]))
            parts.append(function(batch[:, None].to(place)).double().cpu().numpy())
            advance(len(batch))
    return np.concatenate(parts)


def _publish_classifier(
    judge: Classifier,
    spec: ClassifierSpec,
    dataset: Manifest,
    store: Store,
    name: str,
    *,
    accuracy: float,
) -> Manifest:
    class_names: Sequence[str] = list(dataset.summary["class_names"])
    config = {"class_names": class_names, "spec": dataclasses.asdict(spec)}
    card = (
        f"# Judge of drawings in {len(class_names)} classes\n\nA fixed classifier that scores "
        f"generated drawings. Accuracy on real test drawings: {accuracy:.4f}.\n\n"
        f"{credit_of(dataset.summary).statement}\n"
    )
    state = {key: value.cpu().contiguous() for key, value in judge.state_dict().items()}
    files = {
        "judge.safetensors": save(state),
        "config.json": (json.dumps(config, indent=1) + "\n").encode(),
        "README.md": card.encode(),
    }
    digest = classifier_digest(spec, dataset)
    manifest = Manifest(
        kind="models",
        name=name,
        digest=digest,
        spec=dataclasses.asdict(spec),
        inputs=(dataset.ref("dataset"),),
        files=artifact_entries(files),
        summary={"role": "judge", "class_names": class_names, "test_accuracy": accuracy},
        versions=library_versions(),
    )
    return store.publish_files(manifest, files)


def _stage(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
    )
