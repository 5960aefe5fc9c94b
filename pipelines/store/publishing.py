"""Staging: how publishers whose bytes differ agree on one set of files.

    attempts/publish/<kind>.<name>.<digest>/files/<SHA-256>    the candidates' files
    attempts/publish/<kind>.<name>.<digest>/chosen.json        the manifest that won, create-only

Every publisher stages its files under their hashes, where nobody overwrites anything, and tries
to create chosen.json with its manifest. Only the files of the chosen manifest are then copied to
the artifact, by whoever comes by, so at any moment all copies write the same bytes. A publisher
that died before the choice has left garbage; one that died after it has staged everything, and
the next one completes its artifact.
"""

import hashlib
from collections.abc import Mapping

from pipelines.store.manifest import FileEntry, Manifest, manifest_from_json, manifest_to_json
from pipelines.store.objects import Objects


def choose(store: Objects, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest | None:
    """Stage an artifact's files and return the manifest that was chosen, this one or another.

    Returns None if there is no choice any more: its artifact was published, or it was dropped.
    """
    for entry in manifest.files:
        store.put(_staged(manifest, entry), files[entry.path])
    try:
        store.sync(_staged(manifest, entry) for entry in manifest.files)
        store.create(_choice(manifest), manifest_to_json(manifest))
        return manifest_from_json(store.get(_choice(manifest)))
    except FileNotFoundError:  # cleared by who has published
        return None
    except ValueError:  # damaged
        drop(store, manifest)
        return None


def staged_files(store: Objects, chosen: Manifest) -> dict[str, bytes] | None:
    """Return the chosen files by path, None unless all are there and undamaged."""
    files = {}
    for entry in chosen.files:
        try:
            content = store.get(_staged(chosen, entry))
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            return None
        files[entry.path] = content
    return files


def drop(store: Objects, manifest: Manifest) -> None:
    """Take a choice back; only where its files are lost or its artifact is published."""
    store.delete(_choice(manifest))


def clear(store: Objects, manifest: Manifest) -> None:
    """Delete what was staged for an artifact that is published, the choice first."""
    drop(store, manifest)
    for item in list(store.objects(_folder(manifest))):
        store.delete(item.path)


def _folder(manifest: Manifest) -> str:
    return f"attempts/publish/{manifest.kind}.{manifest.name}.{manifest.digest}"


def _choice(manifest: Manifest) -> str:
    return f"{_folder(manifest)}/chosen.json"


def _staged(manifest: Manifest, entry: FileEntry) -> str:
    return f"{_folder(manifest)}/files/{entry.sha256}"
