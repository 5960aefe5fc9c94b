"""Sizes, costs, conditions and the errors of wrong configurations."""

import dataclasses
import json

import families
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.kernels.activations import concat_elu
from model.network.layers import horizontal_taps, init_left_taps, vertical_taps
from model.network.pixelcnn import PixelCNN


@pytest.fixture(scope="module")
def seed_model() -> PixelCNN:
    """The seed configuration without memory for its weights."""
    with torch.device("meta"):
        return PixelCNN(families.SEED)


@pytest.mark.slow
def test_seed_configuration_has_34_4_million_live_parameters(seed_model: PixelCNN):
    count = sum(parameter.numel() for parameter in seed_model.parameters())
    assert count / 1e6 == pytest.approx(34.38, abs=0.005)


@pytest.mark.slow
def test_seed_configuration_costs_23_86_gflop_an_image(seed_model: PixelCNN):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        seed_model(torch.zeros(1, 1, 28, 28), torch.zeros(1))
    assert counter.get_total_flops() / 1e9 == pytest.approx(23.86, abs=0.005)


def test_seed_depth_has_189_layers_and_64_projections():
    config = dataclasses.replace(families.SEED, num_filters=2)
    network = PixelCNN(config).network
    layers = list(network.causal_layers())
    assert len(layers) == len(set(layers)) == 189
    assert sum(block.projection is not None for block in network.gated_blocks()) == 64
    reached = {id(module) for module in network.modules()}
    assert all(id(layer) in reached for layer in layers)


def test_layers_keep_their_taps_and_no_more():
    assert vertical_taps((3, 3)).height * vertical_taps((3, 3)).width == 6
    assert horizontal_taps((3, 3)).height * horizontal_taps((3, 3)).width == 4
    assert init_left_taps((3, 5)).width == 2


def test_concat_elu_is_elu_of_both_signs():
    x = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    expected = torch.nn.functional.elu(torch.tensor([-1.0, 2.0, 1.0, -2.0]))
    assert torch.equal(concat_elu(x).flatten(), expected)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_log_prob_is_the_sum_of_its_map_whatever_the_dtype(name: str):
    config = families.FAMILIES[name]
    model, value = families.build(config), families.images(config)
    given = families.condition(config)
    log_prob = model.log_prob(value, given)
    torch.testing.assert_close(model.log_prob_map(value, given).sum((1, 2)), log_prob)
    torch.testing.assert_close(model.log_prob(value.float(), given), log_prob)
    bits = -log_prob / (config.num_dims * torch.log(torch.tensor(2.0)))
    torch.testing.assert_close(model.bits_per_dim(value, given), bits)


@pytest.mark.parametrize("kind", [kind for kind in families.CONDITIONS if kind != "none"])
def test_condition_changes_the_likelihood_of_its_image_alone(kind: str):
    config = families.FAMILIES[kind]
    model, value = families.build(config), families.images(config)
    given = families.condition(config)
    other = given.clone()
    other[1] = given[2]
    same = model(value, given) == model(value, other)
    assert same.tolist() == [True, False, True]


def test_several_labels_are_the_sum_of_their_embeddings():
    config = families.FAMILIES["multi_label"]
    encoder = families.build(config).encoder
    place = {"dtype": torch.float64, "device": torch.device("cpu")}
    code = encoder.code(torch.tensor([[1.0, 0, 1]]), batch=1, **place)
    torch.testing.assert_close(code[0], encoder.table[0] + encoder.table[2])


def test_one_hot_is_the_vector_of_the_label():
    one_hot = families.build(families.FAMILIES["one_hot"])
    config = dataclasses.replace(
        families.TINY, condition=ConditionConfig(kind="vector", shape=(3,))
    )
    vector = families.build(config)
    vector.load_state_dict(one_hot.state_dict())
    value, label = families.images(config), torch.tensor([0, 2, 1])
    found = vector(value, torch.nn.functional.one_hot(label, 3))
    torch.testing.assert_close(found, one_hot(value, label))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "none was given"),
        (torch.tensor([0, 1]), r"for 3 images has shape \(3,\), found \(2,\)"),
        (torch.tensor([0, 1, 3]), r"must be in 0\.\.2, found 0\.\.3"),
        (torch.tensor([0.0, 1.0, 2.0]), "labels are integers"),
    ],
)
def test_wrong_condition_is_refused(given: torch.Tensor | None, message: str):
    config = families.FAMILIES["embedding"]
    with pytest.raises(ValueError, match=message):
        families.build(config)(families.images(config), given)


def test_unwanted_condition_and_wrong_image_are_refused():
    model = families.build(families.TINY)
    with pytest.raises(ValueError, match="but a condition was given"):
        model(families.images(families.TINY), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\), found \(3, 8, 8, 1\)"):
        model(torch.zeros(3, 8, 8, 1))


@pytest.mark.parametrize("family", ["tiny", "softmax"])
@pytest.mark.parametrize("wrong", [300.0, -4.0, float("nan"), float("inf")])
def test_values_that_are_no_levels_are_refused(family: str, wrong: float):
    config = families.FAMILIES[family]
    model, value = families.build(config), families.images(config).double()
    assert model(value).isfinite().all()
    value[1, 0, 2, 2] = wrong
    with pytest.raises(ValueError, match=rf"expected pixels in {config.low}\.\.{config.high}"):
        model.log_prob(value)


def test_bytes_beyond_fewer_levels_are_refused():
    model = families.build(families.FAMILIES["binary"])
    with pytest.raises(ValueError, match=r"in 0\.\.1, found values from 0 to 255"):
        model(torch.tensor([0, 255], dtype=torch.uint8).repeat(32).view(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"image_shape": (28, 28, 1), "num_hierarchies": 4}, "divisible by 8.*num_hierarchies=3"),
        ({"image_shape": (28, 27, 1)}, "divisible by 2.*num_hierarchies=1"),
        ({"image_shape": (28, 28)}, "height, width, channels"),
        ({"num_filters": 0}, "num_filters must be at least 1"),
        ({"num_resnet": 2.0}, "num_resnet must be at least 1, found 2.0"),
        ({"receptive_field_dims": (3, 4)}, "cols odd"),
        ({"receptive_field_dims": (2, 3)}, "rows must be at least 3"),
        ({"dropout_p": 1.0}, "dropout_p"),
        ({"low": 3, "high": 3}, "low must be less than high"),
        ({"resnet_activation": "gelu"}, "expected one of concat_elu, elu, relu"),
        ({"head": "normal"}, "expected one of logistic, softmax"),
        ({"head": "softmax", "image_shape": (8, 8, 3)}, "channels of a pixel as independent"),
        (
            {"condition": ConditionConfig(kind="spatial", shape=(4, 4, 1))},
            r"expected \(8, 8, channels\), found \(4, 4, 1\)",
        ),
    ],
)
def test_impossible_network_is_refused(field: dict, message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(families.TINY, **field)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"kind": "label"}, "expected one of none, embedding"),
        ({"kind": "embedding"}, "needs num_classes"),
        ({"kind": "vector"}, "needs a shape"),
        ({"kind": "spatial", "shape": (8, 0, 1)}, "needs a shape"),
        ({"embedding_dim": 0}, "embedding_dim"),
    ],
)
def test_impossible_condition_is_refused(field: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ConditionConfig(**field)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_config_survives_json(name: str):
    config = families.FAMILIES[name]
    text = json.dumps(config.to_json_dict())
    assert PixelCNNConfig.from_json_dict(json.loads(text)) == config


def test_config_of_another_version_is_refused():
    with pytest.raises(ValueError, match="num_heads"):
        PixelCNNConfig.from_json_dict({"num_heads": 3})
    with pytest.raises(ValueError, match="must be an object"):
        PixelCNNConfig.from_json_dict({"condition": "embedding"})
