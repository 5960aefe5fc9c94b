"""Tell classes and splits of a folder of pictures by where the pictures lie.

    bee/1.png                         class bee
    train/bee/1.png, val/bee/2.png    class bee, in splits: the names of _SPLITS, in any case
    dataset/bee/1.png                 the same, one folder deeper, as archives unpack
    png/train/bee/000000000.png       an export of this program: png-classes.csv beside png/ names
                                      the classes, and all folders in png/ are splits
    1.png, images/1.png               with a metadata file that has labels (listing.py)

Any other nesting is refused.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.sources.base import BadFileError
from pipelines.sources.class_files import catalogue_order
from pipelines.sources.folders.classes import Group, nfc, part_of
from pipelines.sources.folders.listing import LISTINGS, class_folders
from pipelines.sources.folders.tree import Tree, top_of

_SPLITS = ("train", "training", "valid", "val", "validation", "test", "testing")
_EXPORT, _EXPORT_CLASSES = "png", "png-classes.csv"


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
        part = part_of(tree, split, table, label_names)
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
        (url, text) for url, text in empty.items() if nfc(Path(url).name) not in found
    ]
    return layout


def _base(tree: Tree) -> tuple[Tree, dict[str, str]]:
    """Return the folder that holds classes or splits, and the classes of an export's folders."""
    root = tree.root
    if root.name == _EXPORT and (root.parent / _EXPORT_CLASSES).is_file():
        return tree, class_folders(root.parent / _EXPORT_CLASSES)
    if _EXPORT_CLASSES in tree.files and _EXPORT in tree.folders:
        return tree.below(_EXPORT), class_folders(root / _EXPORT_CLASSES)
    tops = {top_of(name) for name in tree.pictures}
    is_wrapped = len(tops) == 1 and all(name.count("/") >= 2 for name in tree.pictures)
    if is_wrapped and not tops & set(_known_splits(tops)) and tree.listing() is None:
        return tree.below(tops.pop()), {}
    return tree, {}


def _splits(tree: Tree, *, is_export: bool) -> tuple[str, ...]:
    """Return the folders that are splits, also those without pictures."""
    tops = {top_of(name) for name in tree.pictures}
    lists = {top_of(f) for f in tree.files if f.count("/") == 1 and f.endswith(LISTINGS)}
    lists |= {*_known_splits({f for f in tree.folders if "/" not in f})}
    known = _known_splits(tops | lists)
    if is_export:
        return tuple(sorted((tops | lists) - {""}))
    others = sorted(tops - set(known))
    deep = {top_of(name) for name in tree.pictures if name.count("/") >= 2}
    if known and not others:
        return tuple(known)
    if deep & set(known):
        flat = next((name for name in tree.pictures if "/" not in name), "")
        where = flat or f"the folder {others[0]}"
        raise BadFileError(
            f"{tree.root} has {where} beside {known[0]}, which is a split: expected splits of the "
            f"names {', '.join(_SPLITS)} and nothing else"
        )
    return ()


def _known_splits(names: set[str]) -> list[str]:
    return sorted(name for name in names if name.lower() in _SPLITS)


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
