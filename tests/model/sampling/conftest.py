"""Small models, and one in a store as training publishes it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.network.weights import CONFIG_NAME, WEIGHTS_NAME, load_model, model_files
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import InputRef, Manifest, artifact_digest, artifact_entries

CLASS_NAMES = ("ant", "bee", "cat")
TINY = PixelCNNConfig(
    image_shape=(4, 4, 1),
    num_resnet=1,
    num_hierarchies=2,
    num_filters=2,
    num_logistic_mix=2,
    condition=ConditionConfig(kind="embedding", num_classes=3, embedding_dim=2),
)


def random_model(config: PixelCNNConfig, *, seed: int = 0) -> PixelCNN:
    """Return a model in float64 whose every weight matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PixelCNN(config).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def publish_random_model(
    store: Store, config: PixelCNNConfig = TINY, *, name: str = "tiny", seed: int = 0
) -> Manifest:
    """Put a random model into a store as training does."""
    model = random_model(config, seed=seed).float()
    files = model_files(model, class_names=CLASS_NAMES, dataset_digest="0" * 64)
    spec = {"network": dataclasses.asdict(config), "seed": seed}
    digest = artifact_digest("models", spec, ())
    manifest = Manifest(
        kind="models",
        name=name,
        digest=digest,
        spec=spec,
        inputs=(InputRef(role="dataset", kind="datasets", name="drawings", digest="0" * 64),),
        files=artifact_entries(files),
        summary={"class_names": list(CLASS_NAMES), "image_shape": list(config.image_shape[:2])},
    )
    return store.publish_files(manifest, files)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def model(store: Store) -> Manifest:
    return publish_random_model(store)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PixelCNN]:
    """Return `random_model`."""
    return random_model


@pytest.fixture(scope="session")
def publish_model() -> Callable[..., Manifest]:
    """Return `publish_random_model`."""
    return publish_random_model


@pytest.fixture
def published_network(store: Store, model: Manifest) -> PixelCNN:
    """The network of `model`."""
    files = {path: store.get(f"{model.prefix}/{path}") for path in (WEIGHTS_NAME, CONFIG_NAME)}
    return load_model(files).model
