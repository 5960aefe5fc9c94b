"""The 345 classes of Quick, Draw!: names, TFDS ids, and size and SHA-256 of Google's .npy files.

quickdraw_catalogue.tsv holds, for each class in TFDS's order, the size and SHA-256 that
tensorflow-datasets ships as its checksums; rows = (bytes - 80) / 784 exactly. TFDS numbers
classes by `sorted(names, key=lambda name: (name + ".npy").lower())`, which is not sorted().
"""

import csv
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from unicodedata import normalize

from pipelines.store.text_files import read_text

TFDS_PREFIX = "tfds:"
# In place of a list of classes: every one there is.
ALL = "all"
# In a line of a class list.
_COMMENT = re.compile(r"^#|\s#(?=\s|$)")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"[,;]*(?:\s+#.*)?')

SEED_CLASSES: tuple[str, ...] = (
    "bee",
    "bicycle",
    "broccoli",
    "butterfly",
    "cactus",
    "frog",
    "guitar",
    "lightning",
    "penguin",
    "pizza",
    "rollerskates",
    "sea turtle",
    "sheep",
    "snowflake",
    "sun",
    "swan",
    "The Eiffel Tower",
    "tractor",
    "train",
    "tree",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEntry:
    """One class: `bytes`, `sha256` and `num_drawings` are those of Google's .npy file."""

    name: str
    tfds_id: int
    bytes: int
    sha256: str
    num_drawings: int


@functools.cache
def catalogue() -> tuple[ClassEntry, ...]:
    """Return all classes, in the order of their TFDS ids."""
    text = resources.files("pipelines").joinpath("quickdraw_catalogue.tsv").read_text("ascii")
    entries = []
    for line in text.splitlines()[1:]:
        name, tfds_id, size, sha256, num_drawings = line.split("\t")
        entries.append(
            ClassEntry(
                name=name,
                tfds_id=int(tfds_id),
                bytes=int(size),
                sha256=sha256,
                num_drawings=int(num_drawings),
            )
        )
    return tuple(entries)


def class_entry(class_name: str) -> ClassEntry:
    """Return the entry of a class; raise ValueError with the nearest names if there is none."""
    if entry := _by_name().get(class_name):
        return entry
    raise ValueError(f"class {class_name!r} is not in the catalogue{_did_you_mean(class_name)}")


def tfds_id(class_name: str) -> int:
    """Return the TFDS id of a class, -1 if it is none of Google's."""
    entry = _by_name().get(class_name)
    return -1 if entry is None else entry.tfds_id


def is_official(digest: str) -> bool:
    """Return whether "sha256:..." is the content of one of Google's .npy files."""
    return digest in _official_digests()


def split_names(text: str) -> tuple[str, ...]:
    """Return the parts of a list as they are written; commas in quotes do not separate.

    >>> split_names('bee, "bread, white"'), split_names("bee\\nsun")
    (('bee', 'bread, white'), ('bee', 'sun'))
    """
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return tuple(part for row in rows for part in row)


def read_classes_file(path: Path) -> tuple[str, ...]:
    """Return the class names of a file, as `class_lines` reads it.

    Raises ValueError as `resolve_names` and `class_lines` do.
    """
    return resolve_names(class_lines(path))


def class_lines(path: Path) -> tuple[str, ...]:
    """Return the names in a file as they are written there: one a line.

    `#` begins a comment at the start of a line, or between white space: "C#" and "player #1" are
    names. A name may be quoted as spreadsheets do, "bread, white", with quotes in it doubled.
    Raises ValueError naming the line of a name that was there before or of an open quote, and if
    the file is no text.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        name = _name_on(line.strip())
        if name is None:
            raise ValueError(
                f"{path}, line {number}: a quoted name must end in a quote, and quotes in it be "
                f"doubled, found {line.strip()}"
            )
        if name and (first := lines.setdefault(name, number)) != number:
            raise ValueError(
                f"{path}, line {number}: class {name!r} is named twice, first in line {first}"
            )
    if not lines:
        raise ValueError(f"{path} names no class")
    return tuple(lines)


def resolve_names(parts: Iterable[str], known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the class names that these parts of a list mean, in its order.

    A part is a name in any case, with or without surrounding blanks, or `tfds:N`.
    known: the classes there are to choose from, Google's by default; "all" means all of them.

    >>> resolve_names(["bee", " sea turtle", "tfds:308"])
    ('bee', 'sea turtle', 'tent')
    >>> resolve_names(["Dress"], ["shoe", "dress"]), resolve_names(["all"], ["shoe", "dress"])
    (('dress',), ('shoe', 'dress'))

    Raises ValueError for an unknown name, one given twice, or an empty list.
    """
    # macOS writes accents in another form of Unicode than keyboards do.
    wanted = [part for part in (normalize("NFC", part).strip() for part in parts) if part]
    there = tuple(_by_name()) if known is None else tuple(known)
    folded = {normalize("NFC", name).lower(): name for name in reversed(there)}
    if [part.lower() for part in wanted] == [ALL] and ALL not in folded:
        return there
    names: list[str] = []
    for part in wanted:
        name = part if part in there else _resolve_one(part, folded)
        if name in names:
            raise ValueError(f"class {name!r} is named twice")
        names.append(name)
    if not names:
        raise ValueError("no class is named; see `sketchmill classes` for the 345 names")
    return tuple(names)


def find_classes(text: str) -> tuple[ClassEntry, ...]:
    """Return the classes whose name contains `text`, ignoring case."""
    return tuple(entry for entry in catalogue() if text.lower() in entry.name.lower())


def _name_on(line: str) -> str | None:
    """Return the name on a line, empty if there is none, None for a quote that is not closed."""
    if not line.startswith('"'):
        return _COMMENT.split(line, maxsplit=1)[0].strip()
    found = _QUOTED.fullmatch(line)
    return found[1].replace('""', '"').strip() if found else None


@functools.cache
def _by_name() -> dict[str, ClassEntry]:
    return {entry.name: entry for entry in catalogue()}


@functools.cache
def _official_digests() -> frozenset[str]:
    return frozenset(f"sha256:{entry.sha256}" for entry in catalogue())


@functools.cache
def _by_folded_name() -> dict[str, str]:
    return {entry.name.lower(): entry.name for entry in catalogue()}


def _resolve_one(part: str, folded: Mapping[str, str]) -> str:
    if name := folded.get(part.lower()) or _by_folded_name().get(part.lower()):
        return name
    if part.lower().startswith(TFDS_PREFIX):
        number = part[len(TFDS_PREFIX) :].strip()
        if not (number.isascii() and number.isdigit() and int(number) < len(catalogue())):
            last = len(catalogue()) - 1
            raise ValueError(f"class {part!r} is not a TFDS id: expected tfds:0 to tfds:{last}")
        return catalogue()[int(number)].name
    raise ValueError(
        f"class {part!r} is not in the catalogue{_did_you_mean(part, {**_by_folded_name(), **folded})}"
    )


def _did_you_mean(name: str, folded: Mapping[str, str] | None = None) -> str:
    folded = folded or _by_folded_name()
    near = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    near += [known for known in folded if name.lower() in known and known not in near][:3]
    if not near:
        return "; see `sketchmill classes` for the 345 names"
    return "; did you mean " + " or ".join(repr(folded[match]) for match in near[:3]) + "?"
