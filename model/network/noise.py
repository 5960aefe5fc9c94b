"""The uniform numbers that decide an image, whichever sampler turns them into pixels.

Image n of a seed has its own Philox stream (Salmon et al. 2011, counter-based): its numbers
depend neither on the batch, nor on the device, nor on what was drawn before. Images of a class
are numbered within it: the class is the highest word of the counter, which no image gets to.
"""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

_UINT64 = (1 << 64) - 1


def draw_uniforms(
    num: int, draws: int, height: int, width: int, *, seed: int, first_index: int = 0
) -> Float[Tensor, "batch draws height width"]:
    """Return float64 numbers in (0, 1), never 0 or 1, for images first_index ... of a seed."""
    noise = np.empty((num, draws, height, width))
    for i in range(num):
        noise[i] = _stream(seed, first_index + i, noise[i].size).reshape(noise[i].shape)
    return torch.from_numpy(noise)


def class_uniforms(
    labels: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    shape: tuple[int, int, int],
    *,
    seed: int,
) -> Float[Tensor, "batch draws height width"]:
    """Return float64 numbers in (0, 1) for images `indices` of classes `labels` of a seed.

    shape: (draws, height, width). Labels are the model's, from 0.
    """
    noise = np.empty((len(labels), *shape))
    for i, (label, index) in enumerate(zip(labels, indices, strict=True)):
        stream = _stream(seed, int(index), noise[i].size, word=int(label) + 1)
        noise[i] = stream.reshape(shape)
    return torch.from_numpy(noise)


def draw_choices(num: int, *, seed: int, first_index: int = 0) -> Float[Tensor, " batch"]:
    """Return one more number for each image, which no image's own stream has."""
    last = _UINT64
    numbers = [_stream(seed, first_index + i, 1, word=last)[0] for i in range(num)]
    return torch.tensor(numbers, dtype=torch.float64)


def _stream(seed: int, index: int, size: int, *, word: int = 0) -> np.ndarray:
    # Lists of Python integers that reach 2^63 would go through float64 and lose digits.
    key = np.array([seed & _UINT64, index & _UINT64], np.uint64)
    counter = np.array([0, 0, 0, word], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(size)
    # The middle of each of 2^53 bins: a logistic is infinite at 0 and 1.
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
