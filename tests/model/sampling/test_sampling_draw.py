"""The drawer: one spec, one model, any batch of rows."""

import dataclasses

import numpy as np
import pytest
import torch

from model.network.pixelcnn import PixelCNN
from model.sampling.drawer import Drawer, Drawn
from model.sampling.spec import SampleSpec
from model.sampling.units import shard_bytes
from pipelines.drawings.parquet import open_shard
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

SPEC = SampleSpec(class_names=("a", "b"), per_class=5, batch_size=4, rows_per_shard=10)


@pytest.fixture
def network(published_network: PixelCNN) -> PixelCNN:
    return published_network


def test_broken_weights_draw_nothing(network: PixelCNN) -> None:
    with torch.no_grad():
        network.network.output.bias[0] = float("nan")
    drawer = Drawer(network, np.array([0, 2]), SPEC)
    with pytest.raises(ValueError, match="4 of 4 drawings a likelihood that is not finite"):
        drawer.draw(slice(0, 4))


def test_samplers_are_kept_for_the_next_shard(network: PixelCNN) -> None:
    drawer = Drawer(network, np.array([0, 2]), SPEC)
    drawer.draw(slice(0, 4))
    first = drawer._sampler_of(4)
    drawer.draw(slice(8, 10))
    assert drawer._sampler_of(4) is first
    assert len(drawer._samplers) == 2


def test_a_batch_that_is_filled_up_has_the_same_drawings(
    network: PixelCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a shard's last batch is drawn by the sampler of whole ones."""
    plain = Drawer(network.double(), np.array([0, 2]), dataclasses.replace(SPEC, dtype="float64"))
    expected = plain.draw(slice(8, 10))
    whole = plain._sampler_of(4)
    monkeypatch.setattr(plain, "_sampler_of", lambda batch: whole)
    found = plain.draw(slice(8, 10))
    assert (found.images == expected.images).all()
    np.testing.assert_allclose(found.nats, expected.nats)


def test_an_imported_model_names_no_dataset_and_draws_all_the_same(
    store: Store, model: Manifest
) -> None:
    imported = dataclasses.replace(model, inputs=())
    spec = SampleSpec(class_names=("ant",), per_class=1)
    drawn = Drawn(np.zeros((1, 4, 4), np.uint8), np.zeros(1))
    table = open_shard(shard_bytes(spec, imported, 0, [drawn])).read()
    assert table["dataset"].to_pylist() == [""]
