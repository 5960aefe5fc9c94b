"""Model serialization without pickle, as weights.safetensors and config.json.

config.json holds the network config with the image shape, the class names and the digest of the
dataset. Loading does not need the dataset. safetensors does not order metadata keys, so the file
has none, and equal weights give equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from model.network.config import PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from pipelines.store.artifacts import Store
from pipelines.store.errors import reading
from pipelines.store.manifest import Manifest
from pipelines.store.versions import versions_of

WEIGHTS_NAME = "weights.safetensors"
CONFIG_NAME = "config.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A model, its class names and the digest of its training dataset."""

    model: PixelCNN
    class_names: tuple[str, ...]
    dataset_digest: str | None


def model_files(
    model: PixelCNN, *, class_names: Sequence[str] = (), dataset_digest: str | None = None
) -> dict[str, bytes]:
    """Return the name and content of a model's files; equal models give equal bytes.

    Raises ValueError if the number of class names differs from the config's number of classes.
    """
    config = config_file(model.config, class_names=class_names, dataset_digest=dataset_digest)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    return {WEIGHTS_NAME: save(tensors), CONFIG_NAME: config}


def config_file(
    config: PixelCNNConfig, *, class_names: Sequence[str], dataset_digest: str | None
) -> bytes:
    """Return the content of config.json; raises ValueError as `model_files` does."""
    num_classes = config.condition.num_classes
    if class_names and num_classes is not None and len(class_names) != num_classes:
        raise ValueError(f"the model has {num_classes} classes, but {len(class_names)} names")
    header = {
        "format_version": FORMAT_VERSION,
        "config": config.to_json_dict(),
        "class_names": list(class_names),
        "dataset_digest": dataset_digest,
    }
    return (json.dumps(header, indent=1, sort_keys=True) + "\n").encode()


def load_model(files: Mapping[str, bytes]) -> SavedModel:
    """Build a model from its files, in evaluation mode on the CPU, in the weights' dtype.

    Raises ValueError if a file is missing, damaged, inconsistent or of another version.
    """
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        if name not in files:
            raise ValueError(f"a saved model needs the file {name}, found {sorted(files)}")
    header = _read_header(files[CONFIG_NAME])
    try:
        tensors = load(files[WEIGHTS_NAME])
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS_NAME} is damaged: {error}") from error
    with torch.device("meta"):
        model = PixelCNN(header.config)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{WEIGHTS_NAME} does not fit {CONFIG_NAME}: {error}") from error
    return SavedModel(model.eval(), header.class_names, header.dataset_digest)


def read_config(content: bytes) -> PixelCNNConfig:
    """Return the network's config from the bytes of config.json; raise ValueError if damaged."""
    return _read_header(content).config


@dataclass(frozen=True, slots=True)
class _Header:
    config: PixelCNNConfig
    class_names: tuple[str, ...]
    dataset_digest: str | None


def _read_header(content: bytes) -> _Header:
    with reading(CONFIG_NAME, "JSON"):
        header = json.loads(content)
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{CONFIG_NAME} has format_version {version}, this program reads {FORMAT_VERSION}"
        )
    names, digest = header.get("class_names"), header.get("dataset_digest")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{CONFIG_NAME}: class_names must be a list of names, found {names!r}")
    if digest is not None and not isinstance(digest, str):
        raise ValueError(f"{CONFIG_NAME}: dataset_digest must be text or null, found {digest!r}")
    return _Header(PixelCNNConfig.from_json_dict(header.get("config")), tuple(names), digest)


def read_model(store: Store, manifest: Manifest) -> SavedModel:
    """Load a published model, in evaluation mode on the CPU."""
    names = (WEIGHTS_NAME, CONFIG_NAME)
    return load_model({name: store.read(manifest, name) for name in names})


def open_model(store: Store, manifest: Manifest) -> PixelCNN:
    """Load the network of a published model, in evaluation mode on the CPU."""
    return read_model(store, manifest).model


def library_versions() -> dict[str, str]:
    """Return the versions of what affects a model's bytes."""
    return versions_of("torch", "numpy", "pyarrow")
