"""Samplers as tests use them: a plain one, and images of a seed in one call.

The plain sampler, a forward pass over all images for each pixel, is the definition that a faster
one must equal, and it needs no more of a model than distribution_params. Pixels are quantized as they are drawn, so that what is sampled is exactly
the distribution whose log_prob the model gives (tfd.PixelCNN rounds the finished image, after
its network has seen values that no training image has).
"""

from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor

from model.network.config import check_guidance
from model.network.likelihood import guide, num_draws
from model.network.pixelcnn import PixelCNN
from model.sampling.cached import sample_in_batches
from model.sampling.drawer import draw_uniforms


@torch.no_grad()
def sample_naive(
    model: PixelCNN,
    uniforms: Float[Tensor, "batch draws height width"],
    condition: Tensor | None = None,
    *,
    temperature: float = 1.0,
    guidance: float = 0.0,
) -> Num[Tensor, "batch channels height width"]:
    """Return one image for each row of `uniforms`; uint8 where low..high fits, else int64.

    uniforms: in (0, 1), for each pixel model.network.likelihood.num_draws of them
    temperature: divides logits, multiplies scales; raises ValueError unless positive
    guidance: see model.network.likelihood; raises ValueError if the model cannot be guided
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}")
    check_guidance(guidance, model.config)
    height, width, channels = model.config.image_shape
    weight = model.network.output.bias
    uniforms = uniforms.to(weight.device)
    value = torch.full(
        (len(uniforms), channels, height, width), float(model.config.low), device=weight.device
    ).to(weight.dtype)
    was_training = model.training
    model.eval()
    try:
        for row in range(height):
            for column in range(width):
                here = slice(row, row + 1), slice(column, column + 1)
                params = model.distribution_params(value, condition).at(*here)
                if guidance:
                    withheld = model.distribution_params(value).at(*here)
                    params = guide(params, withheld, guidance=guidance, temperature=temperature)
                    drawn = params.draw(uniforms[:, :, *here])
                else:
                    drawn = params.draw(uniforms[:, :, *here], temperature=temperature)
                value[:, :, row, column] = drawn[:, :, 0, 0].to(value.dtype)
    finally:
        model.train(was_training)
    is_byte = model.config.low >= 0 and model.config.high <= 255
    return value.to(torch.uint8 if is_byte else torch.int64)


def sample_images(
    model: PixelCNN,
    num: int,
    condition: Tensor | None = None,
    *,
    seed: int,
    first_index: int = 0,
    **options: Any,
) -> Num[Tensor, "batch channels height width"]:
    """Draw images first_index ... of a seed; the options are those of the cached sampler."""
    height, width, _ = model.config.image_shape
    uniforms = draw_uniforms(
        num,
        num_draws(model.config),
        height,
        width,
        seed=seed,
        first_index=first_index,
    )
    return sample_in_batches(model, uniforms, condition, **options).images
