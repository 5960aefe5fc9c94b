"""Portable arithmetic: the same bits from every instruction set, equal to float64 but for rounding."""

import dataclasses
import hashlib
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

import model.shipped
from model.network.conditioning import label_condition
from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.network.weights import CONFIG_NAME, WEIGHTS_NAME, load_model
from model.sampling.cached import CachedSampler, Given
from model.sampling.drawer import class_uniforms
from model.sampling.portable import PortableSampler, pooled
from model.sampling.spec import PORTABLE_BLOCK as BLOCK
from model.sampling.spec import (
    SampleSpec,
    default_arithmetic,
    lack_of_portable,
    samples_digest,
    spec_from_json,
    spec_to_json,
)
from model.training.presets import preset

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the instruction sets are those of x86-64"
)
CODED = {"embedding_dim": 3, "num_classes": 5, "dropout_p": 0.1}
BASE = PixelCNNConfig(
    image_shape=(8, 8, 1),
    num_resnet=1,
    num_hierarchies=3,
    num_filters=4,
    num_logistic_mix=3,
    condition=ConditionConfig(kind="embedding_map", **CODED),
)
# Every option of the network that this arithmetic has.
CONFIGS = {
    "maps": BASE,
    "elu": dataclasses.replace(BASE, resnet_activation="elu"),
    "wide": dataclasses.replace(BASE, receptive_field_dims=(4, 5), num_resnet=2),
    "one level": dataclasses.replace(BASE, num_hierarchies=1, image_shape=(5, 7, 1)),
    "gray levels": dataclasses.replace(BASE, low=3, high=18),
    "plain weights": dataclasses.replace(BASE, use_weight_norm=False, use_data_init=False),
    "embedding": dataclasses.replace(BASE, condition=ConditionConfig(kind="embedding", **CODED)),
    "one hot": dataclasses.replace(
        BASE, condition=ConditionConfig(kind="one_hot", num_classes=5, dropout_p=0.1)
    ),
    "many labels": dataclasses.replace(
        BASE, condition=ConditionConfig(kind="multi_label", **CODED)
    ),
    "a number": dataclasses.replace(BASE, condition=ConditionConfig(kind="scalar", dropout_p=0.1)),
    "no condition": dataclasses.replace(BASE, condition=ConditionConfig()),
}
# Compiler flags that leave AVX-512 out, and AVX2 and fused multiply-adds too.
NARROWER = {"avx2": ("-march=x86-64-v3",), "plain": ("-march=x86-64",)}


def inputs(config: PixelCNNConfig, count: int):
    """Return labels and numbers of the first drawings of all classes."""
    height, width, _ = config.image_shape
    labels = np.arange(count) % (config.condition.num_classes or 1)
    return labels, class_uniforms(labels, np.arange(count), (2, height, width), seed=3)


def by_float64(network: PixelCNN, labels, uniforms, *, given=None, **options):
    """Return drawings of the sampler in float64."""
    guidance = options.pop("guidance", 0.0)
    network = network.double()
    sampler = CachedSampler(network, batch=len(labels), guidance=guidance)
    condition = label_condition(network.config, labels)
    return sampler.sample(uniforms, condition, given=given, **options).images[:, 0].numpy()


def nats_of(network: PixelCNN, images, labels):
    condition = label_condition(network.config, labels)
    with torch.no_grad():
        values = torch.from_numpy(np.array(images))[:, None]
        return network.double().log_prob(values, condition).numpy()


@pytest.mark.parametrize("guidance", [0.0, 1.7])
@pytest.mark.parametrize("name", CONFIGS)
def test_drawings_are_those_of_float64(name, guidance, make_model):
    config = CONFIGS[name]
    if guidance and not config.condition.dropout_p:
        return
    network, (labels, uniforms) = make_model(config), inputs(config, BLOCK + 6)
    sampler = PortableSampler(network.float(), guidance=guidance, temperature=0.9)
    images, nats = sampler.draw(labels, uniforms.numpy())
    expected = by_float64(network, labels, uniforms, guidance=guidance, temperature=0.9)
    assert (images != expected).any((1, 2)).sum() <= 1
    assert len(np.unique(images)) > 3
    errors = np.abs(nats - nats_of(network, images, labels))
    assert errors.max() < 1e-3


@pytest.mark.parametrize("flags", NARROWER.values(), ids=NARROWER)
@pytest.mark.parametrize("guidance", [0.0, 1.7])
def test_every_instruction_set_gives_the_same_bits(flags, guidance, make_model):
    labels, uniforms = inputs(BASE, 8)
    drawn = [
        PortableSampler(make_model(BASE).float(), guidance=guidance, flags=each).draw(
            labels, uniforms.numpy()
        )
        for each in ((), flags)
    ]
    for part, same in zip(*drawn, strict=True):
        assert np.array_equal(part, same)


# Of images and likelihoods. A change of the arithmetic needs a name of its own, as "portable" is
# part of addresses.
DIGESTS = {
    ("shipped:tiny-20", 0.0): "7eb46bbddaf1137c375328b73fd13e84c4dd00c03f28f8515d026a030095074b",
    ("shipped:tiny-20", 2.5): "e626d97092042ae8acf55df3ed64e1ccafae7ba59707170e504a6fb67fee229a",
    ("small", 2.5): "b0a5d8cb097e6d07c53a145c36bc49e0027c511d640db097e94f06a57b71a1aa",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "guidance"), DIGESTS)
def test_bits_are_those_of_other_machines(name, guidance):
    network = shipped() if name.startswith("shipped") else even(name)
    labels, uniforms = inputs(network.config, 64)
    drawn = PortableSampler(network, guidance=guidance).draw(labels, uniforms.numpy())
    content = b"".join(part.tobytes() for part in drawn)
    assert hashlib.sha256(content).hexdigest() == DIGESTS[name, guidance]


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [0.0, 2.5])
def test_few_drawings_of_the_shipped_model_differ_from_float64(guidance):
    """Fewer than the 4 in 100 of torch's float32; and likelihoods are within 1e-4 nats of it."""
    network = shipped()
    labels, uniforms = inputs(network.config, 320)
    images, nats = PortableSampler(network, guidance=guidance).draw(labels, uniforms.numpy())
    errors = np.abs(nats - nats_of(network, images, labels))
    assert errors.mean() < 1e-4
    assert errors.max() < 1e-3
    expected = by_float64(network, labels, uniforms, guidance=guidance)
    assert (images != expected).any((1, 2)).sum() <= 8


def test_a_drawing_depends_on_no_other(make_model):
    network, (labels, uniforms) = make_model(BASE).float(), inputs(BASE, 70)
    sampler = PortableSampler(network, guidance=1.7)
    images, nats = sampler.draw(labels, uniforms.numpy())
    for row in (0, 63, 64, 69):
        part = slice(row, row + 1)
        image, own = sampler.draw(labels[part], uniforms[part].numpy())
        assert np.array_equal(image[0], images[row])
        assert own[0] == nats[row]


@pytest.mark.parametrize("guidance", [0.0, 1.7])
def test_given_pixels_are_kept_and_the_rest_is_drawn(guidance, make_model):
    network, (labels, uniforms) = make_model(BASE), inputs(BASE, 20)
    rng = np.random.default_rng(1)
    pixels, mask = rng.integers(0, 256, (20, 8, 8), np.uint8), rng.random((20, 8, 8)) < 0.5
    sampler = PortableSampler(network.float(), guidance=guidance)
    images, nats = sampler.draw(labels, uniforms.numpy(), pixels, mask)
    assert np.array_equal(images[mask], pixels[mask])
    given = Given(torch.from_numpy(pixels)[:, None], torch.from_numpy(mask))
    expected = by_float64(network, labels, uniforms, guidance=guidance, given=given)
    assert (images != expected).any((1, 2)).sum() <= 1
    assert np.abs(nats - nats_of(network, images, labels)).max() < 1e-3


def test_a_sampler_goes_on_after_a_class_that_is_none(make_model):
    network, (labels, uniforms) = make_model(BASE).float(), inputs(BASE, 3)
    sampler = PortableSampler(network)
    for _ in range(2):
        with pytest.raises(ValueError, match="class labels must be in"):
            sampler.draw(labels + 99, uniforms.numpy())
    assert len(sampler.draw(labels, uniforms.numpy())[1]) == 3


def test_broken_weights_give_no_likelihood(make_model):
    network, (labels, uniforms) = make_model(BASE).float(), inputs(BASE, 3)
    network.network.output.bias.data[:] = float("nan")
    assert np.isnan(PortableSampler(network).draw(labels, uniforms.numpy())[1]).all()


def test_a_code_is_averaged_over_what_a_coarse_position_covers():
    code = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    for level in range(3):
        expected = torch.nn.functional.avg_pool2d(torch.from_numpy(code), 2**level).numpy()
        assert np.allclose(pooled(code, level), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ({"image_shape": (8, 8, 3)}, "gray pixels"),
        ({"high": 300}, "8 bits"),
        ({"head": "softmax"}, "mixtures"),
        ({"resnet_activation": "relu"}, "relu"),
        ({"condition": ConditionConfig(kind="vector", shape=(3,))}, "'vector'"),
        ({"receptive_field_dims": (7, 7)}, "64 places"),
    ],
)
def test_what_it_lacks_is_drawn_by_torch(change, lacking, make_model):
    config = dataclasses.replace(BASE, **change)
    assert lacking in lack_of_portable(config)
    assert default_arithmetic(config, "float32") == "torch"
    with pytest.raises(ValueError, match="cannot be drawn in portable arithmetic"):
        PortableSampler(PixelCNN(config))


def test_another_dtype_a_gpu_or_no_compiler_means_torch(monkeypatch, tmp_path):
    from model.sampling import spec

    assert default_arithmetic(BASE, "float64") == "torch"
    monkeypatch.setattr(spec, "_has_gpu", lambda: True)
    assert default_arithmetic(BASE, "float32") == "torch"
    monkeypatch.setattr(spec, "_has_gpu", lambda: False)
    monkeypatch.setattr(spec, "_has_fused", lambda: True)
    assert default_arithmetic(BASE, "float32") == "portable"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert default_arithmetic(BASE, "float32") == "torch"


def test_the_batch_is_part_of_torchs_address_alone(model):
    """And the address of what torch draws is what it was before there was another arithmetic."""
    spec = SampleSpec(class_names=("a",), per_class=1)
    assert set(spec_to_json(spec)) >= {"batch_size"}
    assert "arithmetic" not in spec_to_json(spec)
    portable = dataclasses.replace(spec, arithmetic="portable")
    other = dataclasses.replace(portable, batch_size=7)
    assert samples_digest(portable, model) == samples_digest(other, model)
    assert samples_digest(portable, model) != samples_digest(spec, model)
    assert spec_from_json(spec_to_json(portable)) == portable
    with pytest.raises(ValueError, match="portable arithmetic is float32"):
        dataclasses.replace(portable, dtype="float64")


def shipped() -> PixelCNN:
    folder = Path(model.shipped.__file__).parent / "tiny-20"
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS_NAME, CONFIG_NAME)}
    return load_model(files).model.eval()


def even(name: str) -> PixelCNN:
    """Return a preset's network with weights that every machine makes alike."""
    config = preset(name).network
    condition = dataclasses.replace(config.condition, num_classes=5)
    network = PixelCNN(dataclasses.replace(config, condition=condition)).eval()
    rng = np.random.Generator(np.random.Philox(0))
    with torch.no_grad():
        for parameter in network.parameters():
            numbers = rng.integers(-(2**20), 2**20, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(numbers / 2.0**22))
    return network
