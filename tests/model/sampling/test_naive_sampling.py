"""The plain sampler draws from exactly the distribution whose log_prob the model gives."""

import dataclasses
import itertools

import families
import pytest
import torch
from naive import sample_images, sample_naive

from model.network.config import PixelCNNConfig
from model.network.likelihood import num_draws
from model.sampling.drawer import draw_uniforms

# Small enough to list every image.
BITS = PixelCNNConfig(
    image_shape=(2, 2, 1),
    num_resnet=1,
    num_hierarchies=2,
    num_filters=3,
    num_logistic_mix=2,
    high=1,
)
SMALL = dataclasses.replace(families.TINY, image_shape=(4, 4, 1))
COLORS = dataclasses.replace(BITS, image_shape=(1, 2, 2), num_hierarchies=1)


def all_images(config: PixelCNNConfig) -> torch.Tensor:
    height, width, channels = config.image_shape
    values = itertools.product(range(config.low, config.high + 1), repeat=config.num_dims)
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, channels, height, width)


@pytest.mark.parametrize("config", [BITS, COLORS, dataclasses.replace(BITS, head="softmax")])
def test_all_images_have_probability_one_together(config: PixelCNNConfig):
    total = families.build(config).log_prob(all_images(config)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("config", [BITS, COLORS, dataclasses.replace(BITS, head="softmax")])
def test_samples_are_as_frequent_as_they_are_likely(config: PixelCNNConfig):
    model, num = families.build(config), 4_000
    samples = sample_images(model, num, seed=0)
    weights = 2 ** torch.arange(config.num_dims).flip(0)
    index = (samples.flatten(1).long() * weights).sum(1)
    found = torch.bincount(index, minlength=2**config.num_dims).double()
    expected = model.log_prob(all_images(config)).exp() * num
    statistic = ((found - expected).square() / expected).sum().item()
    # 16 images: chi squared with 15 degrees of freedom is above 44.3 once in 10,000.
    assert statistic < 44.3


@pytest.mark.parametrize("name", ["tiny", "color", "softmax", "embedding"])
def test_an_image_does_not_depend_on_its_batch(name: str):
    config = families.FAMILIES[name]
    config = dataclasses.replace(config, image_shape=(4, 4, config.num_channels))
    model, given = families.build(config), families.condition(config)
    whole = sample_images(model, 3, given, seed=4)
    for i in range(3):
        one = None if given is None else given[i : i + 1]
        assert torch.equal(sample_images(model, 1, one, seed=4, first_index=i), whole[i : i + 1])


def test_pixels_are_whole_levels_of_their_range():
    shape = SMALL.image_shape
    config = dataclasses.replace(families.FAMILIES["softmax"], image_shape=shape)
    softmax = sample_images(families.build(config), 2, seed=0)
    assert softmax.dtype == torch.int64
    assert softmax.min() >= -3
    assert softmax.max() <= 12
    assert sample_images(families.build(SMALL), 1, seed=0).dtype == torch.uint8


def test_low_temperature_sharpens():
    model = families.build(BITS)
    uniforms = draw_uniforms(400, num_draws(BITS), 2, 2, seed=1)
    sharp = sample_naive(model, uniforms, temperature=0.1)
    plain = sample_naive(model, uniforms)
    log_probs = [model.log_prob(images).mean() for images in (sharp, plain)]
    assert log_probs[0] > log_probs[1]
    with pytest.raises(ValueError, match="temperature must be positive"):
        sample_naive(model, uniforms, temperature=0.0)


def test_sampling_keeps_the_mode_and_draws_without_dropout():
    model = families.build(SMALL).train()
    first = sample_images(model, 2, seed=0)
    assert model.training
    assert torch.equal(first, sample_images(model.eval(), 2, seed=0))


def test_noise_is_open_and_belongs_to_seed_and_index():
    noise = draw_uniforms(2, 2, 3, 3, seed=9, first_index=5)
    assert ((noise > 0) & (noise < 1)).all()
    assert torch.equal(draw_uniforms(1, 2, 3, 3, seed=9, first_index=6), noise[1:])
    assert not torch.equal(draw_uniforms(2, 2, 3, 3, seed=8, first_index=5), noise)
