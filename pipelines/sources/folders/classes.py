"""Tell which class each picture of a split has: by the listing beside it, or by its folder."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from pipelines.sources.base import BadFileError
from pipelines.sources.class_files import PICTURE_ENDINGS, describe_unread
from pipelines.sources.folders.listing import Listing
from pipelines.sources.folders.tree import Tree, top_of

# Text beside pictures tells of them, and is none that should have been read.
NOTES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The pictures of one class in one split.

    split    as the source names it, "" for none
    folder   that the names are relative to
    names    sorted paths with /
    listing  describes the pictures, whose names there begin with `prefix`
    """

    split: str
    class_name: str
    folder: Path
    names: tuple[str, ...]
    listing: Listing | None = None
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split, or all pictures where there are none.

    listing, prefix  describe the pictures; see Group
    table            class of each folder of an export
    """

    tree: Tree
    split: str
    listing: Listing | None
    prefix: str
    table: Mapping[str, str]
    label_names: Sequence[str]

    @property
    def is_named(self) -> bool:
        """Whether the listing names the classes."""
        return self.listing is not None and self.listing.text is not None

    @cached_property
    def folders(self) -> list[str]:
        """The first folder of each picture, "" for none."""
        return [top_of(name) for name in self.tree.pictures]

    @cached_property
    def listed(self) -> list[str]:
        """The names of the pictures in the listing."""
        return [self.prefix + name for name in self.tree.pictures]

    def groups(self) -> list[Group]:
        """Return the pictures by class."""
        by_class: dict[str, list[str]] = {}
        for name, class_name in zip(self.tree.pictures, self.classes, strict=True):
            by_class.setdefault(class_name, []).append(name)
        return [self._group(class_name, names) for class_name, names in by_class.items()]

    def _group(self, class_name: str, names: Sequence[str]) -> Group:
        """Return the pictures of a class, below the folder that all of them lie right in."""
        folders = {name.rpartition("/")[0] for name in names}
        shared = f"{folders.pop()}/".removeprefix("/") if len(folders) == 1 else ""
        return Group(
            split=self.split,
            class_name=class_name,
            folder=self.tree.root / shared,
            names=tuple(name.removeprefix(shared) for name in names),
            listing=self.listing,
            prefix=self.prefix + shared,
        )

    @cached_property
    def classes(self) -> list[str]:
        """The class of each picture: of the listing, else of its folder."""
        listing = self.listing
        if listing is not None and self.is_named:
            found = [nfc(name) for name in listing.labels(str(listing.text), self.listed)]
            self._check_folders(listing, found)
            return found
        if listing is not None and listing.number is not None and not self._numbers_are_folders:
            return self._named(listing)
        return self._folder_classes()

    def numbers(self) -> set[tuple[str, int]]:
        """Return each class with its number, if the listing has numbers."""
        if self.listing is None or self.listing.number is None:
            return set()
        return {*zip(self.classes, self.listing.numbers(self.listed), strict=True)}

    @property
    def _numbers_are_folders(self) -> bool:
        """Whether each class folder has a number of its own, so that it names it."""
        assert self.listing is not None
        values = self.listing.numbers(self.listed)
        pairs = {*zip(self.folders, values, strict=True)}
        return "" not in self.folders and len(pairs) == len(set(self.folders)) == len(set(values))

    def _named(self, listing: Listing) -> list[str]:
        """Return the names that the user gives to the listing's numbers."""
        if not self.label_names:
            raise BadFileError(
                f"{listing.path} numbers its classes and does not name them: give --label-names, or "
                "write a column class_name"
            )
        labels, count = listing.numbers(self.listed), len(self.label_names)
        if wrong := [label for label in labels if not 0 <= label < count]:
            raise BadFileError(
                f"{listing.path} has the label {wrong[0]}, --label-names has {count} names"
            )
        return [nfc(self.label_names[label]) for label in labels]

    def _folder_classes(self) -> list[str]:
        for name in self.tree.pictures:
            if name.count("/") != 1:
                raise BadFileError(self._why_no_class(name))
        missing = next((f for f in self.folders if self.table and f not in self.table), None)
        if missing is not None:
            raise BadFileError(
                f"{self.tree.root / missing} is no folder that png-classes.csv lists: take it "
                "away, or the table"
            )
        by_name: dict[str, str] = {}
        for folder in dict.fromkeys(self.folders):
            other = by_name.setdefault(nfc(folder), folder)
            if other != folder:
                raise BadFileError(
                    f"{self.tree.root} has two folders {nfc(folder)!r}, in two forms of Unicode: "
                    "put their pictures into one"
                )
        return [self.table.get(folder) or nfc(folder) for folder in self.folders]

    def _why_no_class(self, name: str) -> str:
        """Return why a picture has no class: where it lies, and what was expected."""
        where = self.tree.root / name
        expected = (
            "expected a folder a class, as bee/1.png or train/bee/1.png, or a metadata.csv of the "
            "columns file_name and label"
        )
        if "/" not in name:
            what = f"in the split {self.split}" if self.split else "right in the source"
            return f"{where} is a picture of no class {what}: {expected}"
        return (
            f"{where} lies {name.count('/')} folders deep, in none that names its class: {expected}"
        )

    def _check_folders(self, listing: Listing, classes: Sequence[str]) -> None:
        """Raise BadFileError if folders say other classes than the listing.

        They may have other names, each of its class, as WordNet's have, or be only one.
        """
        names, folders = set(classes), set(self.folders)
        pairs = {*zip(self.folders, classes, strict=True)}
        is_free = len(folders) == 1 or len(pairs) == len(folders) == len(names)
        for folder, name, picture in zip(self.folders, classes, self.tree.pictures, strict=True):
            said = self.table.get(folder) or nfc(unquote(folder))
            if said != name and (said in names or folder in self.table or not is_free):
                raise BadFileError(
                    f"{self.tree.root / picture} is of {said!r} by its folder, of {name!r} in "
                    f"{listing.path.name}: mend one of them, or take the {listing.text} out of it"
                )

    def empty(self) -> dict[str, str]:
        """Return address and problem of each class folder without pictures."""
        if self.is_named:
            return {}
        full, found = set(self.folders), {}
        for folder in self.tree.folders:
            if "/" in folder or folder in full:
                continue
            inside = [f for f in self.tree.files if f.startswith(f"{folder}/")]
            there = f"; it has {len(inside)} files, such as {inside[0]}" if inside else ""
            where = self.tree.root / folder
            found[str(where)] = (
                f"{where} has no pictures ({', '.join(PICTURE_ENDINGS)}){there}: take it away; to "
                "leave it out, name the classes or use --on-bad-file skip"
            )
        return found

    def unread(self) -> list[tuple[str, str]]:
        """Return address and reason of files in class folders that should have been read."""
        found, folders = [], set(self.folders)
        for name in self.tree.files:
            folder, is_inside, _ = name.partition("/")
            what = (
                "" if name.lower().endswith((*PICTURE_ENDINGS, *NOTES)) else describe_unread(name)
            )
            if what and is_inside and folder in folders:
                url = str(self.tree.root / name)
                found.append((url, f"{url} is {what}; to leave it out, use --on-bad-file skip"))
        return found


def part_of(tree: Tree, split: str, table: Mapping[str, str], label_names: Sequence[str]) -> Part:
    """Return a split's pictures with the metadata in its folder, or in the one above.

    Raises BadFileError if these list files that are not there.
    """
    part = tree.below(split) if split else tree
    listing, prefix = part.listing(), ""
    if split and listing is None:
        listing, prefix = tree.listing(), f"{split}/"
    found = Part(
        tree=part,
        split=split,
        listing=listing,
        prefix=prefix,
        table=table,
        label_names=label_names,
    )
    if listing is not None:
        there = {nfc(name) for name in found.listed}
        absent = [n for n in listing.rows if n.startswith(prefix) and n not in there]
        if absent:
            raise BadFileError(
                f"{listing.path} lists {len(absent)} pictures that are not there, the first is "
                f"{absent[0]}: copy them again, or take their lines out"
            )
    return found


def nfc(text: str) -> str:
    """Return text in the form in which names are compared."""
    return unicodedata.normalize("NFC", text)
