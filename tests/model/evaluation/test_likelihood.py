"""Likelihoods are those of the network whichever way they are computed."""

import numpy as np
import pytest
import torch

from model.evaluation import likelihood
from model.evaluation.likelihood import Likelihood
from model.network.conditioning import label_condition
from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.sampling import portable, spec

CONFIG = PixelCNNConfig(
    image_shape=(8, 8, 1),
    num_resnet=1,
    num_hierarchies=2,
    num_filters=4,
    num_logistic_mix=2,
    condition=ConditionConfig(kind="embedding_map", num_classes=3, embedding_dim=2),
)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return PixelCNN(CONFIG)


def drawings(count: int):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, 8, 8), np.uint8)
    return torch.from_numpy(images), np.arange(count) % 3


def ways(monkeypatch, way: str) -> None:
    """Make this machine one that has no compiler, whose compiler fails, or with little memory."""
    if way == "no compiler":
        monkeypatch.setattr(spec, "lack_here", lambda _config: "there is no C compiler")
    if way == "failing compiler":
        monkeypatch.setattr(portable, "library", lambda *_names: None)
    if way == "little memory":
        monkeypatch.setattr(likelihood, "_MAX_BYTES", 0)


@pytest.mark.parametrize("way", ["", "no compiler", "failing compiler", "little memory"])
@pytest.mark.parametrize("count", [1, 70])
def test_likelihoods_are_those_of_a_forward_pass(network, monkeypatch, way, count):
    ways(monkeypatch, way)
    images, labels = drawings(count)
    network.train()
    found = Likelihood(network, batch_size=64)(images, labels)
    assert network.training
    with torch.no_grad():
        expected = network.double().eval()(images, label_condition(CONFIG, labels))
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-5)


def test_images_that_do_not_fit_are_refused(network):
    images, labels = drawings(2)
    with pytest.raises(ValueError, match="expected images of shape"):
        Likelihood(network, batch_size=64)(images[:, :, 1:], labels)
