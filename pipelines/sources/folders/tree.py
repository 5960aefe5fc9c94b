"""List a local folder of pictures and all that lies below it.

Hidden files, __MACOSX and the contact sheets of datasets are not looked at.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.sources.class_files import PICTURE_ENDINGS
from pipelines.sources.files import local_path
from pipelines.sources.folders.listing import LISTINGS, Listing, read_listing

_ALL = 1 << 20
_SHEETS, _MANIFEST = "sheets", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All files and folders below a local folder, as sorted relative paths with /."""

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]

    @cached_property
    def pictures(self) -> tuple[str, ...]:
        """The files that are pictures by their names."""
        return tuple(name for name in self.files if name.lower().endswith(PICTURE_ENDINGS))

    def below(self, folder: str) -> "Tree":
        """Return the tree of a folder right in the root."""
        start = f"{folder}/"
        return Tree(
            root=self.root / folder,
            files=tuple(f.removeprefix(start) for f in self.files if f.startswith(start)),
            folders=tuple(f.removeprefix(start) for f in self.folders if f.startswith(start)),
        )

    def listing(self) -> Listing | None:
        """Return what the metadata right in the root says."""
        found = next((name for name in LISTINGS if name in self.files), None)
        return None if found is None else read_listing(self.root / found)


def read_tree(directory: str, depth: int = _ALL) -> Tree:
    """Return what lies in a local folder and so many levels of folders below it.

    Links are followed, but not in circles.
    """
    root = local_path(directory).absolute()
    found = sorted(_walk(root, "", (), depth))
    return Tree(
        root=root,
        files=tuple(name for name, is_folder in found if not is_folder),
        folders=tuple(name for name, is_folder in found if is_folder),
    )


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...], depth: int
) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries]
    has_sheets = (_MANIFEST, False) in found
    for name, is_folder in found:
        if name.startswith(".") or name == "__MACOSX" or (has_sheets and name == _SHEETS):
            continue
        yield prefix + name, is_folder
        if is_folder and depth > 0:
            status = (folder / name).stat()
            place = status.st_dev, status.st_ino
            if place not in above:
                yield from _walk(folder / name, f"{prefix}{name}/", (*above, place), depth - 1)


def top_of(name: str) -> str:
    """Return the first folder of a path, "" for none."""
    return name.partition("/")[0] if "/" in name else ""
