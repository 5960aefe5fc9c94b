"""Find the class files of a directory by name, and name the files that are not read.

    bee.npy, full_numpy_bitmap_bee.npy, "bee (1).npy", "bee copy.npy"    files of class bee
    bee.ndjson.gz, sketchrnn_bee.npz, bee.full.npz, train_raw_bee.csv    files of class bee
    sea%20turtle.npy, sea+turtle.npy                                     sea turtle
    Bee.npy beside bee.npy, one name in two forms of Unicode             refused

Names are in Unicode's form NFC, in whichever form a file system keeps them. A table of names in an
export of this program takes precedence over the names of its files. A file of a kind that is not
read is described: what it is, and what to take or do instead.
"""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import unquote_to_bytes

from pipelines.catalogue import catalogue, tfds_id
from pipelines.sources.base import BadFileError, Place
from pipelines.sources.files import (
    FileRanges,
    file_size,
    is_listable,
    is_remote,
    join_url,
    list_files,
)

# How browsers and tools name "full/numpy_bitmap/bee.npy".
_PREFIXES = (
    *(
        f"full{mark}{kind}{mark}"
        for kind in ("numpy_bitmap", "simplified", "raw", "binary")
        for mark in ("_", "%2F")
    ),
    *("sketchrnn_", "sketchrnn%2F", "train_simplified_", "train_raw_"),
)
# Endings of the files that are read, the longer ones first.
LINES = (".ndjson", ".jsonl")
PACKED = tuple(lines + packed for lines in LINES for packed in (".gz", ".zst"))
TABLES = (".csv", ".tsv")
# Google's bee.npz has 75,000 drawings of bee, bee.full.npz beside it all of them.
ARCHIVES = (".full.npz", ".npz")
ENDINGS = (".npy", *PACKED, *LINES, ".bin", *TABLES, *ARCHIVES)
# Other things have these names, too: such a file is read if it holds drawings.
SHARED = (*(end for end in ENDINGS if ".jsonl" in end), *TABLES, *ARCHIVES)
# How browsers, Windows, macOS and Google Drive name the second copy of a file.
_COPY = re.compile(
    r"(?:Copy of (?P<drive>.+))|(?P<name>.+?)(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?| [2-9])"
)
_NAMES_TABLE = "numpy_bitmap-classes.csv"
# Its others are splits.
_NAMES_COLUMNS = ("label", "class_name", "file", "drawings")

_PACKED = "packed: unpack it"
_PICTURE = (
    "a picture: pictures are read from folders, one a class; put it into one named for its class, "
    "and give the folder above as the source"
)
_NO_PICTURE = "which is not read: save it as PNG, in a folder named for its class"
_PICKLE = "a Python pickle, which is never opened: save the drawings with np.save, (n, 784) uint8"
_IDX = "in MNIST's format IDX: give a folder with nothing but its images and labels as the source"
_RECORDS = "a file of records: give it, or a folder with nothing but records, as the source"
_UNFINISHED = "an unfinished download: fetch the file again"

_BY_ENDING = {
    ".npz": (
        "an .npz archive that has not the drawings of sketch-rnn: arrays train, valid and test of "
        "arrays (k, 3)"
    ),
    ".csv": (
        "CSV without the columns drawing and word that Kaggle's Doodle Recognition has; tables of "
        "pixels are not read"
    ),
    ".jsonl": "JSON lines without drawings in Google's form",
    ".tar": "a tar archive: give it as the source if it is WebDataset's, or unpack it",
    ".arrow": 'an Arrow file, which is not read: write Parquet with to_parquet("train.parquet")',
    **dict.fromkeys((".tfrecord", ".tfrecords", ".array_record", ".arrayrecord"), _RECORDS),
    ".h5": "HDF5, which is not read: save its drawings with np.save, (n, 784) uint8",
    ".mat": "a MATLAB file, which is not read: save its drawings with np.save, (n, 784) uint8",
    **dict.fromkeys(("-ubyte", "-ubyte.gz", "idx1-short"), _IDX),
}
_BY_ENDING |= {".tsv": _BY_ENDING[".csv"], ".hdf5": _BY_ENDING[".h5"]}
_BY_ENDING |= {".feather": _BY_ENDING[".arrow"]}
_BY_ENDING |= dict.fromkeys((".gz", ".tgz"), f"compressed with gzip, {_PACKED}")
_BY_ENDING |= {".zst": f"compressed with zstd, {_PACKED}", ".zip": f"a zip archive, {_PACKED}"}
_BY_ENDING |= dict.fromkeys((".bz2", ".xz", ".7z", ".rar"), _PACKED)
_BY_ENDING |= dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), _PICKLE)
_BY_ENDING |= dict.fromkeys((".crdownload", ".part", ".download", ".tmp"), _UNFINISHED)
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
_BY_ENDING |= dict.fromkeys(PICTURE_ENDINGS, _PICTURE)
_BY_ENDING |= dict.fromkeys((".tif", ".tiff"), f"a TIFF picture, {_NO_PICTURE}")
_BY_ENDING |= dict.fromkeys((".avif", ".heic"), f"an AVIF or HEIC picture, {_NO_PICTURE}")
_BY_ENDING[".svg"] = f"an SVG picture, {_NO_PICTURE}"
# As TensorFlow numbers the files of a dataset.
_SHARD = re.compile(r"-\d+-of-\d+$")
# Read only in lower case.
_READ = (*ENDINGS, ".parquet")
_KEPT = re.compile(r"\.(npy|ndjson|bin|parquet|npz|csv|jsonl)(\.\d+|\.bak|\.old|\.orig|~)$")
# Files that exports of this program have beside their drawings.
_OURS = ("-classes.csv", "-rows.csv", "-labels.csv")

_Folders = Sequence[tuple[str, str]]


def find_class_files(place: Place, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Return (class, address, bytes) of the files of these classes, in their order.

    classes  None: all classes there, those of the catalogue first, in its order

    Raises ValueError if a class has no file or two.
    """
    folders = place.folders
    if not folders:
        return _only(place.directory, classes)
    if not is_listable(folders[0][0]):
        return _probe(folders, classes)
    found = _files_by_class(folders)
    names = classes or catalogue_order(found)
    if missing := [name for name in names if name not in found]:
        there = (
            ", ".join(sorted(found)) or f"no {' or '.join(ending for _, ending in folders)} file"
        )
        raise ValueError(f"{folders[0][0]} has no file of {', '.join(missing)}; it has {there}")
    for name in names:
        if len(found[name]) > 1:
            raise ValueError(
                f"{folders[0][0]} has {len(found[name])} files of class {name!r}: "
                f"{', '.join(url.rsplit('/', 1)[1] for url in found[name])}; leave one of them"
            )
    return [(name, *next(iter(found[name].items()))) for name in names]


def class_names_in(place: Place, *, is_as_listed: bool = False) -> tuple[str, ...]:
    """Return the classes that have files there, those of the catalogue first.

    is_as_listed  in the order of the labels where an export of this program lists them
    """
    if not place.folders:
        return (class_of_file(place.directory),)
    found = _files_by_class(place.folders)
    rows = _names_table(place.folders[0][0]).values() if is_as_listed else ()
    return tuple(dict.fromkeys([*(row["class_name"] for row in rows), *catalogue_order(found)]))


def split_rows(url: str) -> dict[str, int]:
    """Return how many rows of a file of bitmaps are of each split, which lie one after the other.

    An export of this program lists them; of other files nothing is known, and none is returned.
    """
    folder, _, name = url.rpartition("/")
    row = _names_table(folder).get(name, {})
    counts = {key: value for key, value in row.items() if key not in _NAMES_COLUMNS}
    if wrong := [key for key, value in counts.items() if not str(value).isdecimal()]:
        raise BadFileError(
            f"{_NAMES_TABLE} beside {folder}: the column {wrong[0]!r} should have the number of "
            f"drawings of a split, found {counts[wrong[0]]!r} for {name}"
        )
    return {split: int(number) for split, number in counts.items()}


def unread_beside(place: Place) -> list[tuple[str, str]]:
    """Return address and reason of the files that are not read, beside those of classes."""
    endings: dict[str, list[str]] = {}
    for folder, ending in place.folders:
        if is_listable(folder):
            endings.setdefault(folder, []).append(ending)
    named = [
        (folder, unread_files(n for n in list_files(folder) if _ending(n) not in read))
        for folder, read in endings.items()
    ]
    found = {join_url(folder, n): what for folder, files in named for n, what in files.items()}
    return [
        (url, f"{url} is {what}; to leave it out, name the classes or use --on-bad-file skip")
        for url, what in found.items()
    ]


def describe_unread(name: str) -> str:
    """Return what a file that is not read is and what to do, empty for any other file.

    >>> describe_unread("bee.NPY"), describe_unread("README.md")
    ('read only if its name ends in .npy', '')
    """
    folded = name.lower()
    if folded.endswith(_OURS):
        return ""
    if folded.endswith(_READ) and not name.endswith(_READ):
        ending = next(end for end in _READ if folded.endswith(end))
        return f"read only if its name ends in {ending}"
    if folded.endswith(PACKED):
        return "" if not folded.endswith(SHARED) else _BY_ENDING[".jsonl"]
    if _KEPT.search(folded):
        return "a copy that some tool numbered or kept: take it away, or give it its ending back"
    plain = _SHARD.sub("", folded)
    return next((what for ending, what in _BY_ENDING.items() if plain.endswith(ending)), "")


def unread_files(names: Iterable[str]) -> dict[str, str]:
    """Return those of these files that are not read, each with what it is and what to do."""
    described = ((name, describe_unread(name)) for name in names)
    return {name: what for name, what in described if what}


def class_of(name: str, beside: Collection[str] = ()) -> str:
    """Return the class of a file by its name without the ending; `beside` it are these.

    >>> class_of("full_numpy_bitmap_sea turtle"), class_of("sea+turtle"), class_of("a+b")
    ('sea turtle', 'sea turtle', 'a+b')
    >>> class_of("bee (1)"), class_of("mine 2"), class_of("mine 2", ["mine"])
    ('bee', 'mine 2', 'mine')
    """
    stem = name
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    stem = _unquoted(stem)
    spaced = stem.replace("+", " ")
    if tfds_id(spaced) >= 0:
        return spaced
    if copy := _COPY.fullmatch(stem):
        original = class_of(copy["drive"] or copy["name"])
        if tfds_id(original) >= 0 or original in {class_of(other) for other in beside}:
            return original
    return stem


def _unquoted(stem: str) -> str:
    try:
        stem = unquote_to_bytes(os.fsencode(stem)).decode()
    except UnicodeDecodeError:  # not quoted: a name with a percent sign, or not in UTF-8
        stem = stem.replace("%20", " ")
    return unicodedata.normalize("NFC", stem)


def catalogue_order(found: Collection[str]) -> tuple[str, ...]:
    """Return names of classes, those of the catalogue first, in its order."""
    known = [entry.name for entry in catalogue() if entry.name in found]
    return (*known, *sorted(set(found) - set(known)))


def _files_by_class(folders: _Folders) -> dict[str, dict[str, int]]:
    """Return addresses and sizes of the files of each class: of the first folder that has it.

    Files whose names differ only in case are two files of one class: another system may see only
    one of them.
    """
    found: dict[str, dict[str, int]] = {}
    folded: dict[str, str] = {}
    for folder, ending in folders:
        for name, files in _files_in(folder, ending, folded).items():
            found.setdefault(name, files)
    return found


def _files_in(folder: str, ending: str, folded: dict[str, str]) -> dict[str, dict[str, int]]:
    sizes = {file: size for file, size in list_files(folder).items() if _ending(file) == ending}
    stems = [file.removesuffix(ending) for file in sizes]
    # For Google's folders on a server the request for a table is saved.
    is_asked = not is_remote(folder) or any(tfds_id(class_of(stem)) < 0 for stem in stems)
    table = _names_table(folder) if ending == ".npy" and is_asked else {}
    found: dict[str, dict[str, int]] = {}
    for (file, size), stem in zip(sizes.items(), stems, strict=True):
        if file in table:
            name = table[file]["class_name"]
        else:
            name = class_of(stem, stems)
            name = folded.setdefault(name.casefold(), name)
        found.setdefault(name, {})[join_url(folder, file)] = size
    return found


def _names_table(folder: str) -> dict[str, dict[str, str]]:
    """Return by file what an export of this program lists beside its directory, in its order."""
    parent, _, last = join_url(folder, "").rstrip("/").rpartition("/")
    url = join_url(parent, _NAMES_TABLE)
    size = file_size(url) if last == "numpy_bitmap" else None
    if size is None:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(FileRanges(url).read(0, size).decode())))
        for row in rows:
            row["class_name"] = unicodedata.normalize("NFC", row["class_name"])
        return {row["file"]: row for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise BadFileError(
            f"{url} is not a table of the columns class_name and file; remove it to have classes "
            "named after their files"
        ) from error


def class_of_file(address: str) -> str:
    """Return the class that the name of a file says."""
    name = address.rsplit("/", 1)[-1]
    return class_of(name.removesuffix(_ending(name)))


def _ending(name: str) -> str:
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def _only(address: str, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Return the one file that is the source."""
    own = class_of_file(address)
    if missing := [name for name in classes or () if name != own]:
        raise ValueError(f"{address} is of class {own}, not of {', '.join(missing)}")
    return [(own, address, file_size(address) or 0)]


def _probe(folders: _Folders, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Ask for the file of each class where the directory cannot be listed."""
    (directory, ending), *_ = folders
    if classes is None:
        raise ValueError(f"{directory} cannot be listed: name the classes")
    found = []
    for name in classes:
        url = join_url(directory, name + ending)
        size = file_size(url)
        if size is None:
            raise ValueError(f"{url} is not there")
        found.append((name, url, size))
    return found
