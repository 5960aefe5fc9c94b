"""Outlier scores and Bayes classification from the likelihood.

    bits/dim     -log2 p(drawing | its class) / dimensions: high for scribbles, mislabeled drawings
                 and drawings with much detail
    posterior    p(class | drawing) by Bayes' rule from p(drawing | class) of every class and a
                 prior: low at the own label for a mislabeled drawing, not for a detailed one

A posterior costs one forward pass per class, since the condition enters every block. Batches
consist of pairs of an image and a class, so that a few images fill them too.

Over a split, a generative model classifies by Bayes' rule:

    p(class | drawing) = p(drawing | class) p(class) / sum over classes of the same

with a uniform p(class), so the prediction is the class with the highest likelihood. All classes of
the model compete, including those without drawings in the split.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.data import Drawings
from model.evaluation.likelihood import Likelihood
from model.network.config import LABEL_KINDS, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.ranks import Ranks
from pipelines.processes.progress import Progress, no_progress

Batch = tuple[Tensor, Tensor]

# Kinds of condition that a single label determines.
_CLASSIFYING_KINDS = (*LABEL_KINDS, "multi_label", "scalar")
# 64 drawings of 28x28 at 128 filters need 1.5 GB in the widest layer.
BATCH_SIZE = 64


class Score(NamedTuple):
    """The score of one drawing; row counts from 0 in the order of the batches."""

    row: int
    label: int
    bits_per_dim: float


def score_batches(model: PixelCNN, batches: Iterable[Batch]) -> Iterator[Score]:
    """Yield the score of each drawing of batches (images, labels) under its own label.

    Images are [batch, channels, height, width]; they are moved to the model's device. Raises
    ValueError unless the model is conditioned on a label.
    """
    row, measure = 0, Likelihood(model, batch_size=BATCH_SIZE)
    for value, label in batches:
        bits = measure(value, label.numpy(force=True)) / (-math.log(2) * model.config.num_dims)
        for own, one in zip(label.tolist(), bits.tolist(), strict=True):
            yield Score(row, own, one)
            row += 1


def worst(scores: Iterable[Score], num: int) -> list[Score]:
    """Return the `num` least likely drawings, the least likely first; ties in order of rows.

    >>> worst([Score(0, 5, 1.5), Score(1, 5, 2.5), Score(2, 7, 2.5)], 2)
    [Score(row=1, label=5, bits_per_dim=2.5), Score(row=2, label=7, bits_per_dim=2.5)]
    """
    return sorted(scores, key=lambda score: (-score.bits_per_dim, score.row))[:num]


def check_classifies(config: PixelCNNConfig) -> None:
    """Raise ValueError unless the model is conditioned on one class label."""
    if config.condition.kind not in _CLASSIFYING_KINDS:
        raise ValueError(
            f"a classifier needs a model of one label, found condition kind "
            f"{config.condition.kind!r}; expected one of {', '.join(_CLASSIFYING_KINDS)}"
        )


def class_log_probs(
    model: PixelCNN, value: Tensor, *, num_classes: int | None = None, batch_size: int = BATCH_SIZE
) -> Float[Tensor, "batch classes"]:
    """Return log p(value | class) in nats for every class, in float64 on the CPU.

    num_classes: needed where the config has none. batch_size counts pairs of an image and a
    class. Raises ValueError if the model is not conditioned on one label.
    """
    check_classifies(model.config)
    count = model.config.condition.num_classes or num_classes
    if count is None:
        raise ValueError("the model's config has no num_classes: say how many classes there are")
    measure, pairs = Likelihood(model, batch_size=batch_size), torch.arange(len(value) * count)
    found = [
        measure(value[(index // count).to(value.device)], (index % count).numpy())
        for index in pairs.split(measure.batch)
    ]
    return torch.cat(found).view(len(value), count)


def posterior(log_probs: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return p(class | drawing) where all classes are equally frequent.

    >>> posterior(torch.tensor([[3.0, 1.0]]).log())
    tensor([[0.7500, 0.2500]])
    """
    return torch.softmax(log_probs, dim=1)


def confusion(
    label: Int[Tensor, " batch"], chosen: Int[Tensor, " batch"], num_classes: int
) -> npt.NDArray[np.int64]:
    """Return the confusion matrix: counts by label (row) and predicted class (column).

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = label.long().cpu() * num_classes + chosen.long().cpu()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, -1).numpy()


def split_class_nats(
    network: PixelCNN,
    drawings: Drawings,
    *,
    ranks: Ranks,
    rows: npt.NDArray[np.int64],
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
) -> npt.NDArray[np.float64]:
    """Return -log p(drawing | class) in nats of `rows`, (n, classes), the same on every rank.

    Classes are drawings.class_names, which must be the model's. batch_size counts pairs of a
    drawing and a class; progress, drawings of the rank that calls. Raises ValueError if the
    model is not conditioned on a label.
    """
    check_classifies(network.config)
    num_classes = len(drawings.class_names)
    share = -(-len(rows) // ranks.size)
    mine = rows[ranks.rank * share : (ranks.rank + 1) * share]
    step, parts = max(1, batch_size // num_classes), [np.zeros(0)]
    for start in range(0, len(mine), step):
        images, _ = drawings.tensors(mine[start : start + step])
        found = class_log_probs(network, images, num_classes=num_classes, batch_size=batch_size)
        parts.append(-found.flatten().cpu().numpy())
        progress("classify", start + len(images), len(mine), f"{num_classes} classes")
    return ranks.gather(np.concatenate(parts)).reshape(-1, num_classes)


def summarize_classes(
    class_nats: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Return accuracy, its standard error, recall by class and the confusion, as JSON values.

    confusion[i][j] counts drawings of class i predicted as class j; the recalls omit classes
    without drawings. Ties go to the first class.
    """
    num_classes, count = len(class_names), len(labels)
    chosen = class_nats.argmin(axis=1)
    table = confusion(torch.from_numpy(labels), torch.from_numpy(chosen), num_classes)
    accuracy = float((chosen == labels).mean())
    return {
        "accuracy": accuracy,
        "accuracy_stderr": float(np.sqrt(accuracy * (1 - accuracy) / count)),
        "chance": 1 / num_classes,
        "recall": {
            name: int(table[i, i]) / int(table[i].sum())
            for i, name in enumerate(class_names)
            if table[i].any()
        },
        "class_names": list(class_names),
        "confusion": table.tolist(),
    }
