"""Complete drawings of which some pixels are given; those stay as they are.

The model draws in raster order, each pixel from those before it, and the given pixels it has
passed are what it sees. So

    prefix  every given pixel comes before every other one (upper rows, the first pixels of a
            row): completions are exact draws of p(rest | given)
    mask    a given pixel after a drawn one does not influence that one. What is drawn above a
            given line does not know of it: one candidate is a draw of the product of
            p(drawn pixel | pixels before it), not of p(rest | given).

With more candidates a mask's completion is picked among several by importance resampling
(Rubin 1987): candidate k has the weight of the product of p(given pixel | pixels before it),
the factor that the draw left out. That tends to p(rest | given) as candidates grow, and is as
good as the largest weights are many; for a prefix all weights are equal. At another temperature
than 1, or with guidance, all of this holds for the changed conditionals, but the weights stay
the model's.
"""

import torch
from jaxtyping import Num
from torch import Tensor

from model.network.likelihood import num_draws, pick_option
from model.network.noise import draw_choices, draw_uniforms
from model.network.pixelcnn import PixelCNN
from model.sampling.cached import BATCH_SIZE, Given, Sampled, sample_in_batches
from model.sampling.given import check_given

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
    guidance: float = 0.0,
    dtype: torch.dtype | None = None,
    batch_size: int = BATCH_SIZE,
) -> Images:
    """Return a completion of each drawing in `given`; uint8 where low..high fits, else int64.

    Completion i is decided by (seed, first_index + i), its condition and num_candidates, up to
    roundings that the size of batches decides: n drawings are cut into equal ones.
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
    sampled = sample_in_batches(
        model,
        uniforms,
        condition,
        given=repeated,
        temperature=temperature,
        guidance=guidance,
        dtype=dtype,
        batch_size=batch_size,
    )
    if num_candidates == 1:
        return sampled.images
    choice = draw_choices(num, seed=seed, first_index=first_index)
    return _resample(sampled, repeated, choice, num_candidates)


def _resample(sampled: Sampled, given: Given, choice: Tensor, num_candidates: int) -> Images:
    """Return one candidate of each drawing, drawn by weight."""
    mask = given.mask.to(sampled.log_prob_map.device)
    weights = (sampled.log_prob_map.double() * mask).sum((1, 2)).view(-1, num_candidates)
    chosen = pick_option(weights[:, :, None, None], choice.to(weights.device)[:, None, None])
    candidates = sampled.images.unflatten(0, (-1, num_candidates))
    return candidates[torch.arange(len(weights), device=weights.device), chosen.flatten()]


def _repeat(values: Tensor, times: int) -> Tensor:
    return values.repeat_interleave(times, dim=0)
