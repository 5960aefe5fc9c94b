"""The sampler's CUDA graphs themselves; what they need is checked without a GPU elsewhere."""

import dataclasses

import numpy as np
import pytest
import torch
from families import FAMILIES, build, condition
from naive import sample_naive

from model.network.likelihood import num_draws
from model.sampling.cached import CachedSampler
from model.sampling.drawer import Drawer, draw_uniforms
from model.sampling.spec import SampleSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="torch finds no CUDA device, and CUDA graphs can be captured on one only",
    ),
]


def uniforms_of(config, seed: int) -> torch.Tensor:
    height, width, _ = config.image_shape
    return draw_uniforms(3, num_draws(config), height, width, seed=seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_graphs_draw_what_the_naive_sampler_draws(family: str) -> None:
    model = build(FAMILIES[family])
    config, given = model.config, condition(model.config)
    expected = [sample_naive(model, uniforms_of(config, seed), given) for seed in (1, 2)]
    sampler = CachedSampler(model.cuda(), batch=3)
    # The first batch captures the graphs, the second only replays them.
    for seed, images in zip((1, 2), expected, strict=True):
        sampled = sampler.sample(uniforms_of(config, seed), given)
        assert torch.equal(sampled.images.cpu(), images), seed
        with torch.no_grad():
            on_gpu = None if given is None else given.cuda()
            log_prob = model.log_prob_map(sampled.images, on_gpu)
        torch.testing.assert_close(sampled.log_prob_map, log_prob, rtol=1e-9, atol=1e-9)
    assert sampler._graphs is not None
    assert sampler._graphs._graphs


def test_another_temperature_captures_anew() -> None:
    model = build(FAMILIES["tiny"])
    expected = sample_naive(model, uniforms_of(model.config, 1), temperature=0.3)
    sampler = CachedSampler(model.cuda(), batch=3)
    sampler.sample(uniforms_of(model.config, 1))
    cold = sampler.sample(uniforms_of(model.config, 1), temperature=0.3)
    assert torch.equal(cold.images.cpu(), expected)


def test_guided_graphs_draw_what_the_naive_sampler_draws() -> None:
    config = FAMILIES["embedding_map"]
    guidable = dataclasses.replace(config.condition, dropout_p=0.5)
    model = build(dataclasses.replace(config, condition=guidable))
    given = condition(model.config)
    expected = [
        sample_naive(model, uniforms_of(model.config, seed), given, guidance=2.0) for seed in (1, 2)
    ]
    sampler = CachedSampler(model.cuda(), batch=3, guidance=2.0)
    for seed, images in zip((1, 2), expected, strict=True):
        assert torch.equal(sampler.sample(uniforms_of(config, seed), given).images.cpu(), images)


def test_bfloat16_graphs_are_near_the_model() -> None:
    model = build(FAMILIES["three levels"], dtype=torch.float32).cuda()
    sampled = CachedSampler(model, batch=3, dtype=torch.bfloat16).sample(
        uniforms_of(model.config, 1)
    )
    with torch.no_grad():
        expected = model.log_prob(sampled.images)
    found = sampled.log_prob_map.sum((1, 2))
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_memory_of_a_sampler_is_free_before_the_next_one() -> None:
    config = dataclasses.replace(FAMILIES["tiny"], num_filters=32)
    model = build(config, dtype=torch.float32).cuda()

    def used() -> int:
        sampler = CachedSampler(model, batch=256)
        sampler.sample(draw_uniforms(256, num_draws(config), 8, 8, seed=0))
        return torch.cuda.memory_allocated()

    first, after = used(), torch.cuda.memory_allocated()
    assert after < first
    assert used() <= first + (1 << 20)


def test_one_sampler_serves_whole_batches_and_the_rest() -> None:
    model = build(FAMILIES["embedding"], dtype=torch.float32).cuda()
    spec = SampleSpec(class_names=("a", "b"), per_class=3, batch_size=4)
    drawer = Drawer(model, np.array([0, 2]), spec)
    assert [len(drawer.draw(batch).nats) for batch in (slice(0, 4), slice(4, 6))] == [4, 2]
    assert list(drawer._samplers) == [4]
