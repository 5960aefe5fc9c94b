"""What the likelihood is good for beyond generation: finding odd drawings, and classifying.

    bits/dim     -log2 p(drawing | its class) / dimensions: high for scribbles, for drawings that
                 are not what their label says, and for those with much detail
    posterior    p(class | drawing) by Bayes' rule from p(drawing | class) of every class and a
                 prior; low at its own label for a mislabeled drawing, and so telling that
                 apart from mere detail

A posterior costs a forward pass per class: the condition enters every block, so classes share
nothing. Images and classes are put through together, so that few images fill batches too.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.config import LABEL_KINDS, PixelCNNConfig
from model.pixelcnn import PixelCNN
from model.sampling.draw import label_condition

Batch = tuple[Tensor, Tensor]

# Kinds of condition that one label can state.
_CLASSIFYING_KINDS = (*LABEL_KINDS, "multi_label", "scalar")
# 64 drawings of 28x28 at 128 filters need 1.5 GB in the widest place of the network.
BATCH_SIZE = 64


class Score(NamedTuple):
    """One drawing's place in a ranking; row counts from 0 in the order of the batches."""

    row: int
    label: int
    bits_per_dim: float


def score_batches(model: PixelCNN, batches: Iterable[Batch]) -> Iterator[Score]:
    """Yield the score of each drawing of batches (images, labels) under its own label.

    Images are [batch, channels, height, width]; they go to the model's device. Raises
    ValueError if the model is conditioned on something else than a label.
    """
    row, device = 0, model.network.output.bias.device
    for value, label in batches:
        given = label_condition(model.config, label.numpy(force=True))
        with _evaluating(model):
            given = None if given is None else given.to(device)
            bits = model.bits_per_dim(value.to(device), given).double()
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
    """Return log p(value | class) in nats for every class, in float64, on the model's device.

    num_classes: needed where the config has none. batch_size counts pairs of an image and a
    class. Raises ValueError if the model is not conditioned on one label.
    """
    check_classifies(model.config)
    count = model.config.condition.num_classes or num_classes
    if count is None:
        raise ValueError("the model's config has no num_classes: say how many classes there are")
    device, parts = model.network.output.bias.device, []
    pairs = torch.arange(len(value) * count)
    for index in pairs.split(batch_size):
        condition = label_condition(model.config, (index % count).numpy())
        assert condition is not None
        with _evaluating(model):
            chosen = value[(index // count).to(value.device)].to(device)
            parts.append(model.log_prob(chosen, condition.to(device)).double())
    return torch.cat(parts).view(len(value), count)


def posterior(
    log_probs: Float[Tensor, "batch classes"], prior: Float[Tensor, " classes"] | None = None
) -> Float[Tensor, "batch classes"]:
    """Return p(class | drawing); prior probabilities need not sum to 1, uniform if not given.

    >>> posterior(torch.tensor([[0.0, 0.0]]), torch.tensor([3.0, 1.0]))
    tensor([[0.7500, 0.2500]])
    """
    weighted = log_probs if prior is None else log_probs + prior.to(log_probs).log()
    return torch.softmax(weighted, dim=1)


def confusion(
    label: Int[Tensor, " batch"], chosen: Int[Tensor, " batch"], num_classes: int
) -> npt.NDArray[np.int64]:
    """Return how many drawings of each label (row) were taken for each class (column).

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = label.long().cpu() * num_classes + chosen.long().cpu()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, -1).numpy()


@contextmanager
def _evaluating(model: PixelCNN) -> Iterator[None]:
    """Evaluate without gradients; give the model its own mode back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
