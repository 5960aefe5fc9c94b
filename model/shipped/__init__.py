"""Models that come with the package, as `shipped:NAME`; the store gets a copy when one is used.

A folder here is a model artifact as a store holds it; its README.md is the model's card.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable

from pipelines.store.artifacts import Store
from pipelines.store.manifest import MANIFEST_NAME, Manifest, manifest_from_json

PREFIX = "shipped:"


def shipped_names() -> list[str]:
    """Return the names of the models."""
    return sorted(folder.name for folder in _root().iterdir() if _has_model(folder))


def shipped_manifest(name: str) -> Manifest:
    """Return a model's manifest; raise ValueError with the names if there is no such model."""
    return manifest_from_json(_folder(name).joinpath(MANIFEST_NAME).read_bytes())


def publish_shipped(name: str, store: Store) -> Manifest:
    """Return a model that is in the store then."""
    manifest = shipped_manifest(name)
    if found := store.find(manifest.kind, manifest.name, manifest.digest):
        return found
    return store.publish_files(*read_shipped(name))


def read_shipped(name: str) -> tuple[Manifest, dict[str, bytes]]:
    """Return a model's manifest and files; raise ValueError as `shipped_manifest` does."""
    manifest, folder = shipped_manifest(name), _folder(name)
    return manifest, {e.path: folder.joinpath(e.path).read_bytes() for e in manifest.files}


def _folder(name: str) -> Traversable:
    if name not in shipped_names():
        names = " and ".join(PREFIX + each for each in shipped_names())
        raise ValueError(f"no model {PREFIX}{name} comes with sketchmill: there are {names}")
    return _root().joinpath(name)


def _has_model(folder: Traversable) -> bool:
    return folder.joinpath(MANIFEST_NAME).is_file()


def _root() -> Traversable:
    return files(__name__)
