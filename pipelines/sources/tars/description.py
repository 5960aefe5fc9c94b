"""Read dataset.json, which exports of this program have beside their tars.

Files of this name by other programs say no class_names and are not looked at.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.sources.base import BadFileError
from pipelines.sources.files import FileRanges, file_size, is_listable, join_url
from pipelines.sources.tables.places import splits_of
from pipelines.store.errors import reading

_NAME = "dataset.json"
_MOST_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The names of classes in the order of labels, and of each split the tars with their samples.

    url     of the file, "" without one
    folder  of the tars
    """

    folder: str
    url: str = ""
    names: tuple[str, ...] = ()
    splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def splits_of(self, urls: Sequence[str]) -> list[dict[str, str]]:
        """Return the layout's entry of the split of each tar: as listed, else as its name says."""
        if not self.splits:
            return splits_of(urls)
        return [{"split": self._listed(url)[0]} for url in urls]

    def check(self, url: str, rows: int) -> None:
        """Raise BadFileError if a tar is not listed, or with another number of samples."""
        if self.splits and rows != (expected := self._listed(url)[1]):
            raise BadFileError(
                f"{url} has {rows} samples, {self.url} says {expected}: copy both again"
            )

    def missing(self, urls: Sequence[str]) -> list[tuple[str, BadFileError]]:
        """Return the listed tars that are not among these."""
        listed = [join_url(self.folder, name) for tars in self.splits.values() for name in tars]
        return [
            (url, BadFileError(f"{url}, which {self.url} lists, is not there: copy it again"))
            for url in listed
            if url not in urls
        ]

    def empty_splits(self) -> list[str]:
        """Return the splits without a tar."""
        return [split for split, tars in self.splits.items() if not tars]

    def _listed(self, url: str) -> tuple[str, int]:
        name = url.removeprefix(join_url(self.folder, "")).lstrip("/")
        for split, tars in self.splits.items():
            if name in tars:
                return split, tars[name]
        raise BadFileError(
            f"{self.url} does not list {name}: take it away, or list it with its samples"
        )


def describe_tars(folder: str) -> Description:
    """Return what is known of the tars of a folder; raise BadFileError for a damaged file."""
    url = join_url(folder, _NAME)
    size = file_size(url) if is_listable(folder) else None
    if size is None:
        return Description(folder=folder)
    with reading(url, "a description of tars"):
        found = json.loads(FileRanges(url).read(0, min(size, _MOST_BYTES)))
        if not isinstance(found, dict) or "class_names" not in found:
            return Description(folder=folder)
        names = found["class_names"]
        if len(set(names)) < len(names) or not all(isinstance(n, str) and n for n in names):
            raise ValueError("class_names are expected to be different texts")
        splits = {
            str(split): {str(tar["url"]): int(tar["nsamples"]) for tar in tars}
            for split, tars in found.get("splits", {}).items()
        }
    return Description(folder=folder, url=url, names=tuple(names), splits=splits)
