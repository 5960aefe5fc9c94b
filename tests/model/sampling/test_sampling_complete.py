"""Completions keep what is given and follow the model's conditional distribution."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from families import FAMILIES, TINY, build, condition, images
from PIL import Image

from model.network.pixelcnn import PixelCNN
from model.sampling.cached import Given
from model.sampling.completion import complete
from model.sampling.given import (
    given_from_png,
    given_rows,
    is_prefix,
    mask_from_png,
    picture_from_png,
)

BINARY = dataclasses.replace(TINY, image_shape=(2, 2, 1), high=1)
EVERY = torch.arange(16)[:, None].bitwise_right_shift(torch.arange(4)).bitwise_and(1)


def conditional(model: PixelCNN, known: dict[int, int]) -> torch.Tensor:
    """Return p(image | known pixels) of all 16 images."""
    with torch.no_grad():
        probability = model.log_prob(EVERY.view(16, 1, 2, 2)).exp()
    for position, value in known.items():
        probability = probability * (EVERY[:, position] == value)
    return probability / probability.sum()


def frequencies(model: PixelCNN, known: dict[int, int], *, num_candidates: int) -> torch.Tensor:
    value, mask = torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.bool)
    for position, pixel in known.items():
        value[position], mask[position] = pixel, True
    num = 2_000
    given = Given(value.view(1, 1, 2, 2).repeat(num, 1, 1, 1), mask.view(1, 2, 2).repeat(num, 1, 1))
    drawn = complete(model, given, seed=3, num_candidates=num_candidates, batch_size=100_000)
    return torch.bincount(drawn.flatten(1).long() @ torch.tensor([1, 2, 4, 8]), minlength=16) / num


@pytest.fixture(scope="module")
def opinionated() -> PixelCNN:
    """A model whose later pixels depend much on the earlier ones."""
    model = build(BINARY)
    with torch.no_grad():
        for layer in model.network.causal_layers():
            layer.g.mul_(2)
    return model


def test_prefix_is_completed_exactly(opinionated: PixelCNN) -> None:
    known = {0: 1, 1: 0}
    expected = conditional(opinionated, known)
    found = frequencies(opinionated, known, num_candidates=1)
    possible = expected > 0
    assert found[~possible].sum() == 0
    chi_square = ((found - expected).square() / expected)[possible].sum() * 2_000
    assert chi_square < 16.3  # exceeded once in a thousand with 3 degrees of freedom


@pytest.mark.slow
def test_mask_is_approximate_and_candidates_make_it_better(opinionated: PixelCNN) -> None:
    known = {3: 0}
    expected = conditional(opinionated, known)

    def distance(num_candidates: int) -> float:
        found = frequencies(opinionated, known, num_candidates=num_candidates)
        return float((found - expected).abs().sum() / 2)

    assert distance(1) > 0.1
    assert distance(30) < 0.05


@pytest.mark.parametrize("family", ["color", "spatial", "softmax", "three levels"])
def test_given_pixels_stay(family: str) -> None:
    model = build(FAMILIES[family])
    value = images(model.config)
    mask = torch.rand(3, *value.shape[2:], generator=torch.Generator().manual_seed(0)) < 0.4
    given = Given(value, mask)
    drawn = complete(model, given, condition(model.config), seed=1, num_candidates=2)
    kept = mask[:, None].expand_as(value)
    assert torch.equal(drawn[kept].long(), value[kept])
    assert not torch.equal(drawn.long(), value)


def test_completion_depends_on_its_own_number_alone() -> None:
    model = build(TINY)
    given = given_rows(images(TINY), 4)
    drawn = complete(model, given, seed=1, num_candidates=2, batch_size=4)
    last = Given(given.value[2:], given.mask[2:])
    alone = complete(model, last, seed=1, first_index=2, num_candidates=2)
    assert torch.equal(drawn[2:], alone)


def test_prefix_is_told_from_mask() -> None:
    mask = torch.zeros(4, 3, 3, dtype=torch.bool)
    mask[1, :2] = True
    mask[2, 0], mask[2, 1, 0] = True, True
    mask[3, 1] = True
    assert is_prefix(mask).tolist() == [True, True, True, False]


def test_half_drawing_is_read_from_transparency() -> None:
    pixels = np.zeros((8, 8, 2), np.uint8)
    pixels[:3, :, 0], pixels[:3, :, 1] = 200, 255
    given = given_from_png(png_of(pixels), TINY)
    assert given.mask[0].sum(1).tolist() == [8, 8, 8, 0, 0, 0, 0, 0]
    assert (given.value[0, 0, :3] == 200).all()


def test_half_transparent_pixels_are_not_given() -> None:
    pixels = np.zeros((8, 8, 2), np.uint8)
    pixels[0, :, 1], pixels[1, :, 1] = 255, 254
    assert given_from_png(png_of(pixels), TINY).mask[0].sum(1).tolist() == [8] + [0] * 7


def test_colors_of_a_half_drawing_are_channels() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    given = given_from_png(png_of(pixels), FAMILIES["color"])
    assert given.value[0, :, 0, 0].tolist() == [10, 20, 30]
    assert given.mask.sum() == 16


def test_depth_and_palette_of_a_half_drawing_are_those_of_a_dataset() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    palette = Image.new("P", (8, 8))
    palette.putdata(pixels[::-1].tobytes())
    palette.putpalette(np.repeat(np.arange(256)[::-1], 3).astype(np.uint8).tobytes())
    for picture, expected in [
        (Image.fromarray(pixels.astype(np.uint16) * 257), pixels),
        (palette, 255 - pixels[::-1]),
        (Image.fromarray(np.dstack([pixels, pixels * 0, pixels * 0])), pixels),
    ]:
        value, alpha = picture_from_png(png_of(picture), TINY)
        assert np.array_equal(value[0, 0].numpy(), expected), picture.mode
        assert (alpha == 255).all()
    value, _ = picture_from_png(png_of(palette), FAMILIES["color"])
    assert np.array_equal(value[0, 2].numpy(), 255 - pixels[::-1])


def test_a_half_drawing_that_says_no_gray_is_refused() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[0], pixels[1] = (255, 0, 0, 255), (0, 255, 0, 255)
    with pytest.raises(ValueError, match=r"half drawing cannot be read: .* several colors"):
        given_from_png(png_of(pixels), TINY)
    pixels[1, :, 3] = 0
    assert given_from_png(png_of(pixels), TINY).value[0, 0, :2].unique().tolist() == [0, 255]
    with pytest.raises(ValueError, match="found transparent pixels"):
        mask_from_png(png_of(pixels), TINY)
    with pytest.raises(ValueError, match="16-bit values go up to 9 only"):
        picture_from_png(png_of(np.full((8, 8), 9, np.uint16)), TINY)


def test_mask_says_what_is_given() -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:4, 1] = 255
    mask = mask_from_png(png_of(pixels), TINY)
    assert mask[0].nonzero().tolist() == [[2, 1], [3, 1]]
    for wrong, message in [
        (np.full((8, 8), 255, np.uint8), "no black pixel"),
        (np.full((8, 8), 128, np.uint8), "found the gray 128"),
        (np.zeros((4, 4), np.uint8), "mask has 4x4 pixels, the model 8x8"),
    ]:
        with pytest.raises(ValueError, match=message):
            mask_from_png(png_of(wrong), TINY)


@pytest.mark.parametrize("num_rows", [-1, 8])
def test_given_rows_leave_a_row_to_draw(num_rows: int) -> None:
    with pytest.raises(ValueError, match=rf"must be in 0\.\.7, found {num_rows}"):
        given_rows(images(TINY), num_rows)


def test_unusable_half_drawings_are_refused() -> None:
    two = dataclasses.replace(TINY, image_shape=(8, 8, 2))
    with pytest.raises(ValueError, match="has 1 or 3 channels, the model 2"):
        given_from_png(png_of(np.zeros((8, 8, 2), np.uint8)), two)
    with pytest.raises(ValueError, match="cannot be read"):
        given_from_png(b"no picture", TINY)
    with pytest.raises(ValueError, match="has 4x8 pixels, the model 8x8"):
        given_from_png(png_of(np.zeros((4, 8, 2), np.uint8)), TINY)
    with pytest.raises(ValueError, match="no transparent pixel"):
        given_from_png(png_of(np.full((8, 8, 2), 255, np.uint8)), TINY)
    model = build(TINY)
    with pytest.raises(ValueError, match="expected drawings"):
        complete(model, Given(torch.zeros(1, 1, 8, 8), torch.ones(1, 4, 8).bool()), seed=0)
    with pytest.raises(ValueError, match=r"whole numbers 0\.\.255"):
        complete(model, given_rows(torch.full((1, 1, 8, 8), 0.5), 2), seed=0)


def test_nothing_to_complete_is_refused() -> None:
    model, given = build(TINY), given_rows(images(TINY), 2)
    with pytest.raises(ValueError, match="num_candidates must be at least 1"):
        complete(model, given, seed=0, num_candidates=0)
    with pytest.raises(ValueError, match="expected numbers for at least one image"):
        complete(model, Given(given.value[:0], given.mask[:0]), seed=0)


def png_of(pixels: np.ndarray | Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
