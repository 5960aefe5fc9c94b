"""Noise by counter: an image's numbers depend on what names it and on nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sampling.drawer import class_uniforms, draw_choices, draw_uniforms

SHAPE = (2, 3, 3)
WORD = st.integers(0, 2**63 - 1)


def one(label: int, index: int, seed: int) -> torch.Tensor:
    return class_uniforms(np.array([label]), np.array([index]), SHAPE, seed=seed)[0]


def test_an_images_numbers_do_not_depend_on_the_batch() -> None:
    labels, indices = np.array([4, 0, 4, 2]), np.array([1, 9, 0, 2**40])
    whole = class_uniforms(labels, indices, SHAPE, seed=3)
    backward = class_uniforms(labels[::-1], indices[::-1], SHAPE, seed=3)
    assert torch.equal(whole, backward.flip(0))
    for i in range(4):
        assert torch.equal(whole[i], one(labels[i], indices[i], 3))


@settings(max_examples=50, deadline=None)
@given(first=st.tuples(WORD, WORD, WORD), second=st.tuples(WORD, WORD, WORD))
def test_other_names_get_other_numbers(
    first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    assert torch.equal(one(*first), one(*second)) == (first == second)


@pytest.mark.parametrize("seed", [2**53, 2**63 - 2])
def test_seeds_that_differ_in_the_last_digit_differ(seed: int) -> None:
    assert not torch.equal(one(0, 0, seed), one(0, 0, seed + 1))


def test_numbers_are_uniform_and_never_at_the_ends() -> None:
    numbers = draw_uniforms(100, 2, 28, 28, seed=0).flatten().sort().values
    count = len(numbers)
    assert numbers[0] > 0
    assert numbers[-1] < 1
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand.
    steps = (torch.arange(count) + 0.5) / count
    assert (numbers - steps).abs().max() < 1.95 / count**0.5


def test_classes_and_choices_have_streams_apart_from_plain_images() -> None:
    plain = draw_uniforms(1, *SHAPE, seed=5)[0]
    assert not torch.isin(one(0, 0, 5), plain).any()
    assert not torch.isin(draw_choices(1, seed=5), plain).any()


def test_first_numbers_never_change() -> None:
    # They are part of the promise that a drawing can be made again.
    assert one(7, 11, 13).flatten()[:2].tolist() == [0.9931423597956734, 0.4125560782109246]
