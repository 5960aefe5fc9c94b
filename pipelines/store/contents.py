"""Read files of artifacts after verifying their size and SHA-256."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from pipelines.processes.progress import advance
from pipelines.store.errors import BusyError, StoreError
from pipelines.store.manifest import MANIFEST_NAME, FileEntry, Manifest, artifact_digest
from pipelines.store.objects import Content, Objects

_READERS = 4


class Contents(Objects):
    """Objects under one root, with verified reads of the files that manifests name."""

    def read(self, manifest: Manifest, path: str) -> bytes:
        """Return the content of an artifact's file; raise StoreError if it differs from the published one."""
        for entry in manifest.files:
            if entry.path == path:
                return bytes(self.view_entry(manifest, entry))
        raise StoreError(f"{manifest.prefix} in {self.url} has no file {path!r}")

    def view_entry(self, manifest: Manifest, entry: FileEntry) -> Content:
        """Return the content of an entry as `read` does, memory-mapped where possible."""
        return self.checked(f"{manifest.prefix}/{entry.path}", entry.bytes, entry.sha256)

    def checked(self, path: str, size: int, sha256: str) -> Content:
        """Return an object's content; raise StoreError unless it has this size and SHA-256.

        Raises BusyError if the whole artifact is gone: a retry can help.
        All reads of artifacts' files go through this method.
        """
        return self.surely(lambda: self._checked(path, size, sha256))

    def _checked(self, path: str, size: int, sha256: str) -> Content:
        remedy = self.remedy(path)
        try:
            content = self.view(path)
        except FileNotFoundError as error:
            raise self._missing(path) from error
        if len(content) != size:
            raise StoreError(f"{path} is damaged, {len(content)} bytes instead of {size}: {remedy}")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StoreError(f"{path} is damaged, it does not match its SHA-256: {remedy}")
        advance(size)
        return content

    def _missing(self, path: str) -> Exception:
        prefix = "/".join(path.split("/")[:3])
        if self.size(f"{prefix}/{MANIFEST_NAME}") is None:
            return BusyError(f"{prefix} was deleted from {self.url} meanwhile: run it again")
        return StoreError(f"{path} is missing: {self.remedy(path)}")

    def damaged(self, manifest: Manifest) -> list[str]:
        """Return the damage of an artifact, after reading every byte of its files."""
        problems = []
        if artifact_digest(manifest.kind, manifest.spec, manifest.inputs) != manifest.digest:
            problems.append(f"{MANIFEST_NAME}: spec and inputs do not give its digest")
        return problems + self.damages(manifest)

    def damages(self, manifest: Manifest) -> list[str]:
        """Return the files of an artifact that are missing or differ from its manifest."""
        try:
            sizes = {item.path: item.bytes for item in self.objects(manifest.prefix)}
        except StoreError as error:  # a link out of the root
            return [str(error)]
        sized = {entry: sizes.get(f"{manifest.prefix}/{entry.path}") for entry in manifest.files}
        problems = [
            f"{entry.path}: "
            + ("missing" if size is None else f"{size} bytes instead of {entry.bytes}")
            for entry, size in sized.items()
            if size != entry.bytes
        ]
        whole = [entry for entry, size in sized.items() if size == entry.bytes]
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda entry: self._sure_damage(manifest, entry), whole)
            return problems + [problem for problem in found if problem]

    def _sure_damage(self, manifest: Manifest, entry: FileEntry) -> str | None:
        """Read a file of a remote store again before reporting it as damaged."""
        problem = self._content_damage(manifest, entry)
        if problem is None or self.local_path() is not None:
            return problem
        return self._content_damage(manifest, entry)

    def _content_damage(self, manifest: Manifest, entry: FileEntry) -> str | None:
        try:
            if self.sha256(f"{manifest.prefix}/{entry.path}") != entry.sha256:
                return f"{entry.path}: content does not match its SHA-256"
        except FileNotFoundError:  # deleted since
            return f"{entry.path}: missing"
        except (StoreError, PermissionError) as error:  # no name of ours, a pipe
            return f"{entry.path}: {error}"
        return None

    def remedy(self, path: str) -> str:
        """Return what to do about a damaged file of an artifact."""
        prefix = "/".join(path.split("/")[:3])
        return (
            f"delete {prefix} in {self.url} and run again what made it, or pull it from another "
            "store"
        )
