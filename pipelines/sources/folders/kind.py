"""Folders of pictures as a source, a folder a class: torchvision's ImageFolder, Hugging Face's
imagefolder, Keras, and the export `png` of this program.

layout.py tells classes and splits by where the pictures lie. Pictures of another size are
padded with paper and resized, unless they are to be cropped. Of each class it is found out whether
its ink is dark, on light paper; such a class is inverted. Both are counted as repairs. Only local
folders are read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.sources.base import (
    BadFileError,
    FileFormat,
    Names,
    Place,
    Request,
    Source,
    SourceFile,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.class_files import PICTURE_ENDINGS, describe_unread
from pipelines.sources.files import hashing, is_remote, list_tree
from pipelines.sources.folders.classes import NOTES, Group
from pipelines.sources.folders.layout import Layout, layout_of
from pipelines.sources.folders.reader import (
    FolderReader,
    Index,
    has_dark_ink,
    index_pictures,
    sizes_and_key,
    write_columns,
)
from pipelines.sources.folders.tree import Tree, read_tree
from pipelines.sources.metadata import COLUMN_NAMES
from pipelines.store.manifest import canonical_json

# Fewer pictures in a folder beside files of another kind may be those of a README.
_FEW_PICTURES = 8
# As deep as exports of this program have pictures: png/train/bee.
_NEAR = 3
_Indexed = tuple[Group, Index]


class Folders(SourceKind):
    """A folder of pictures by class, with or without splits."""

    title = "folder of pictures by class"
    formats: Mapping[str, FileFormat] = {
        "pictures": FileFormat(read=FolderReader, per_sec=5_000),
    }

    def find(self, directory: str, names: Names, image_size: int, is_known: bool) -> list[Place]:
        """Return the directory if pictures lie below it that are more than an illustration."""
        del names, image_size
        if is_remote(directory):
            if not is_known and _prevail(tuple(list_tree(directory, ""))):
                raise ValueError(
                    f"{directory} has pictures, which are read from a local copy of the folder"
                )
            return []
        try:
            tree = read_tree(directory, _NEAR) if is_known else read_tree(directory)
        except PermissionError:
            if is_known:
                return []
            raise
        if not tree.pictures or not (_are_many(tree) if is_known else _prevail(tree.files)):
            return []
        return [Place(kind="folders", directory=directory)]

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the names in the order of their numbers, if they have some."""
        return layout_of(read_tree(place.directory), options.label_names).class_names

    def open(self, place: Place, request: Request) -> Source:
        """Return the pictures of each class and split as one file.

        Raises ValueError if it lacks a class, BadFileError where class or split of a picture
        cannot be told, and for a class whose pictures are of two kinds of ink.
        """
        options = request.options
        layout = layout_of(read_tree(place.directory), options.label_names)
        names = _chosen(layout, place, request.classes)
        bad = layout.unread if request.classes is None or options.every_class else []
        if bad and not options.skip_bad_files:
            raise BadFileError(bad[0][1])
        found, failed = _indexed(layout, names, place, request)
        files, bad = [], [*bad, *failed]
        for class_name, indexed in found.items():
            try:
                files += _source_files(class_name, indexed, request)
            except BadFileError as error:
                if not options.skip_bad_files:
                    raise
                bad.append((str(indexed[0][0].folder), str(error)))
        full = {file.layout.get("split") for file in files}
        files += [
            _empty(layout.root, split, names[0]) for split in layout.splits if split not in full
        ]
        return Source(
            class_names=tuple(names),
            files=tuple(files),
            image_size=options.image_size,
            bad_files=tuple(bad),
        )


def _prevail(files: Names) -> bool:
    """Return whether there are more pictures than other files that are drawings, or packed."""
    pictures = sum(name.lower().endswith(PICTURE_ENDINGS) for name in files)
    others = sum(
        bool(describe_unread(name)) and not name.lower().endswith((*PICTURE_ENDINGS, *NOTES))
        for name in files
    )
    return pictures > others


def _are_many(tree: Tree) -> bool:
    """Return whether these pictures, beside another kind of files, are a source as well."""
    try:
        layout = layout_of(tree)
    except BadFileError:
        return False
    if layout.splits:
        return True
    return len(layout.groups) > 1 and all(len(g.names) >= _FEW_PICTURES for g in layout.groups)


def _chosen(layout: Layout, place: Place, classes: Names | None) -> list[str]:
    """Return the classes that are wanted; raise ValueError if one is not there."""
    if missing := [name for name in classes or () if name not in layout.class_names]:
        there = ", ".join(sorted(layout.class_names))
        raise ValueError(
            f"{place.directory} has no pictures of {', '.join(missing)}; it has {there}"
        )
    return [name for name in layout.class_names if classes is None or name in classes]


def _indexed(
    layout: Layout, names: Names, place: Place, request: Request
) -> tuple[dict[str, list[_Indexed]], list[tuple[str, str]]]:
    """Return the indices of the pictures of each class, and the classes with a missing picture."""
    stated: dict[str, list[tuple[Group, list[int], str]]] = {}
    bad: list[tuple[str, str]] = []
    by_class: dict[str, list[Group]] = {name: [] for name in names}
    for group in layout.groups:
        by_class.get(group.class_name, []).append(group)
    for class_name, groups in by_class.items():
        try:
            stated[class_name] = [(g, *sizes_and_key(g.folder, g.names)) for g in groups]
        except BadFileError as error:
            if not request.options.skip_bad_files:
                raise
            bad.append((str(groups[0].folder), str(error)))
    total = sum(sum(sizes) for each in stated.values() for _, sizes, _ in each)
    with hashing({place.directory: total}, place.directory):
        found = {
            class_name: [
                (group, index_pictures(group.folder, group.names, sizes, key, request.cache_dir))
                for group, sizes, key in each
            ]
            for class_name, each in stated.items()
        }
    return found, bad


def _source_files(
    class_name: str, indexed: Sequence[_Indexed], request: Request
) -> list[SourceFile]:
    """Return the file of each split of a class; raise BadFileError if its ink is of two kinds."""
    is_dark = has_dark_ink(
        [group.folder / name for group, _ in indexed for name in group.names],
        [index.digest for _, index in indexed],
        request.options.limits,
        request.cache_dir,
    )
    fit = request.options.fit or "pad"
    files = []
    for group, index in indexed:
        how = {"fit": fit, "is_dark": is_dark}
        layout = {**how, "index": str(index.path)}
        if columns := _columns(group, request.options.columns):
            path, how["metadata"] = write_columns(columns, request.cache_dir)
            layout["metadata"] = str(path)
        files.append(
            SourceFile(
                url=str(group.folder),
                format="pictures",
                class_name=class_name,
                rows=index.rows,
                bytes=index.bytes,
                digest=index.digest,
                layout=layout | {"how": canonical_json(how).decode()} | _split_of(group.split),
            )
        )
    return files


def _columns(group: Group, wanted: Names) -> dict[str, list[str | None]]:
    """Return Google's columns of pictures, as the listing beside them has them."""
    if group.listing is None:
        return {}
    names = [group.prefix + name for name in group.names]
    found = {
        name: next((n for n in COLUMN_NAMES[name] if n in group.listing.columns), None)
        for name in wanted
    }
    return {name: group.listing.values(n, names) for name, n in found.items() if n is not None}


def _empty(root: Path, split: str, class_name: str) -> SourceFile:
    """Return the file of a split without pictures, of which the name is left."""
    return SourceFile(
        url=str(root / split),
        format="pictures",
        class_name=class_name,
        rows=0,
        bytes=0,
        digest=f"sha256:{hashlib.sha256().hexdigest()}",
        layout=_split_of(split),
    )


def _split_of(split: str) -> dict[str, str]:
    return {"split": split} if split else {}
