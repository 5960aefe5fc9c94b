"""Small configurations, one for each way in which a network can differ, and their inputs."""

import dataclasses

import torch
from torch import Tensor

from model.network.conditioning import condition_shape
from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN

TINY = PixelCNNConfig(
    image_shape=(8, 8, 1), num_resnet=1, num_hierarchies=2, num_filters=4, num_logistic_mix=3
)
# The example of tfd.PixelCNN's documentation that the field starts from: 28x28 gray drawings,
# five blocks on each of three levels, the label as one number.
SEED = PixelCNNConfig(
    image_shape=(28, 28, 1),
    num_resnet=5,
    num_hierarchies=3,
    num_filters=128,
    num_logistic_mix=5,
    condition=ConditionConfig(kind="scalar"),
)

CONDITIONS = {
    "none": ConditionConfig(),
    "embedding": ConditionConfig(kind="embedding", num_classes=3, embedding_dim=5),
    "embedding_map": ConditionConfig(kind="embedding_map", num_classes=3, embedding_dim=5),
    "one_hot": ConditionConfig(kind="one_hot", num_classes=3),
    "multi_label": ConditionConfig(kind="multi_label", num_classes=3, embedding_dim=5),
    "vector": ConditionConfig(kind="vector", shape=(4, 3)),
    "scalar": ConditionConfig(kind="scalar"),
    "spatial": ConditionConfig(kind="spatial", shape=(8, 8, 2)),
}
FAMILIES = {
    "tiny": TINY,
    "one level": dataclasses.replace(TINY, num_hierarchies=1, num_resnet=2),
    "three levels": dataclasses.replace(TINY, num_hierarchies=3),
    "flat picture": dataclasses.replace(TINY, image_shape=(4, 10, 1)),
    "color": dataclasses.replace(TINY, image_shape=(8, 8, 3)),
    "wide view": dataclasses.replace(TINY, receptive_field_dims=(3, 5)),
    "high view": dataclasses.replace(TINY, receptive_field_dims=(4, 3)),
    "one row": dataclasses.replace(TINY, num_hierarchies=1, receptive_field_dims=(2, 3)),
    "elu": dataclasses.replace(TINY, resnet_activation="elu"),
    "relu": dataclasses.replace(TINY, resnet_activation="relu"),
    "no weight norm": dataclasses.replace(TINY, use_weight_norm=False),
    "binary": dataclasses.replace(TINY, high=1),
    "softmax": dataclasses.replace(TINY, head="softmax", low=-3, high=12),
} | {kind: dataclasses.replace(TINY, condition=value) for kind, value in CONDITIONS.items()}


def build(config: PixelCNNConfig, *, dtype: torch.dtype = torch.float64) -> PixelCNN:
    """Return a model with seeded random weights, biases included."""
    torch.manual_seed(0)
    model = PixelCNN(config).to(dtype)
    for layer in model.network.causal_layers():
        torch.nn.init.normal_(layer.bias, std=0.1)
    return model.eval()


def images(config: PixelCNNConfig, batch: int = 3) -> Tensor:
    """Return random images, the lowest and the highest value among them often."""
    height, width, channels = config.image_shape
    generator = torch.Generator().manual_seed(1)
    shape = (batch, channels, height, width)
    value = torch.randint(config.low, config.high + 1, shape, generator=generator)
    edge = torch.rand(shape, generator=generator)
    value[edge < 0.2] = config.low
    value[edge > 0.8] = config.high
    return value


def condition(config: PixelCNNConfig, batch: int = 3) -> Tensor | None:
    """Return a condition of the config's kind."""
    kind = config.condition.kind
    if kind == "none":
        return None
    if kind in ("embedding", "embedding_map", "one_hot", "scalar"):
        return torch.arange(batch) % 3
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(batch, *condition_shape(config.condition), generator=generator)
    return values.round() if kind == "multi_label" else values
