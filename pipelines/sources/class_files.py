"""Find the class files of a directory by name, and name the files that are not read.

    bee.npy, full_numpy_bitmap_bee.npy, "bee (1).npy", "bee copy.npy"    files of class bee
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
from collections.abc import Collection, Iterable, Mapping, Sequence
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
_PREFIXES = tuple(
    f"full{mark}{kind}{mark}"
    for kind in ("numpy_bitmap", "simplified", "raw", "binary")
    for mark in ("_", "%2F")
)
# How browsers, Windows, macOS and Google Drive name the second copy of a file.
_COPY = re.compile(
    r"(?:Copy of (?P<drive>.+))|(?P<name>.+?)(?: ?\(\d+\)| - Copy(?: \(\d+\))?| copy(?: \d+)?| [2-9])"
)
_NAMES_TABLE = "numpy_bitmap-classes.csv"

_PACKED = "packed: unpack it"
_PICTURE = (
    "a picture: folders of pictures (PNG and the like) are not read; make Parquet of them, e.g. "
    'datasets.load_dataset("imagefolder", data_dir=...)["train"].to_parquet("train.parquet")'
)
_PICKLE = "a Python pickle, which is never opened: save the drawings with np.save, (n, 784) uint8"
_IDX = "in MNIST's format IDX: give a folder with nothing but its images and labels as the source"
_RECORDS = "a file of records: give it, or a folder with nothing but records, as the source"
_UNFINISHED = "an unfinished download: fetch the file again"

_BY_ENDING = {
    ".npz": (
        "an .npz archive, as the sketch-rnn files of Quick, Draw! are, which is not read: take "
        "Google's simplified drawings (.ndjson) or bitmaps (numpy_bitmap, .npy) of the class"
    ),
    ".csv": (
        "CSV, as Kaggle's Doodle Recognition has it, which is not read: take Google's simplified "
        "drawings (.ndjson) of the class"
    ),
    ".jsonl": "JSON lines: if they are drawings in Google's form, name the file .ndjson",
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
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg")
_BY_ENDING |= dict.fromkeys(_PICTURES, _PICTURE)
# As TensorFlow numbers the files of a dataset.
_SHARD = re.compile(r"-\d+-of-\d+$")
# Read only in lower case.
_READ = (".npy", ".ndjson", ".bin", ".parquet")
_KEPT = re.compile(r"\.(npy|ndjson|bin|parquet)(\.\d+|\.bak|\.old|\.orig|~)$")
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
    names = classes or _ordered(found)
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


def class_names_in(place: Place) -> tuple[str, ...]:
    """Return the classes that have files there, those of the catalogue first."""
    if not place.folders:
        return (_class_of_file(place.directory),)
    return _ordered(_files_by_class(place.folders))


def unread_beside(place: Place) -> list[tuple[str, str]]:
    """Return address and reason of the files that are not read, beside those of classes."""
    folders = dict.fromkeys(folder for folder, _ in place.folders if is_listable(folder))
    named = [(folder, unread_files(list_files(folder))) for folder in folders]
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
        return f"read only if its name ends in {name[name.rindex('.') :].lower()}"
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


def _ordered(found: Collection[str]) -> tuple[str, ...]:
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
    sizes = {file: size for file, size in list_files(folder).items() if file.endswith(ending)}
    stems = [file.removesuffix(ending) for file in sizes]
    # For Google's folders on a server the request for a table is saved.
    is_asked = not is_remote(folder) or any(tfds_id(class_of(stem)) < 0 for stem in stems)
    table = _names_table(folder) if ending == ".npy" and is_asked else {}
    found: dict[str, dict[str, int]] = {}
    for (file, size), stem in zip(sizes.items(), stems, strict=True):
        if file in table:
            name = table[file]
        else:
            name = class_of(stem, stems)
            name = folded.setdefault(name.casefold(), name)
        found.setdefault(name, {})[join_url(folder, file)] = size
    return found


def _names_table(folder: str) -> Mapping[str, str]:
    """Return the class of each file that an export of this program lists beside its directory."""
    parent, _, last = join_url(folder, "").rstrip("/").rpartition("/")
    url = join_url(parent, _NAMES_TABLE)
    size = file_size(url) if last == "numpy_bitmap" else None
    if size is None:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(FileRanges(url).read(0, size).decode())))
        return {row["file"]: unicodedata.normalize("NFC", row["class_name"]) for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise BadFileError(
            f"{url} is not a table of the columns class_name and file; remove it to have classes "
            "named after their files"
        ) from error


def _class_of_file(address: str) -> str:
    return class_of(address.rsplit("/", 1)[-1].rsplit(".", 1)[0])


def _only(address: str, classes: Sequence[str] | None) -> list[tuple[str, str, int]]:
    """Return the one file that is the source."""
    own = _class_of_file(address)
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
