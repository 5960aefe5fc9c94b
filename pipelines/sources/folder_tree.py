"""Tell classes and splits of a folder of pictures by where the pictures lie.

    bee/1.png                         class bee
    train/bee/1.png, val/bee/2.png    class bee, in splits: the names of _SPLITS, in any case
    dataset/bee/1.png                 the same, one folder deeper, as archives unpack
    png/train/bee/000000000.png       an export of this program: png-classes.csv beside png/ names
                                      the classes, and all folders in png/ are splits
    1.png, images/1.png               with a metadata file that has labels (folder_listing.py)

Any other nesting is refused. Hidden files, __MACOSX and contact sheets are not looked at.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from pipelines.sources.base import BadFileError
from pipelines.sources.class_files import PICTURE_ENDINGS, catalogue_order, describe_unread
from pipelines.sources.files import local_path
from pipelines.sources.folder_listing import LISTINGS, Listing, class_folders, read_listing

_SPLITS = ("train", "training", "valid", "val", "validation", "test", "testing")
_EXPORT, _EXPORT_CLASSES = "png", "png-classes.csv"
_ALL = 1 << 20
_SHEETS, _MANIFEST = "sheets", "manifest.json"
# Text beside pictures tells of them, and is none that should have been read.
NOTES = (".csv", ".tsv", ".jsonl")


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


@dataclass(slots=True, kw_only=True)
class Layout:
    """What a folder of pictures holds.

    class_names  by their numbers where something gives these, else as the catalogue has them
    splits       of the source's own, also those without pictures
    unread       address and reason of files and folders that give no drawings
    """

    root: Path
    splits: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    groups: list[Group] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)


def layout_of(tree: Tree, label_names: Sequence[str] = ()) -> Layout:
    """Return the classes and splits of the pictures of a tree.

    label_names  names of numbers in metadata without names

    Raises BadFileError where the class or the split of a picture cannot be told.
    """
    tree, table = _base(tree)
    layout = Layout(root=tree.root, splits=_splits(tree, is_export=bool(table)))
    pairs = {(name, number) for number, name in enumerate(table.values())}
    empty: dict[str, str] = {}
    is_named = bool(table)
    for split in layout.splits or ("",):
        part = _part(tree, split, table, label_names)
        layout.groups += part.groups()
        layout.unread += part.unread()
        empty |= part.empty()
        is_named |= part.is_named
        pairs |= part.numbers()
    numbers = _one_to_one(tree.root, pairs)
    found = dict.fromkeys(group.class_name for group in layout.groups)
    if not is_named:
        _check_cases(tree.root, list(found))
    is_numbered = bool(numbers) and set(found) <= set(numbers)
    layout.class_names = (
        tuple(sorted(numbers, key=numbers.__getitem__)) if is_numbered else catalogue_order(found)
    )
    layout.unread += [
        (url, text) for url, text in empty.items() if _nfc(Path(url).name) not in found
    ]
    return layout


def _base(tree: Tree) -> tuple[Tree, dict[str, str]]:
    """Return the folder that holds classes or splits, and the classes of an export's folders."""
    root = tree.root
    if root.name == _EXPORT and (root.parent / _EXPORT_CLASSES).is_file():
        return tree, class_folders(root.parent / _EXPORT_CLASSES)
    if _EXPORT_CLASSES in tree.files and _EXPORT in tree.folders:
        return tree.below(_EXPORT), class_folders(root / _EXPORT_CLASSES)
    tops = {_top(name) for name in tree.pictures}
    is_wrapped = len(tops) == 1 and all(name.count("/") >= 2 for name in tree.pictures)
    if is_wrapped and not tops & set(_known_splits(tops)) and tree.listing() is None:
        return tree.below(tops.pop()), {}
    return tree, {}


def _splits(tree: Tree, *, is_export: bool) -> tuple[str, ...]:
    """Return the folders that are splits, also those without pictures."""
    tops = {_top(name) for name in tree.pictures}
    lists = {_top(f) for f in tree.files if f.count("/") == 1 and f.endswith(LISTINGS)}
    lists |= {*_known_splits({f for f in tree.folders if "/" not in f})}
    known = _known_splits(tops | lists)
    if is_export:
        return tuple(sorted((tops | lists) - {""}))
    others = sorted(tops - set(known))
    deep = {_top(name) for name in tree.pictures if name.count("/") >= 2}
    if known and not others:
        return tuple(known)
    if deep & set(known):
        where = f"the folder {others[0]}" if others[0] else f"{_first_flat(tree)}"
        raise BadFileError(
            f"{tree.root} has {where} beside {known[0]}, which is a split: expected splits of the "
            f"names {', '.join(_SPLITS)} and nothing else"
        )
    return ()


def _known_splits(names: set[str]) -> list[str]:
    return sorted(name for name in names if name.lower() in _SPLITS)


@dataclass(frozen=True, kw_only=True)
class _Part:
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
        return [_top(name) for name in self.tree.pictures]

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
            found = [_nfc(name) for name in listing.labels(str(listing.text), self.listed)]
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
        return [_nfc(self.label_names[label]) for label in labels]

    def _folder_classes(self) -> list[str]:
        for name in self.tree.pictures:
            if name.count("/") != 1:
                raise BadFileError(self._why_no_class(name))
        missing = next((f for f in self.folders if self.table and f not in self.table), None)
        if missing is not None:
            raise BadFileError(
                f"{self.tree.root / missing} is no folder that {_EXPORT_CLASSES} lists: take it "
                "away, or the table"
            )
        by_name: dict[str, str] = {}
        for folder in dict.fromkeys(self.folders):
            other = by_name.setdefault(_nfc(folder), folder)
            if other != folder:
                raise BadFileError(
                    f"{self.tree.root} has two folders {_nfc(folder)!r}, in two forms of Unicode: "
                    "put their pictures into one"
                )
        return [self.table.get(folder) or _nfc(folder) for folder in self.folders]

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
        """Raise BadFileError if a folder says another class than the listing."""
        names = set(classes)
        for folder, name, picture in zip(self.folders, classes, self.tree.pictures, strict=True):
            said = self.table.get(folder) or _nfc(unquote(folder))
            if said != name and (said in names or folder in self.table):
                raise BadFileError(
                    f"{self.tree.root / picture} is of {said!r} by its folder, of {name!r} in "
                    f"{listing.path.name}: mend one of them"
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


def _part(tree: Tree, split: str, table: Mapping[str, str], label_names: Sequence[str]) -> _Part:
    """Return a split's pictures with the metadata in its folder, or in the one above.

    Raises BadFileError if these list files that are not there.
    """
    part = tree.below(split) if split else tree
    listing, prefix = part.listing(), ""
    if split and listing is None:
        listing, prefix = tree.listing(), f"{split}/"
    found = _Part(
        tree=part,
        split=split,
        listing=listing,
        prefix=prefix,
        table=table,
        label_names=label_names,
    )
    if listing is not None:
        there = {_nfc(name) for name in found.listed}
        absent = [n for n in listing.rows if n.startswith(prefix) and n not in there]
        if absent:
            raise BadFileError(
                f"{listing.path} lists {len(absent)} pictures that are not there, the first is "
                f"{absent[0]}: copy them again, or take their lines out"
            )
    return found


def _one_to_one(root: Path, pairs: set[tuple[str, int]]) -> dict[str, int]:
    """Return the number of each class; raise BadFileError if one has two, or two have one."""
    for side, what in enumerate(("class", "label")):
        counts = Counter(pair[side] for pair in pairs)
        for value in [value for value, count in counts.items() if count > 1]:
            one, two, *_ = sorted(pair[1 - side] for pair in pairs if pair[side] == value)
            raise BadFileError(
                f"{root}: its metadata have the {what} {value!r} beside {one!r} and {two!r}: a class "
                "has one name and one label"
            )
    return dict(pairs)


def _check_cases(root: Path, names: Sequence[str]) -> None:
    """Raise BadFileError for folders of which another system may see only one."""
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise BadFileError(
                f"{root} has the classes {other!r} and {name!r}, which differ in case alone: put "
                "their pictures into folders of one name"
            )


def _first_flat(tree: Tree) -> str:
    return next(name for name in tree.pictures if "/" not in name)


def _top(name: str) -> str:
    """Return the first folder of a path, "" for none."""
    return name.partition("/")[0] if "/" in name else ""


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
