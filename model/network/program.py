"""A model's log-likelihood as one file that torch runs without this package (`torch.export`).

    import torch
    program = torch.export.load("tiny-20.pt2").module()
    nats = program(images, labels)

The graph is of torch's own operators alone: convolutions and activations take the paths that they
take under a compiler, without the C code of model.network.kernels. So sums are rounded in another
order than on a CPU here; log-likelihoods differ in the last digits of float32.
"""

import copy
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from model.network.conditioning import encode_labels
from model.network.pixelcnn import PixelCNN

# Any number of images that torch does not take for a constant, as it takes 0 and 1.
_TRACED_IMAGES = 2


def export_log_prob(model: PixelCNN, path: Path | str) -> Path:
    """Save log p(image | label) as a program of torch.export (.pt2), and return its path.

    The program takes images [batch, channels, height, width] uint8 and labels [batch] int64,
    positions in the model's class names, and returns nats [batch] float32. The batch may have any
    size. It runs on a CPU and is not differentiable in its weights. Labels are not checked; an
    unconditional model ignores them.

    Raises ValueError for a model whose condition is no label.
    """
    if model.config.condition.kind in ("vector", "spatial"):
        raise ValueError(
            f"the model is conditioned on a {model.config.condition.kind}: log p(image | label) "
            "is exported of models that are conditioned on a class, or unconditional"
        )
    frozen = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    height, width, channels = model.config.image_shape
    images = torch.zeros(_TRACED_IMAGES, channels, height, width, dtype=torch.uint8)
    labels = torch.zeros(_TRACED_IMAGES, dtype=torch.int64)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(
        _LogProb(frozen), (images, labels), dynamic_shapes={"images": batch, "labels": batch}
    )
    torch.export.save(program, Path(path))
    return Path(path)


class _LogProb(nn.Module):
    def __init__(self, model: PixelCNN) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: UInt8[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        return self.model(images, encode_labels(self.model.config, labels))
