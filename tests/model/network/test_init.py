"""Data-dependent initialization: standardized layers, causal, the same on every rank."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import families
import pytest
import torch
import torch.distributed as dist

from model.network.dropout import DropoutKey
from model.network.layers import NormedLayer
from model.network.pixelcnn import PixelCNN, global_moments, initialize_from_data

WIDE = dataclasses.replace(families.FAMILIES["embedding"], num_filters=8)


def initialized(dtype: torch.dtype = torch.float64) -> tuple[PixelCNN, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = PixelCNN(WIDE).to(dtype)
    value, given = families.images(WIDE, batch=6), families.condition(WIDE, batch=6)
    initialize_from_data(model, value, given)
    return model, value, given


def test_every_layer_puts_out_mean_0_and_variance_1_on_the_batch():
    model, value, given = initialized()
    moments = {}

    def record(layer: NormedLayer, _: object, y: torch.Tensor) -> None:
        moments[layer] = (y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False))

    for layer in model.network.causal_layers():
        layer.register_forward_hook(record)
    model.eval()(value, given)
    assert len(moments) == len(list(model.network.causal_layers()))
    for mean, variance in moments.values():
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-6)
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=1e-6)


def test_network_is_causal_right_after_initialization():
    model, value, given = initialized()
    pixels = value.double().requires_grad_()
    params = model.distribution_params(pixels, given)
    (gradient,) = torch.autograd.grad(params.locs[..., 4, 4].sum(), pixels)
    seen = gradient.abs().sum((0, 1)).flatten() != 0
    assert seen[4 * 8 + 3]
    assert not seen[4 * 8 + 4 :].any()


def test_constant_images_give_finite_gains():
    torch.manual_seed(0)
    model = PixelCNN(WIDE)
    initialize_from_data(model, torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 0, 0]))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_initialization_leaves_mode_hooks_and_directions_alone():
    torch.manual_seed(0)
    model = PixelCNN(WIDE).train()
    directions = [layer.v.clone() for layer in model.network.causal_layers()]
    initialize_from_data(model, families.images(WIDE), families.condition(WIDE))
    assert model.training
    for layer, v in zip(model.network.causal_layers(), directions, strict=True):
        assert torch.equal(layer.v, v)
        assert not layer._forward_pre_hooks


@pytest.mark.parametrize("field", ["use_weight_norm", "use_data_init"])
def test_nothing_happens_if_the_config_says_so(field: str):
    config = dataclasses.replace(families.TINY, **{field: False})
    model = families.build(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialize_from_data(model, families.images(config))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_fresh_weights_are_their_directions():
    """Without data init TFP starts with g = ||v||, so that weight norm changes nothing."""
    for layer in PixelCNN(families.TINY).network.causal_layers():
        torch.testing.assert_close(layer.weight(), layer.v)


def test_moments_are_those_of_numpy():
    x = torch.randn(4, 3, 5, 2)
    mean, variance = global_moments(x)
    flat = x.transpose(0, 1).flatten(1).double().numpy()
    torch.testing.assert_close(mean, torch.from_numpy(flat.mean(1)))
    torch.testing.assert_close(variance, torch.from_numpy(flat.var(1)))


def run_rank(folder: str, rank: int, size: int) -> None:
    """Initialize from own images, one step of DistributedDataParallel with dropout, save."""
    if size > 1:
        address = f"file://{folder}/rendezvous"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    torch.manual_seed(rank)  # replicas start apart
    model = PixelCNN(WIDE).double().train()
    value, given = families.images(WIDE, batch=6), families.condition(WIDE, batch=6)
    own = slice(rank * 6 // size, (rank + 1) * 6 // size)
    initialize_from_data(model, value[own], given[own])
    module = torch.nn.parallel.DistributedDataParallel(model) if size > 1 else model
    model.set_dropout_key(DropoutKey(seed=0, step=0, first_image=own.start))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    (-module(value[own], given[own]).mean()).backward()
    optimizer.step()
    torch.save(model.state_dict(), f"{folder}/{rank}-of-{size}.pt")


RANK = """
import sys
import torch
torch.set_num_threads(1)
from test_init import run_rank
run_rank(sys.argv[1], int(sys.argv[2]), 2)
"""


@pytest.mark.slow
def test_replicas_are_identical_after_a_step_and_equal_a_run_of_one(tmp_path: Path):
    own = Path(__file__).parent
    path = os.pathsep.join(map(str, (own.parents[2], own.parent, own)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank)],
            env=os.environ | {"PYTHONPATH": path},
        )
        for rank in range(2)
    ]
    run_rank(str(tmp_path), 0, 1)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    lone, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        torch.testing.assert_close(tensor, lone[name], rtol=1e-6, atol=1e-8)
