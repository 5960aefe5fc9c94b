"""The model is `tfp.distributions.PixelCNN`: likelihoods equal TFP's own, and weights go back."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch

from model.network.config import ConditionConfig
from model.network.pixelcnn import PixelCNN
from model.tfp_import import (
    TfpWeights,
    config_from_tfp,
    export_weights,
    import_weights,
    model_from_tfp,
    read_npz,
)
from tests.model.tfp_live import read_live, write_live

# a_scalar_init is a TFP model before its first step: its kernels look at later pixels, which no
# causal network can equal; test_unmasked_weights_are_refused has it.
CASES = (
    "a_scalar", "b_onehot20", "c_uncond", "d_seedlike16", "e_rgb16", "f_elu_nowm",
    "g_high15_mix3", "h_rf35", "i_h1", "j_spatial",
)  # fmt: skip

Arrays = dict[str, Any]


def load_case(folder: Path, case: str) -> Arrays:
    with np.load(folder / f"{case}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def inputs(arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return images as NCHW and the condition, if any."""
    given = torch.from_numpy(arrays["cond"]) if "cond" in arrays else None
    return torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2), given


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_log_prob_equals_tfp(pixelcnn_oracle: Path, case: str):
    arrays = load_case(pixelcnn_oracle, case)
    model = model_from_tfp(*read_npz(arrays))
    with torch.no_grad():
        single = model.log_prob(*inputs(arrays)).numpy()
        double = model.double().log_prob(*inputs(arrays)).numpy()
    assert np.abs(double - arrays["log_prob64"]).max() < 1e-6
    assert np.abs(single / arrays["log_prob32"] - 1).max() < 5e-6


@pytest.mark.parametrize("case", CASES)
def test_network_outputs_equal_tfp(pixelcnn_oracle: Path, case: str):
    arrays = load_case(pixelcnn_oracle, case)
    model = model_from_tfp(*read_npz(arrays)).double()
    with torch.no_grad():
        params = model.distribution_params(*inputs(arrays))
    for name in ("logits", "locs", "scales", "coeffs"):
        expected = arrays.get(f"{name}64")
        if expected is None:
            assert name == "coeffs"
            assert params.coeffs is None
            continue
        # TFP adds exp(-7) rounded to float32: 5.8e-11 is its error.
        found = torch.movedim(getattr(params, name), (-2, -1), (1, 2)).numpy()
        assert np.abs(found - expected).max() < 1e-9, name


@pytest.mark.parametrize("case", ["b_onehot20", "e_rgb16", "f_elu_nowm", "h_rf35", "i_h1"])
def test_exported_weights_are_the_imported_ones(pixelcnn_oracle: Path, case: str):
    arrays = load_case(pixelcnn_oracle, case)
    config, weights = read_npz(arrays)
    exported = export_weights(model_from_tfp(config, weights))
    for kind in ("Conv2D", "Conv2DTranspose", "Dense"):
        before = [layer for layer in weights.layers if layer.kind == kind]
        after = [layer for layer in exported.layers if layer.kind == kind]
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(new.v, old.v)
            np.testing.assert_array_equal(new.bias, old.bias)
            assert old.g is None or np.array_equal(new.g, old.g)
    for old, new in zip(weights.projections, exported.projections, strict=True):
        np.testing.assert_array_equal(new[0], old[0])
        np.testing.assert_array_equal(new[1], old[1])


def test_one_hot_labels_equal_tfp_fed_with_one_hot_vectors(pixelcnn_oracle: Path):
    arrays = load_case(pixelcnn_oracle, "b_onehot20")
    config, weights = read_npz(arrays)
    condition = dataclasses.replace(config.condition, kind="one_hot", num_classes=20, shape=None)
    model = model_from_tfp(dataclasses.replace(config, condition=condition), weights).double()
    labels = torch.from_numpy(arrays["labels"])
    found = model.log_prob(inputs(arrays)[0], labels).detach().numpy()
    assert np.abs(found - arrays["log_prob64"]).max() < 1e-6


def test_unmasked_weights_are_refused(pixelcnn_oracle: Path):
    arrays = load_case(pixelcnn_oracle, "a_scalar_init")
    assert json.loads(str(arrays["meta"]))["outputs_changed_at_or_before_perturbed_pixel"] > 0
    with pytest.raises(ValueError, match="not autoregressive"):
        model_from_tfp(*read_npz(arrays))


def test_weights_of_another_network_are_refused():
    weights = export_weights(families.build(families.TINY))
    cases = [
        (families.FAMILIES["one level"], "has 26 layers, the TFP model 36"),
        (families.FAMILIES["wide view"], r"layer 0: expected a kernel of \(4, 1, 5, 5\)"),
        (families.FAMILIES["scalar"], "10 condition projections, the TFP model 0"),
        (families.FAMILIES["no weight norm"], "only one of the two models has weight norm"),
    ]
    for config, message in cases:
        with pytest.raises(ValueError, match=message):
            import_weights(families.build(config), weights)
    fewer = TfpWeights([*weights.layers[:-1], weights.layers[0]], [])
    with pytest.raises(ValueError, match="TFP model has too few Dense layers, at layer 35"):
        import_weights(families.build(families.TINY), fewer)


@pytest.fixture(scope="module")
def tfp() -> Any:
    """TensorFlow Probability with Keras 2, which its PixelCNN needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imports that are not ours
        reason = "tensorflow_probability and tf_keras make the model that is compared with"
        pytest.importorskip("tf_keras", reason=reason, exc_type=ImportError)
        return pytest.importorskip("tensorflow_probability", reason=reason, exc_type=ImportError)


ARGUMENTS: Arrays = {
    "image_shape": (8, 8, 1),
    "conditional_shape": (3,),
    "num_resnet": 1,
    "num_hierarchies": 2,
    "num_filters": 4,
    "num_logistic_mix": 3,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_weight_norm", [True, False])
def test_live_tfp_model_agrees_both_ways(tfp: Any, use_weight_norm: bool):
    arguments = ARGUMENTS | {"use_weight_norm": use_weight_norm}
    distribution = tfp.distributions.PixelCNN(**arguments)
    config = config_from_tfp(arguments)
    value, given = families.images(config, batch=4), torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    pixels = value.permute(0, 2, 3, 1).float().numpy()

    def log_prob() -> np.ndarray:
        return distribution.log_prob(pixels, conditional_input=given.numpy()).numpy()

    model = PixelCNN(config).eval()
    # Our fresh weights have no masked taps, TFP's would: TFP takes ours first, then we its. It
    # has not been called, so nothing but our weights may decide what it says.
    write_live(distribution, export_weights(model))
    for _ in range(2):
        np.testing.assert_allclose(log_prob(), model(value, given).detach().numpy(), rtol=5e-6)
    again = model_from_tfp(config, read_live(distribution))
    assert torch.equal(again(value, given), model(value, given))


def exported_model(model: PixelCNN) -> PixelCNN:
    """Return a model of TFP's conditions that has the exported weights."""
    vector = ConditionConfig(kind="vector", shape=(3,))
    config = dataclasses.replace(model.config, condition=vector)
    return model_from_tfp(config, export_weights(model))


@pytest.mark.parametrize("kind", ["embedding", "one_hot", "multi_label"])
def test_labels_are_exported_as_one_hot_vectors(kind: str):
    model = families.build(families.FAMILIES[kind])
    value, given = families.images(model.config), families.condition(model.config)
    vectors = given if kind == "multi_label" else torch.nn.functional.one_hot(given, 3)
    with torch.no_grad():
        torch.testing.assert_close(exported_model(model)(value, vectors), model(value, given))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("embedding_map", "is of kind 'embedding_map'"),
        ("spatial", "is of kind 'spatial'"),
        ("softmax", "only a mixture of logistics"),
    ],
)
def test_what_tfp_lacks_is_not_exported(family: str, message: str):
    with pytest.raises(ValueError, match=message):
        export_weights(families.build(families.FAMILIES[family]))
