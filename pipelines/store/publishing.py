"""Publication: candidates whose bytes differ are staged; refs name the latest artifact.

    attempts/publish/<kind>.<name>.<digest>/files/<SHA-256>    the candidates' files
    attempts/publish/<kind>.<name>.<digest>/chosen.json        the manifest that won, create-only

Every publisher stages its files under their hashes, so that no write replaces another, and tries
to create chosen.json with its manifest. Every publisher then copies only the files of the chosen
manifest to the artifact, so concurrent copies write the same bytes. A publisher that dies before
the choice leaves garbage; one that dies after it has staged all files, and the next publisher
completes the artifact.

    refs/<kind>/<name>/<%08d>.json    create-only log of digests; the highest number is "latest"
"""

import hashlib
import json
import random
import re
import time
from collections.abc import Mapping

from pipelines.store.errors import StoreError
from pipelines.store.manifest import (
    KINDS,
    FileEntry,
    Manifest,
    check_digest,
    check_slug,
    manifest_from_json,
    manifest_to_json,
)
from pipelines.store.objects import Objects

# A number that is taken means that another publisher won; a row of this length does not occur.
_MAX_TRIES = 100
_MAX_WAIT_SEC = 1.0

_REF = re.compile(r"[0-9]{8}\.json")


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
    """Return the chosen files by path, or None unless all are present and undamaged."""
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
    """Delete a choice; only valid if its files are lost or its artifact is published."""
    store.delete(_choice(manifest))


def clear(store: Objects, manifest: Manifest) -> None:
    """Delete the staged files of a published artifact, the choice first."""
    drop(store, manifest)
    for item in list(store.objects(_folder(manifest))):
        store.delete(item.path)


class Refs(Objects):
    """Objects under one root, and the log of the artifacts published under each name."""

    def add_ref(self, kind: str, name: str, digest: str) -> None:
        """Make `digest` the latest of its name, unless it already is."""
        content = json.dumps({"digest": check_digest(digest)}).encode("ascii")
        for attempt in range(_MAX_TRIES):
            entries = self.ref_entries(kind, name)
            if entries and self.ref_digest(entries[-1]) == digest:
                return
            number = int(_ref_number(entries[-1])) + 1 if entries else 0
            if self.create(f"{_refs_prefix(kind, name)}/{number:08d}.json", content):
                return
            time.sleep(random.uniform(0, min(_MAX_WAIT_SEC, 0.001 * 2**attempt)))
        raise StoreError(
            f"no number is free in {_refs_prefix(kind, name)} of {self.url} after {_MAX_TRIES} "
            "attempts: `sketchmill doctor` says whether the store creates and lists as it must"
        )

    def ref_entries(self, kind: str, name: str) -> list[str]:
        """Return the paths of a name's refs, oldest first."""
        listed = [item.path for item in self.objects(_refs_prefix(kind, name))]
        return [path for path in listed if _REF.fullmatch(path.rsplit("/", 1)[-1])]

    def refs(self, kind: str, name: str) -> list[str]:
        """Return the digests published under a name, oldest first."""
        digests = (self.ref_digest(path) for path in self.ref_entries(kind, name))
        return [digest for digest in digests if digest]

    def ref_digest(self, path: str) -> str | None:
        """Return the digest in a ref; None if the ref was deleted since it was listed."""
        try:
            return check_digest(self.surely(lambda: json.loads(self.get(path)))["digest"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"ref {path} in {self.url} is damaged: delete it ({error})") from error


def check_kind(kind: str) -> None:
    """Raise StoreError unless `kind` is one of the store's."""
    if kind not in KINDS:
        raise StoreError(f"kind {kind!r} is not one of {', '.join(KINDS)}")


def _folder(manifest: Manifest) -> str:
    return f"attempts/publish/{manifest.kind}.{manifest.name}.{manifest.digest}"


def _choice(manifest: Manifest) -> str:
    return f"{_folder(manifest)}/chosen.json"


def _staged(manifest: Manifest, entry: FileEntry) -> str:
    return f"{_folder(manifest)}/files/{entry.sha256}"


def _refs_prefix(kind: str, name: str) -> str:
    check_kind(kind)
    return f"refs/{kind}/{check_slug(name)}"


def _ref_number(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".json")
