"""A picture of what a model draws at this point: the same noise every time it is asked.

Two drawings of each of the first classes, a class a column. Because the noise is that of a
fixed seed, pictures of one run show how each drawing changes with training.
"""

import numpy as np
import numpy.typing as npt
import torch

from model.config import default_guidance
from model.likelihood import num_draws
from model.pixelcnn import PixelCNN
from model.sampling.cached import CachedSampler
from model.sampling.draw import label_condition
from model.sampling.noise import class_uniforms
from pipelines.stored_png import encode_pngs

MAX_COLUMNS = 16
NUM_ROWS = 2


def sample_grid(network: PixelCNN, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return a picture (rows * height, columns * width) uint8 of NUM_ROWS drawings a class.

    They are guided as those of a dataset are where no one says otherwise. The network must be conditioned on a class label or on nothing.
    """
    config = network.config
    height, width, _ = config.image_shape
    columns = min(config.condition.num_classes or MAX_COLUMNS, MAX_COLUMNS)
    # An unconditional model has one class, which every drawing is of.
    labels = np.tile(np.arange(columns) * (config.condition.kind != "none"), NUM_ROWS)
    indices = np.arange(len(labels))
    uniforms = class_uniforms(labels, indices, (num_draws(config), height, width), seed=seed)
    device = network.network.output.bias.device
    condition = label_condition(config, labels)
    sampler = CachedSampler(network, batch=len(labels), guidance=default_guidance(config))
    with torch.no_grad():
        drawn = sampler.sample(uniforms, None if condition is None else condition.to(device))
    images = drawn.images[:, 0].cpu().numpy().astype(np.uint8)
    rows = images.reshape(NUM_ROWS, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows.reshape(NUM_ROWS * height, columns * width))


def grid_png(grid: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG, ink dark on white paper."""
    return encode_pngs((255 - grid)[None])[0].tobytes()
