"""One artifact in a folder of its own, outside a store: downloaded, copied or unpacked.

The files are where the manifest says, relative to it. Each is checked against its size and SHA-256
when it is read, as in a store. Links are followed: the cache of a hub is made of them.
"""

from collections.abc import Sequence
from pathlib import Path

from pipelines.store.artifacts import Store
from pipelines.store.backends import open_backend
from pipelines.store.errors import StoreError
from pipelines.store.manifest import MANIFEST_NAME, FileEntry, Kind, Manifest, manifest_from_json
from pipelines.store.objects import Content, mapped


class FolderStore(Store):
    """Reads the files of the artifact in a folder; nothing is listed or written."""

    def view_entry(self, _manifest: Manifest, entry: FileEntry) -> Content:
        """Return what Store.view_entry does."""
        return self.checked(entry.path, entry.bytes, entry.sha256)

    def view(self, path: str) -> Content:
        """Return what Store.view does."""
        with (Path(self.url) / path).open("rb") as file:
            return mapped(file)

    def remedy(self, _path: str) -> str:
        """Return what to do about a damaged file."""
        return f"download or copy {self.url} again"

    def _missing(self, path: str) -> Exception:
        return StoreError(f"{path} is missing in {self.url}: {self.remedy(path)}")


def named_folder(ref: str | Path) -> Path | None:
    """Return the folder of an artifact that `ref` names, None for a reference into a store.

    A folder is named by a Path, by text that begins as a path does (/, ./, ../, ~), or by text that
    leads to a manifest. Raises ValueError if it has no manifest.
    """
    folder = Path(ref).expanduser()
    if (folder / MANIFEST_NAME).is_file():
        return folder
    if isinstance(ref, Path) or ref.startswith(("/", "./", "../", "~")):
        state = "it has no manifest.json" if folder.is_dir() else "there is no such folder"
        raise ValueError(
            f"{ref} is no artifact, {state}: name the folder that has manifest.json, such as "
            "<store>/models/<name>/<digest>"
        )
    return None


def open_folder(folder: Path, kinds: Sequence[Kind]) -> tuple[FolderStore, Manifest]:
    """Open an artifact of one of these kinds; its files are checked as they are read.

    Raises ValueError if the manifest is damaged or of another kind.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = manifest_from_json(path.read_bytes())
    except ValueError as error:
        raise StoreError(f"{path}: {error}; download or copy {folder} again") from error
    if manifest.kind not in kinds:
        raise StoreError(f"{path} is of {manifest.kind}, expected {' or '.join(kinds)}")
    return FolderStore(*open_backend(str(folder))), manifest
