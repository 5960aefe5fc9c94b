"""A repository of the Hugging Face Hub, and what an artifact puts into it.

    README.md       the artifact's own, below the YAML that the Hub reads (pipelines.hub.cards)
    croissant.json  the artifact's own, as Croissant 1.1
    manifest.json   the artifact's own, with the size and SHA-256 of these two
    all else        byte for byte as in the store

Artifacts keep the descriptions that they were published with, so the Hub's are written here, for
artifacts of every age alike. They follow from the artifact and the names of repositories alone. A
copy of the repository in a store's directory of that kind, name and digest is the artifact there.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from pipelines.drawings.croissant import croissant_1_1
from pipelines.hub.cards import dataset_card, model_card
from pipelines.store.artifacts import Store, check_file_names
from pipelines.store.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    artifact_label,
    file_entry,
    manifest_to_json,
)
from pipelines.store.printable import printable

CARD_NAME = "README.md"
CROISSANT_NAME = "croissant.json"
_TYPES = {"datasets": "dataset", "samples": "dataset", "exports": "dataset", "models": "model"}


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the Hub: its OWNER/NAME, and its type, "dataset" or "model"."""

    id: str
    type: str

    @property
    def url(self) -> str:
        """The address of its page."""
        folder = "" if self.type == "model" else f"{self.type}s/"
        return f"{printable(constants.ENDPOINT)}/{folder}{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The files that an artifact puts into a repository; `written` are those made for it."""

    manifest: Manifest
    store: Store
    written: Mapping[str, bytes]

    @property
    def title(self) -> str:
        """The artifact, for people."""
        return f"{self.manifest.kind}/{artifact_label(self.manifest)}"

    def entries(self) -> list[FileEntry]:
        """Return size and SHA-256 of every file, by path."""
        own = [entry for entry in self.manifest.files if entry.path not in self.written]
        written = [file_entry(path, content) for path, content in self.written.items()]
        return sorted([*own, *written], key=lambda entry: entry.path)

    def read(self, entry: FileEntry) -> bytes:
        """Return a file's bytes; raise StoreError if the store's are damaged."""
        if entry.path in self.written:
            return self.written[entry.path]
        return bytes(self.store.view_entry(self.manifest, entry))


def check_repository_id(text: str, option: str) -> str:
    """Return `text` if it is an OWNER/NAME; raise ValueError naming the option otherwise."""
    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise ValueError(f"{option}: expected OWNER/NAME, such as ann/doodles: {error}") from None
    if "/" not in text:
        raise ValueError(f"{option} {text!r}: expected OWNER/NAME, such as ann/{text}")
    return text


def repository_of(manifest: Manifest, repository_id: str) -> Repository:
    """Return the repository of an artifact; raise ValueError if the Hub has no such kind."""
    if manifest.kind not in _TYPES:
        raise ValueError(
            f"{manifest.prefix} is not for the Hub: datasets, samples, exports and models are"
        )
    return Repository(check_repository_id(repository_id, "--hub"), _TYPES[manifest.kind])


def bundle_of(
    manifest: Manifest, store: Store, repository: Repository, *, trained_on: str = ""
) -> Bundle:
    """Return what a repository of an artifact holds.

    trained_on  the OWNER/NAME of a model's dataset on the Hub

    Raises StoreError if a description in the store is damaged.
    """
    check_file_names(manifest)
    if repository.type == "model":
        card = model_card(manifest, store, trained_on=trained_on)
    else:
        card = dataset_card(manifest, store)
    written = {CARD_NAME: card.encode()}
    if CROISSANT_NAME in {entry.path for entry in manifest.files}:
        own = store.read(manifest, CROISSANT_NAME)
        written[CROISSANT_NAME] = croissant_1_1(own, url=repository.url, replaced=written)
    bundle = Bundle(manifest=manifest, store=store, written=written)
    described = dataclasses.replace(manifest, files=tuple(bundle.entries()))
    return dataclasses.replace(
        bundle, written={**written, MANIFEST_NAME: manifest_to_json(described)}
    )
