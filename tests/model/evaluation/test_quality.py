"""Measures of sample quality on sets whose answer is known."""

import numpy as np
import pytest

from model.evaluation.compare import frechet_distance, manifolds, memorization, nearest_distance


def gaussian(count: int, *, mean: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (count, 4))


@pytest.mark.slow
def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    assert frechet_distance(gaussian(200), gaussian(200)) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift() -> None:
    # Equal covariances leave |mean - mean|^2 = 4 * 0.5^2.
    assert frechet_distance(gaussian(300), gaussian(300) + 0.5) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.slow
def test_frechet_distance_of_scaled_gaussian_is_the_closed_form() -> None:
    one = gaussian(300)
    covariance = np.cov(one.T)
    # mean - 2 mean, and tr(C + 4C - 2 * 2C) = tr C.
    expected = (one.mean(0) ** 2).sum() + np.trace(covariance)
    assert frechet_distance(one, 2 * one) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_frechet_distance_needs_two_drawings() -> None:
    with pytest.raises(ValueError, match="two drawings"):
        frechet_distance(gaussian(1), gaussian(5))


def test_equal_sets_have_perfect_manifolds() -> None:
    found = manifolds(gaussian(100), gaussian(100))
    assert found.precision == found.recall == found.coverage == 1.0


def test_density_of_a_second_draw_is_near_one() -> None:
    found = manifolds(gaussian(600), gaussian(600, seed=1))
    assert found.density == pytest.approx(1.0, abs=0.15)


def test_collapsed_samples_are_precise_and_have_no_recall() -> None:
    real = gaussian(300)
    collapsed = real[:1] + gaussian(300, scale=1e-3, seed=2)
    found = manifolds(real, collapsed)
    assert found.precision > 0.9
    assert found.recall < 0.05
    assert found.coverage < 0.1


def test_scattered_samples_are_not_precise() -> None:
    found = manifolds(gaussian(300), gaussian(300, scale=20, seed=3))
    assert found.precision < 0.1


def test_too_few_drawings_are_refused() -> None:
    with pytest.raises(ValueError, match="over 5 drawings"):
        manifolds(gaussian(5), gaussian(100))


def test_nearest_distance_is_that_of_a_loop_within_the_class() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    found = nearest_distance(
        images[:10], labels[:10], reference=images[10:], reference_labels=labels[10:]
    )
    for i in range(10):
        expected = min(
            np.linalg.norm(images[i] / 255.0 - images[j] / 255.0)
            for j in range(10, 40)
            if labels[j] == labels[i]
        )
        assert found[i] == pytest.approx(expected), i


def test_copies_are_counted_and_a_class_without_reference_is_left_out() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 3), dtype=np.uint8)
    labels = np.zeros(20, np.int64)
    copies = nearest_distance(images[:5], labels[:5], reference=images, reference_labels=labels)
    other = nearest_distance(images[:1], labels[:1] + 1, reference=images, reference_labels=labels)
    assert np.isinf(other).all()
    real = nearest_distance(
        images[:5], labels[:5], reference=images[5:], reference_labels=labels[5:]
    )
    found = memorization(np.concatenate([copies, other]), real)
    assert found["num_copies"] == 5
    assert found["median_ratio"] == 0
