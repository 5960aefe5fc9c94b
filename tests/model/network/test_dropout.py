"""Masks are decided by seed, step and the image's place, not by how a batch is split."""

import dataclasses

import families
import pytest
import torch

from model.network.dropout import DropoutKey, image_keys, keep_mask, key_tensor


def mask(key: DropoutKey, num: int, *, layer: int = 0, p: float = 0.5) -> torch.Tensor:
    return keep_mask(image_keys(key_tensor(key), num), layer, torch.empty(num, 4, 5, 3), p)


def test_mask_does_not_depend_on_how_the_batch_is_split():
    whole = mask(DropoutKey(seed=3, step=7), 6)
    parts = [mask(DropoutKey(seed=3, step=7, first_image=first), 2) for first in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)


def test_mask_differs_between_seeds_steps_images_and_layers():
    base = mask(DropoutKey(seed=3, step=7), 2)
    others = [
        mask(DropoutKey(seed=4, step=7), 2),
        mask(DropoutKey(seed=3, step=8), 2),
        mask(DropoutKey(seed=3, step=7, first_image=1), 2),
        mask(DropoutKey(seed=3, step=7), 2, layer=1),
        base.flip(0),
    ]
    for other in others:
        assert 0.2 < (base != other).float().mean() < 0.8


@pytest.mark.parametrize("p", [0.5, 0.25, 0.1, 0.9])
def test_share_and_scale_are_those_of_dropout(p: float):
    keys = image_keys(key_tensor(DropoutKey(seed=0, step=0)), 64)
    kept = keep_mask(keys, 0, torch.empty(64, 32, 14, 14), p)
    assert (kept == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}


def test_neighbors_are_dropped_independently():
    keys = image_keys(key_tensor(DropoutKey(seed=0, step=0)), 64)
    dropped = keep_mask(keys, 0, torch.empty(64, 32, 14, 14), 0.5) == 0
    flat = dropped.permute(0, 2, 3, 1).flatten(1).double() - 0.5
    for shift in (1, 2, 7, 8, 16, 64):
        correlation = (flat[:, :-shift] * flat[:, shift:]).mean().item() / 0.25
        assert abs(correlation) < 0.01, shift
    between_images = (flat[:-1] * flat[1:]).mean().item() / 0.25
    assert abs(between_images) < 0.01


def test_words_are_those_of_splitmix64():
    """The first output after state 0, as in the authors' reference code."""
    from model.network.dropout import _mix, _mix_int, _signed

    assert _mix_int(0) == 0xE220A8397B1DCDAF
    state = torch.tensor([_signed(0x9E3779B97F4A7C15)])
    assert _mix(state).item() == _signed(0xE220A8397B1DCDAF)


def test_training_with_a_key_repeats_and_evaluation_ignores_it():
    config = dataclasses.replace(families.TINY, dropout_p=0.5)
    model, value = families.build(config), families.images(config, batch=4)
    expected = model(value)
    model.set_dropout_key(DropoutKey(seed=0, step=0))
    assert torch.equal(model(value), expected)
    model.train()
    whole = model(value)
    assert not torch.equal(whole, expected)
    model.set_dropout_key(DropoutKey(seed=0, step=0, first_image=2))
    torch.testing.assert_close(model(value[2:]), whole[2:])
    model.set_dropout_key(DropoutKey(seed=0, step=1))
    assert not torch.equal(model(value), whole)


def test_without_a_key_masks_are_drawn_by_torch():
    model, value = families.build(families.TINY).train(), families.images(families.TINY)
    torch.manual_seed(5)
    first = model(value)
    assert not torch.equal(model(value), first)
    torch.manual_seed(5)
    assert torch.equal(model(value), first)


@pytest.mark.slow
def test_a_new_step_compiles_nothing_anew():
    model = families.build(families.TINY, dtype=torch.float32).train()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled, value = torch.compile(model, backend=backend), families.images(families.TINY)
    for step in range(3):
        model.set_dropout_key(DropoutKey(seed=0, step=step))
        torch.testing.assert_close(compiled(value), model(value), rtol=1e-5, atol=1e-4)
    assert len(graphs) == 1


def test_in_training_a_share_of_conditions_is_withheld_whatever_the_ranks():
    condition = dataclasses.replace(families.CONDITIONS["embedding"], dropout_p=0.25)
    config = dataclasses.replace(families.TINY, condition=condition, dropout_p=0.0)
    model, num = families.build(config).train(), 400
    encoder, labels = model.encoder, torch.arange(num) % 3
    place = {"dtype": torch.float64, "device": torch.device("cpu")}
    keys = image_keys(key_tensor(DropoutKey(seed=0, step=3)), num)
    code = encoder(labels, keys, batch=num, **place)[0]
    is_withheld = (code == 0).all(1)
    assert 75 <= is_withheld.sum() <= 125
    torch.testing.assert_close(code[~is_withheld], encoder.table[labels[~is_withheld]].double())
    half = image_keys(key_tensor(DropoutKey(seed=0, step=3, first_image=200)), 200)
    assert torch.equal(encoder(labels[200:], half, batch=200, **place)[0], code[200:])
    assert (model.eval().encoder(labels, keys, batch=num, **place)[0] != 0).any(1).all()


@pytest.mark.parametrize("kind", ["embedding", "embedding_map", "multi_label", "spatial"])
def test_a_withheld_condition_is_none_at_all(kind: str):
    config = families.FAMILIES[kind]
    condition = dataclasses.replace(config.condition, dropout_p=1 - 1e-9)
    model = families.build(dataclasses.replace(config, condition=condition, dropout_p=0.0))
    value, given = families.images(config), families.condition(config)
    without = model(value)
    assert not torch.equal(model(value, given), without)
    torch.testing.assert_close(model.train()(value, given), without)


def test_a_condition_that_always_was_there_must_be_given():
    model, value = families.build(families.FAMILIES["embedding"]), families.images(families.TINY)
    with pytest.raises(ValueError, match="trained without condition dropout"):
        model(value)
