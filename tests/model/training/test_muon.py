"""Muon: the step is orthogonal, torch's own agrees, and only inner layers get it."""

import pytest
import torch

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.training.optimizer import Muon, make_optimizers, orthogonal, set_learning_rate
from model.training.spec import TrainSpec


@pytest.mark.parametrize("shape", [(3, 8, 24), (2, 24, 8), (1, 7, 7)])
def test_singular_vectors_stay_and_values_are_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64) * 1e-3
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    core = left.mT @ orthogonal(matrices) @ right.mT
    inside = core.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(core, torch.diag_embed(inside))
    large = values > 0.02 * values.sum(1, keepdim=True)
    assert inside[large].min() > 0.65
    assert inside.max() < 1.25


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    optimizers = (
        Muon([ours], lr=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="original"),
    )
    for _ in range(4):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    # Theirs iterates in bfloat16, which has 8 bits.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


def test_convolution_steps_as_its_matrix() -> None:
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(4, 3, 2, 3))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1))
    kernel.grad = torch.randn(4, 3, 2, 3)
    matrix.grad = kernel.grad.flatten(1)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.5).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def tiny_model() -> PixelCNN:
    condition = ConditionConfig(kind="embedding", num_classes=2, embedding_dim=4)
    return PixelCNN(
        PixelCNNConfig(
            image_shape=(4, 4, 1),
            num_resnet=1,
            num_hierarchies=2,
            num_filters=4,
            num_logistic_mix=2,
            condition=condition,
        )
    )


def test_every_parameter_has_one_optimizer_and_pixels_none_of_muon() -> None:
    model = tiny_model()
    spec = TrainSpec(network=model.config, budget_nimg=8, muon_learning_rate=0.1)
    adam, muon = make_optimizers(spec, model)
    sets = [{id(p) for g in each.param_groups for p in g["params"]} for each in (adam, muon)]
    assert sets[0] | sets[1] == {id(p) for p in model.parameters()}
    assert not sets[0] & sets[1]
    names = {name for name, p in model.named_parameters() if id(p) in sets[1]}
    assert all(name.endswith(".v") for name in names)
    assert not any("init_" in name or "output" in name for name in names)


def test_both_rates_follow_one_schedule() -> None:
    model = tiny_model()
    spec = TrainSpec(
        network=model.config, budget_nimg=8, learning_rate=0.01, muon_learning_rate=0.2
    )
    optimizers = make_optimizers(spec, model)
    set_learning_rate(spec, optimizers, 0.005)
    assert [each.param_groups[0]["lr"] for each in optimizers] == pytest.approx([0.005, 0.1])


def test_no_rate_means_adam_alone() -> None:
    model = tiny_model()
    assert len(make_optimizers(TrainSpec(network=model.config, budget_nimg=8), model)) == 1
