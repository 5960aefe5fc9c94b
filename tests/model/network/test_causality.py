"""No parameter of a pixel's distribution knows the pixel itself or a later one."""

import dataclasses

import families
import pytest
import torch
from torch import Tensor

from model.network.config import PixelCNNConfig
from model.network.kernels import winograd

# Of float32, as wide as model.network.kernels.winograd serves.
WIDE = dataclasses.replace(families.SEED, num_filters=16, num_resnet=1)
DEEP = dataclasses.replace(families.SEED, num_filters=3, num_logistic_mix=2)


def influence(
    config: PixelCNNConfig, row: int, column: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return how much each input pixel moves the output at (row, column), flat in raster order.

    The gradient is of a random mixture of the outputs, so that nothing cancels by symmetry.
    """
    model = families.build(config, dtype=dtype)
    value = families.images(config, batch=2).to(dtype).requires_grad_()
    params = model.distribution_params(value, families.condition(config, batch=2))
    here = params.at(slice(row, row + 1), slice(column, column + 1))
    tensors = [part for part in here if isinstance(part, Tensor)]
    total = sum((part * torch.rand_like(part)).sum() for part in tensors)
    (gradient,) = torch.autograd.grad(total, value)
    return gradient.abs().sum(dim=(0, 1)).flatten()


def positions(config: PixelCNNConfig) -> list[tuple[int, int]]:
    height, width, _ = config.image_shape
    return [
        (0, 0),
        (0, 1),
        (1, 0),
        (height // 2, width // 2),
        (height // 2 - 1, width - 1),
        (height - 1, width - 1),
    ]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_output_ignores_its_own_pixel_and_all_later_ones(name: str):
    config = families.FAMILIES[name]
    for row, column in positions(config):
        index = row * config.image_shape[1] + column
        assert (influence(config, row, column)[index:] == 0).all(), (name, row, column)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_output_depends_on_its_neighbors(name: str):
    config = families.FAMILIES[name]
    width = config.image_shape[1]
    seen = influence(config, 2, 3) != 0
    above, left = 1 * width + 3, 2 * width + 2
    assert seen[above], name
    assert seen[left], name


@pytest.mark.parametrize("name", families.FAMILIES)
def test_output_at_a_coarse_place_depends_on_every_earlier_pixel(name: str):
    """Where all levels have a position, two blocks a level reach all over these pictures.

    Other places see less at this depth, see test_odd_rows_see_22_columns_of_their_own_row.
    """
    config = dataclasses.replace(families.FAMILIES[name], num_resnet=2)
    height, width, _ = config.image_shape
    step = 2 ** (config.num_hierarchies - 1)
    for row, column in [(height // 2, width // 2), (height - step, width - step)]:
        index = row * width + column
        seen = influence(config, row, column) != 0
        assert seen[:index].all(), (name, row, column)
        assert not seen[index:].any(), (name, row, column)


def test_seed_depth_sees_every_earlier_pixel_and_no_other():
    for row, column in [(14, 14), (26, 27), (27, 14)]:
        index = row * 28 + column
        seen = influence(DEEP, row, column) != 0
        assert seen[:index].all(), (row, column)
        assert not seen[index:].any(), (row, column)


@pytest.mark.slow
def test_odd_rows_see_22_columns_of_their_own_row():
    """Strided layers complete a coarse row at an even one: odd rows have the finest level alone.

    A limit of the published wiring (11 blocks of 2 columns), not of this implementation.
    """
    seen = influence(DEEP, 27, 27) != 0
    assert not seen[27 * 28 : 27 * 28 + 5].any()
    assert seen[27 * 28 + 5 : 27 * 28 + 27].all()
    assert seen[: 27 * 28].all()


def test_likelihood_of_a_pixel_ignores_later_ones():
    config = families.FAMILIES["color"]
    model = families.build(config)
    value = families.images(config).double().requires_grad_()
    middle = model.log_prob_map(value)[:, 4, 4].sum()
    (gradient,) = torch.autograd.grad(middle, value)
    seen = gradient.abs().sum(dim=(0, 1)).flatten() != 0
    assert seen[4 * 8 + 4]
    assert not seen[4 * 8 + 5 :].any()


def test_spatial_condition_keeps_its_position():
    config = families.FAMILIES["spatial"]
    model = families.build(config)
    given = families.condition(config).double().requires_grad_()
    params = model.distribution_params(families.images(config), given)
    (gradient,) = torch.autograd.grad(params.locs[..., 0, 7].sum(), given)
    seen = gradient.abs().sum(dim=(0, 1))
    assert seen[0, 7] > 0
    assert seen[7, 0] == 0


@pytest.mark.skipif(
    not winograd.lanes(), reason="no C compiler to make model.network.kernels.winograd with"
)
@pytest.mark.slow
def test_fast_convolutions_are_causal_to_the_last_bit():
    for row, column in positions(WIDE):
        index = row * 28 + column
        assert (influence(WIDE, row, column, torch.float32)[index:] == 0).all(), (row, column)
    model, value = families.build(WIDE, dtype=torch.float32), families.images(WIDE, batch=2)
    condition = families.condition(WIDE, batch=2).float()
    with torch.no_grad():
        before = model.distribution_params(value, condition)
        for row, column in positions(WIDE):
            index = row * 28 + column
            changed = value.clone()
            changed.flatten(2)[:, :, index:] = 255 - changed.flatten(2)[:, :, index:]
            after = model.distribution_params(changed, condition)
            for old, new in zip(before, after, strict=True):
                if isinstance(old, Tensor):
                    pairs = (part.flatten(-2)[..., : index + 1] for part in (old, new))
                    assert torch.equal(*pairs), (row, column)
