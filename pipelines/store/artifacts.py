"""The artifact store: immutable directories on any obstore URL.

    <root>/<kind>/<name>/<digest>/...        the files of an artifact, manifest.json last
    <root>/refs/<kind>/<name>/<%08d>.json    create-only log; the highest number is "latest"
    <root>/attempts/...                      scratch, never read by consumers

Publishing requires one guarantee of the backend: put-if-absent with one winner. Files are uploaded
first (idempotent: a retry writes the same bytes) and checked, and then `manifest.json` is created;
the loser of a race reads the winner's. An interruption leaves garbage where no consumer reads.
There is no lock, no rename, no compare-and-swap.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipelines.processes.progress import doing
from pipelines.store import publishing
from pipelines.store.backends import local_root, open_backend
from pipelines.store.contents import Contents
from pipelines.store.errors import AbsentError, BusyError, StoreError
from pipelines.store.leases import holding
from pipelines.store.manifest import (
    KINDS,
    MANIFEST_NAME,
    Kind,
    Manifest,
    artifact_prefix,
    manifest_from_json,
    manifest_to_json,
)
from pipelines.store.objects import ObjectInfo, check_path
from pipelines.store.publishing import Refs, check_kind

__all__ = ["ObjectInfo", "Store", "StoreError", "existing_store", "open_store"]

MIN_DIGEST_PREFIX = 6
# A million files take 130 MB; what is larger is not one of ours.
MAX_MANIFEST_BYTES = 512 << 20
# One choice is enough but where a former one is damaged.
_MAX_CHOICES = 10


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A manifest that cannot be read: its path, the reason and the remedy."""

    path: str
    reason: str


class Store(Contents, Refs):
    """The artifacts under one root. All paths are relative to it, with forward slashes."""

    def find(self, kind: Kind, name: str, digest: str) -> Manifest | None:
        """Return the manifest at this address, None if the artifact is not complete."""
        path = f"{artifact_prefix(kind, name, digest)}/{MANIFEST_NAME}"
        if (size := self.size(path)) is None:
            return None
        if size > MAX_MANIFEST_BYTES:
            raise StoreError(f"{path} has {size} bytes, more than any manifest of sketchmill")
        try:
            manifest = self.surely(lambda: manifest_from_json(self.get(path)))
        except FileNotFoundError:  # deleted since
            return None
        except ValueError as error:
            raise StoreError(f"{path}: {error}; {self.remedy(path)}") from error
        if (manifest.kind, manifest.name, manifest.digest) != (kind, name, digest):
            raise StoreError(f"{path} belongs to {manifest.prefix}: delete it")
        return manifest

    def reuse(self, kind: Kind, name: str, digest: str) -> Manifest | None:
        """Return the manifest at this address and make it the latest of its name.

        The first step of a stage; it also completes a publication that ended before its ref.
        """
        found = self.find(kind, name, digest)
        if not found or self._is_latest(kind, name, digest):  # which no collection takes
            return found
        with holding(self, [artifact_prefix(kind, name, digest)], "reuse"):
            if found := self.find(kind, name, digest):  # not swept meanwhile
                self.add_ref(kind, name, digest)
            return found

    def publish(self, manifest: Manifest) -> Manifest:
        """Make an artifact visible: check its files, create its manifest, append to refs.

        Every file must have been put under `manifest.prefix` before. Returns the manifest that
        is in the store, which is another publisher's if that one came first. Raises StoreError
        if a file is not as its entry says or its name is not allowed, BusyError if one is missing.

        Only for files whose bytes are deterministic; otherwise use `publish_files`.
        """
        check_file_names(manifest)
        with self._making(manifest):
            published = self._make_visible(manifest)
            self.add_ref(published.kind, published.name, published.digest)
        return published

    def publish_files(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Put an artifact's files and publish it, where another publisher may have other bytes.

        For work whose bytes depend on the machine, such as a model: concurrent publishers agree
        on the files of one (pipelines.store.publishing), and an interrupted attempt is completed
        or replaced, never mixed. Do not `put` under `manifest.prefix` as well. `files` has the
        content of every entry of the manifest. Returns the manifest that is in the store.
        """
        with self._making(manifest):
            published = self._complete_files(manifest, files)
            self.add_ref(published.kind, published.name, published.digest)
        return published

    def complete_files(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Do what `publish_files` does, without making the artifact the latest of its name."""
        with self._making(manifest):
            return self._complete_files(manifest, files)

    def complete(self, manifest: Manifest) -> Manifest:
        """Do what `publish` does, without making the artifact the latest of its name."""
        check_file_names(manifest)
        with self._making(manifest):
            return self._make_visible(manifest)

    def check_there(self, manifest: Manifest) -> None:
        """Raise BusyError if an artifact has been deleted since it was found."""
        if self.size(f"{manifest.prefix}/{MANIFEST_NAME}") is None:
            raise BusyError(
                f"{manifest.prefix} was deleted from {self.url} meanwhile: run it again"
            )

    def _making(self, manifest: Manifest) -> AbstractContextManager[None]:
        """Return the lease of a publication, which ends after the ref is written."""
        return holding(self, [manifest.prefix, *made_of(manifest)], "publish")

    def _complete_files(self, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
        if files.keys() != {entry.path for entry in manifest.files}:
            raise ValueError(f"{manifest.prefix}: the manifest's entries are not the files given")
        check_file_names(manifest)
        for _ in range(_MAX_CHOICES):
            if self.find(manifest.kind, manifest.name, manifest.digest):
                break
            self._publish_chosen(manifest, files)
        publishing.clear(self, manifest)
        return self._visible(manifest)

    def _publish_chosen(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Publish the chosen candidate, if its files are available."""
        chosen = publishing.choose(self, manifest, files)
        if chosen is None:
            return
        content = publishing.staged_files(self, chosen)
        # Asked after the choice was read: it is taken back once the artifact is published.
        if self.find(manifest.kind, manifest.name, manifest.digest):
            return
        if content is None:
            publishing.drop(self, chosen)
            return
        for path in content:
            self.put(f"{chosen.prefix}/{path}", content[path])
        self._make_visible(chosen)

    def _make_visible(self, manifest: Manifest) -> Manifest:
        self._check_files(manifest)
        self.create(f"{manifest.prefix}/{MANIFEST_NAME}", manifest_to_json(manifest))
        return self._visible(manifest)

    def _visible(self, manifest: Manifest) -> Manifest:
        published = self.find(manifest.kind, manifest.name, manifest.digest)
        if published is None:
            raise BusyError(f"{manifest.prefix} was deleted while it was published: run it again")
        return published

    def latest(self, kind: Kind, name: str) -> Manifest | None:
        """Return the manifest published last under a name."""
        for path in reversed(self.ref_entries(kind, name)):
            digest = self.ref_digest(path)
            if digest and (manifest := self.find(kind, name, digest)):
                return manifest
        return None

    def resolve(self, kind: Kind, ref: str) -> Manifest:
        """Return the artifact that `ref` names.

        A ref is `name` (its latest), `name@digest`, `name@prefix of a digest`, or a digest or a
        prefix of at least 6 characters alone. Raises AbsentError if none matches, StoreError if
        several do or a manifest is damaged.
        """
        check_kind(kind)
        name, _, digest = ref.partition("@")
        names = self.list_dirs(kind)
        if not digest and name in names and (manifest := self.latest(kind, name)):
            return manifest
        wanted = digest or name
        pool = [name] if digest else names
        found = [
            manifest
            for candidate in pool
            if candidate in names
            for full in self._digests(kind, candidate, wanted)
            if (manifest := self.find(kind, candidate, full))
        ]
        if len({manifest.digest for manifest in found}) == 1:
            return found[0]
        kind_of_error = StoreError if found else AbsentError
        raise kind_of_error(_unresolved(kind, ref, names, found, self.url))

    def manifests(self, kind: Kind) -> Iterator[Manifest]:
        """Yield every complete artifact of a kind; warn of manifests that cannot be read."""
        for found in self.survey(kind):
            if isinstance(found, Unreadable):
                _log.warning("%s", found.reason)
            else:
                yield found

    def unreadable(self, kind: Kind) -> list["Unreadable"]:
        """Return the manifests of a kind that cannot be read."""
        return [found for found in self.survey(kind) if isinstance(found, Unreadable)]

    def survey(self, kind: Kind) -> Iterator["Manifest | Unreadable"]:
        """Yield every manifest of a kind; a damaged one as `Unreadable`."""
        for name in self.list_dirs(kind):
            for digest in self.list_dirs(f"{kind}/{name}"):
                try:
                    found = self.find(kind, name, digest)
                except StoreError as error:
                    found = Unreadable(f"{kind}/{name}/{digest}/{MANIFEST_NAME}", str(error))
                except ValueError:  # a name that no artifact has
                    continue
                if found:
                    yield found

    def _is_latest(self, kind: Kind, name: str, digest: str) -> bool:
        entries = self.ref_entries(kind, name)
        return bool(entries) and self.ref_digest(entries[-1]) == digest

    def _digests(self, kind: Kind, name: str, prefix: str) -> list[str]:
        if len(prefix) < MIN_DIGEST_PREFIX:
            return []
        return [full for full in self.list_dirs(f"{kind}/{name}") if full.startswith(prefix)]

    def _check_files(self, manifest: Manifest) -> None:
        """Raise StoreError unless every file is there with its size and its SHA-256."""
        total = sum(entry.bytes for entry in manifest.files)
        with doing("publish", f"{manifest.kind}/{manifest.name}", total=total):
            self._check_all(manifest)

    def _check_all(self, manifest: Manifest) -> None:
        sizes = {item.path: item.bytes for item in self.objects(manifest.prefix)}
        for entry in manifest.files:
            size = sizes.get(f"{manifest.prefix}/{entry.path}")
            if size is None:
                raise BusyError(
                    f"cannot publish {manifest.prefix}: {entry.path} is missing; if a garbage "
                    "collection took it, run it again"
                )
            if size != entry.bytes:
                raise StoreError(
                    f"cannot publish {manifest.prefix}: {entry.path} should have {entry.bytes} "
                    f"bytes, the store has {size}"
                )
        if problems := self.damages(manifest):
            raise BusyError(
                f"cannot publish {manifest.prefix}: {problems[0]}; another publisher is at work, "
                "or the store lost written files: run it again"
            )
        self.sync(f"{manifest.prefix}/{entry.path}" for entry in manifest.files)


def open_store(url: str) -> Store:
    """Open a store at a directory path, `file://`, `s3://`, `gs://`, `az://` or `memory://`.

    A local directory is made if needed. Credentials and endpoints of remote stores come from
    the environment alone (AWS_*, GOOGLE_*, AZURE_*).
    """
    return Store(*open_backend(url))


def existing_store(url: str) -> Store:
    """Open an existing store for reading; no directory is made.

    Raises AbsentError if a local store does not exist.
    """
    root = local_root(url)
    if root is not None and not root.is_dir():
        raise AbsentError(f"there is no store at {root}: `sketchmill build` makes one")
    return open_store(url)


def made_of(manifest: Manifest) -> list[str]:
    """Return the direct inputs of an artifact that are artifacts, as kind/name/digest."""
    return [
        artifact_prefix(ref.kind, ref.name, ref.digest)
        for ref in manifest.inputs
        if ref.kind in KINDS
    ]


def check_file_names(manifest: Manifest) -> None:
    """Raise StoreError unless a manifest's files have allowed names that differ in more than case.

    Two names that differ in case alone are one file on some file systems.
    """
    seen = {MANIFEST_NAME: MANIFEST_NAME}
    for entry in manifest.files:
        check_path(f"{manifest.prefix}/{entry.path}")
        if (other := seen.setdefault(entry.path.casefold(), entry.path)) is not entry.path:
            raise StoreError(f"{manifest.prefix}: {entry.path!r} collides with {other!r}")


def _unresolved(kind: str, ref: str, names: list[str], found: list[Manifest], url: str) -> str:
    if found:
        which = ", ".join(sorted(f"{m.name}@{m.digest[:12]}" for m in found))
        return f"{ref!r} means several {kind} in {url}: {which}"
    known = ", ".join(names) or "none"
    return f"no complete artifact {ref!r} among the {kind} of {url}; names there: {known}"
