"""Complete drawings of which some pixels are given; those stay as they are.

The model draws in raster order, each pixel from those before it. So

    prefix  every given pixel comes before every other one (upper rows, the first pixels of a
            row): completions are exact draws of p(rest | given)
    mask    a given pixel after a drawn one does not influence that one. What is drawn above a
            given line does not know of it: one candidate is a draw of the product of
            p(drawn pixel | pixels before it), not of p(rest | given).

With more candidates a mask's completion is picked among several by importance resampling
(Rubin 1987): candidate k has the weight of the product of p(given pixel | pixels before it),
the factor that the draw left out. That tends to p(rest | given) as candidates grow, and is as
good as the largest weights are many; for a prefix all weights are equal. At another temperature
than 1 all of this holds for the sharpened conditionals, but the weights stay the model's.
"""

import io

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from model.config import PixelCNNConfig
from model.likelihood import num_draws, pick_option
from model.pixelcnn import PixelCNN
from model.sampling.cached import CachedSampler, Given, Sampled
from model.sampling.noise import draw_choices, draw_uniforms

Images = Num[Tensor, "batch channels height width"]


def complete(
    model: PixelCNN,
    given: Given,
    condition: Tensor | None = None,
    *,
    seed: int,
    first_index: int = 0,
    num_candidates: int = 1,
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
    batch_size: int = 64,
) -> Images:
    """Return a completion of each drawing in `given`; uint8 where low..high fits, else int64.

    Completion i is decided by (seed, first_index + i), its condition and num_candidates.
    Raises ValueError if shapes do not fit the model, a given value is none of its levels, or
    num_candidates is not positive.
    """
    check_given(given, model.config)
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, found {num_candidates}")
    height, width, _ = model.config.image_shape
    num = len(given.mask)
    uniforms = draw_uniforms(
        num * num_candidates,
        num_draws(model.config),
        height,
        width,
        seed=seed,
        first_index=first_index * num_candidates,
    )
    repeated = Given(*(_repeat(part, num_candidates) for part in (given.value, given.mask)))
    if condition is not None:
        condition = _repeat(condition, num_candidates)
    sampled = _sample_in_batches(
        model, uniforms, condition, repeated, temperature, dtype, batch_size
    )
    if num_candidates == 1:
        return sampled.images
    choice = draw_choices(num, seed=seed, first_index=first_index)
    return _resample(sampled, repeated, choice, num_candidates)


def is_prefix(mask: Bool[Tensor, "batch height width"]) -> Bool[Tensor, " batch"]:
    """Return whether each drawing's given pixels come before all others: exact completion."""
    flat = mask.flatten(1)
    return (flat[:, 1:] <= flat[:, :-1]).all(1)


def given_rows(images: Images, num_rows: int) -> Given:
    """Return the upper `num_rows` rows of drawings as given."""
    mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    mask[:, :num_rows] = True
    return Given(images, mask)


def given_from_png(content: bytes, config: PixelCNNConfig) -> Given:
    """Read a half drawing: a picture of the model's size whose unknown pixels are transparent.

    Paper is black and ink white, as in the datasets. Needs Pillow. Raises ValueError if the
    file is no picture, has another size, or has no transparent pixel.
    """
    from PIL import Image, UnidentifiedImageError  # a sampling machine need not have it

    height, width, channels = config.image_shape
    try:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.array(picture.convert("LA" if channels == 1 else "RGBA"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"the half drawing cannot be read: {error}") from error
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise ValueError(f"the half drawing has {found} pixels, the model {height}x{width}")
    mask = pixels[..., -1] == np.iinfo(np.uint8).max
    if mask.all():
        raise ValueError("the half drawing has no transparent pixel, so nothing is to be drawn")
    value = torch.from_numpy(pixels[None, ..., :-1].copy()).permute(0, 3, 1, 2)
    return Given(value, torch.from_numpy(mask[None]))


def check_given(given: Given, config: PixelCNNConfig) -> None:
    """Raise ValueError unless shapes and given values are the model's."""
    height, width, channels = config.image_shape
    num = len(given.mask)
    shapes = tuple(given.value.shape), tuple(given.mask.shape)
    if shapes != ((num, channels, height, width), (num, height, width)):
        raise ValueError(
            f"expected drawings (n, {channels}, {height}, {width}) and a mask (n, {height}, "
            f"{width}), found {shapes[0]} and {shapes[1]}"
        )
    known = given.value[given.mask[:, None].expand_as(given.value)].double()
    if ((known < config.low) | (known > config.high) | (known != known.round())).any():
        raise ValueError(f"given pixels must be whole numbers {config.low}..{config.high}")


def _sample_in_batches(
    model: PixelCNN,
    uniforms: Float[Tensor, "batch draws height width"],
    condition: Tensor | None,
    given: Given,
    temperature: float,
    dtype: torch.dtype | None,
    batch_size: int,
) -> Sampled:
    sampler, parts = None, []
    for start in range(0, len(uniforms), batch_size):
        rows = slice(start, start + batch_size)
        num = len(uniforms[rows])
        if sampler is None or sampler.batch != num:
            sampler = CachedSampler(model, batch=num, dtype=dtype)
        parts.append(
            sampler.sample(
                uniforms[rows],
                None if condition is None else condition[rows],
                temperature=temperature,
                given=Given(given.value[rows], given.mask[rows]),
            )
        )
    return Sampled(
        torch.cat([part.images for part in parts]),
        torch.cat([part.log_prob_map for part in parts]),
    )


def _resample(sampled: Sampled, given: Given, choice: Tensor, num_candidates: int) -> Images:
    """Return one candidate of each drawing, drawn by weight."""
    mask = given.mask.to(sampled.log_prob_map.device)
    weights = (sampled.log_prob_map.double() * mask).sum((1, 2)).view(-1, num_candidates)
    chosen = pick_option(weights[:, :, None, None], choice.to(weights.device)[:, None, None])
    candidates = sampled.images.unflatten(0, (-1, num_candidates))
    return candidates[torch.arange(len(weights), device=weights.device), chosen.flatten()]


def _repeat(values: Tensor, times: int) -> Tensor:
    return values.repeat_interleave(times, dim=0)
