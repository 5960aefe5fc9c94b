"""The model without a network: counts by pixel and class, smoothed."""

import math

import numpy as np
import pytest

from model.data import Drawings
from model.evaluation import evaluate
from model.evaluation.evaluate import histogram_nats


def drawings(images: list[list[list[int]]], labels: list[int]) -> Drawings:
    return Drawings(np.array(images, np.uint8), np.array(labels, np.int64), ("a", "b", "c"))


TRAIN = drawings([[[0, 9]], [[0, 7]], [[5, 5]]], [0, 0, 1])


def test_likelihood_is_that_of_counting_by_hand() -> None:
    found = histogram_nats(TRAIN, drawings([[[0, 7]], [[5, 0]]], [0, 1]), alpha=0.5)
    # Two drawings of "a": 0 twice at the first pixel, 7 once at the second.
    first = -math.log(2.5 / 130) - math.log(1.5 / 130)
    second = -math.log(1.5 / 129) - math.log(0.5 / 129)
    assert found == pytest.approx([first, second])


def test_probabilities_of_a_pixel_sum_to_one() -> None:
    levels = drawings([[[level, 0]] for level in range(256)], [0] * 256)
    nats = histogram_nats(TRAIN, levels)
    # The second pixel is the same in all, so its factor is the sum.
    second = -math.log(0.1 / (2 + 25.6))
    assert np.exp(second - nats).sum() == pytest.approx(1)


def test_class_without_training_drawings_is_uniform() -> None:
    found = histogram_nats(TRAIN, drawings([[[1, 2]]], [2]))
    assert found == pytest.approx([2 * math.log(256)])


def test_number_of_counted_drawings_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "MAX_ROWS", 2)
    assert len(evaluate.fitted_rows(TRAIN)) == 2
