"""The dataset spec: all that decides a dataset's bytes besides the source. No NumPy, no Arrow.

Nothing here says how the work is done: runner, workers, order and machine change no byte.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pipelines.drawings.credit import parse_attribution, parse_license
from pipelines.drawings.limits import Limits, limits_of
from pipelines.store.manifest import spec_fields

DEFAULT_SPLITS: tuple[tuple[str, float], ...] = (
    ("train", 0.9),
    ("validation", 0.05),
    ("test", 0.05),
)
FORMATS = ("parquet", "tfrecord")
# Bumped whenever the same spec would give other bytes; it is part of every digest.
FORMAT_VERSION = 1
# Fields that format version 1 did not begin with.
_LIMITS = tuple(f.name for f in dataclasses.fields(Limits))
_LATER_FIELDS = frozenset(
    {
        *("on_bad_row", "max_bad_rows", "license", "attribution", "split_by"),
        "validation_part",
        *("fit", "label_names", "transpose", *_LIMITS),
    }
)
# How --splits says that the source's own splits are kept; their names follow from its files.
SOURCE_SPLITS = "source"
# What sources call the splits, as Hugging Face tells them.
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "t10k"), "test"),
}
_SLICE = re.compile(r"train(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The size of drawings.

    Parameters
    ----------
    image_size
        Pixels a side. Strokes are drawn at any; pictures of other sizes are fitted, see --fit.
    """

    image_size: int = 28


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a source is read where it does not say.

    Parameters
    ----------
    fit
        How pictures of other sizes become --image-size pixels a side: pad them with paper to a
        square, or crop them to one, then Pillow's bilinear filter. Without it pictures of folders
        and archives are padded, and another size is an error elsewhere.
    label_names
        Names of numbered labels in their order, "cat,dog", or @FILE of one name a line, for
        sources that do not name them.
    transpose
        Swap rows and columns of IDX pictures, as EMNIST needs.
    """

    fit: Literal["pad", "crop"] | None = None
    label_names: tuple[str, ...] = ()
    transpose: bool = False


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(SizeOptions):
    """What a user says of a dataset, next to its source and its classes.

    Selection goes in the order in which it is listed; cleaning counts what it drops by class. A
    slice means exact drawings: under tfds_slice nothing is cleaned unless asked for.

    Parameters
    ----------
    seed
        Seed of the doodles, the splits and the shuffle.
    splits
        Names of splits, and fractions that add up to 1; a drawing's pixels decide its split. Or
        source: each drawing stays in the split that the source has it in, and nothing is cleaned
        unless asked for.
    validation_part
        Part of the train drawings, 0 to 1, that becomes validation, chosen by their pixels: for
        --splits source where the source has none.
    formats
        Format of the shards: parquet, tfrecord or both, "parquet,tfrecord".
    layout
        Shards of all classes mixed (packed), or of one class each, which datasets share (linked).
    rows_per_shard
        Number of drawings in a shard. By default at most 65,536, and in 8 shards or more as long as
        each has 1,024.
    compression_level
        Level of zstd in Parquet, 1 to 22: 1 is fast; 10 takes four times as long and saves 4 %.
    tfrecord_images
        Images in TFRecord: png, as TFDS writes them, or raw, 784 bytes, which is much faster.
    tfds_slice
        Exactly the drawings that a TFDS slice selects, such as "train[:500000]".
    max_per_class
        Only the first N drawings of each class.
    fraction
        Part of the drawings, 0 to 1, chosen by their hash: the drawings of a smaller part are
        among those of a larger one.
    recognized_only
        Only drawings that the game recognized; needs a source that says so.
    countries
        Only drawings from these countries, e.g. "US,DE"; needs a source that says so.
    blank
        What to do with drawings without ink. By default drop; keep with --tfds-slice or --splits
        source.
    min_ink
        Drop drawings that have ink, but in fewer pixels.
    max_ink
        Drop drawings that have ink in more pixels. By default none.
    duplicates
        What to do with drawings of the same pixels as an earlier one of their class. By default
        drop; keep with --tfds-slice or --splits source.
    near_duplicates
        Drop drawings whose 64-bit difference hash is N bits or fewer from a kept one. By default
        none.
    with_metadata
        Keep key_id, country_code, recognized and timestamp as columns.
    """

    seed: int = 0
    splits: tuple[tuple[str, float], ...] = DEFAULT_SPLITS
    validation_part: float = 0.0
    formats: tuple[str, ...] = ("parquet",)
    layout: Literal["packed", "linked"] = "packed"
    rows_per_shard: int | None = None
    compression_level: int = 1
    tfrecord_images: Literal["png", "raw"] = "png"
    tfds_slice: str | None = None
    max_per_class: int | None = None
    fraction: float = 1.0
    recognized_only: bool = False
    countries: tuple[str, ...] = ()
    blank: Literal["drop", "keep"] | None = None
    min_ink: int = 1
    max_ink: int | None = None
    duplicates: Literal["drop", "keep"] | None = None
    near_duplicates: int | None = None
    with_metadata: bool = False


@dataclass(frozen=True, kw_only=True)
class InputOptions(ReadOptions):
    """What a user says of a source: what to do with bad input, and whose drawings they are.

    Parameters
    ----------
    on_bad_file
        What becomes of a build with a bad file: fail, or skip to leave the file out and say so in
        the manifest.
    on_bad_row
        What becomes of a build with a bad row: fail, or skip to leave out a torn line, a picture
        that cannot be decoded, an inverted or faint drawing, what is beyond a limit, and to count
        it by reason and name it in the manifest.
    max_bad_rows
        Fail if more rows would be left out. By default there is no limit.
    license
        License of the source's drawings, an SPDX id such as CC-BY-4.0. Google's whole .npy files,
        its bucket and doodles have theirs without this option; no other source does.
    attribution
        Attribution for the cards of everything made of the drawings. quickdraw stands for Google's
        text and license: use it for strokes, parts of Google's files and copies that TFDS or
        others prepared.
    """

    on_bad_file: Literal["fail", "skip"] = "fail"
    on_bad_row: Literal["fail", "skip"] = "fail"
    max_bad_rows: int | None = None
    license: str = ""
    attribution: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Limits, InputOptions, DatasetOptions):
    """Everything that decides a dataset's bytes but the source's.

    Labels are positions in class_names. Where the splits are the source's, their fractions are those
    that it has; they are empty until it is opened. What the user states of the source joins what is known of
    it anyway (pipelines.dataset.describe).
    """

    class_names: tuple[str, ...]
    split_by: Literal["pixels", "source"] = "pixels"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Settle what is left open; raise ValueError for values no dataset can have."""
        self._settle()
        self._check_choices()
        check_names(self.class_names)
        self._check_splits()
        if self.tfds_slice is not None:
            parse_slice(self.tfds_slice)
        if self.layout == "linked" and self.formats != ("parquet",):
            raise ValueError("the linked layout is of Parquet shards only")
        if self.max_bad_rows is not None and self.on_bad_row == "fail":
            raise ValueError("max_bad_rows is of on_bad_row='skip': without it none is left out")
        _check_range("max_bad_rows", self.max_bad_rows, 0, None)
        _check_range("image_size", self.image_size, 1, 255)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("fraction", self.fraction, 0.0, 1.0)
        _check_range("rows_per_shard", self.rows_per_shard, 1, 10_000_000)
        _check_range("compression_level", self.compression_level, 1, 22)
        _check_range("max_per_class", self.max_per_class, 1, None)
        _check_range("min_ink", self.min_ink, 0, None)
        _check_range("max_ink", self.max_ink, 1, None)
        _check_range("near_duplicates", self.near_duplicates, 0, 64)
        for name in _LIMITS:
            _check_range(name, getattr(self, name), 1, None)
        for country in self.countries:
            if not re.fullmatch(r"[A-Z]{2}", country):
                raise ValueError(f"country {country!r} is not two capital letters")

    def _check_splits(self) -> None:
        _check_range("validation_part", self.validation_part, 0.0, 0.9)
        if self.split_by == "pixels":
            _check_splits(self.splits)
            if self.validation_part:
                raise ValueError("--validation-part is of --splits source")
        elif self.layout == "linked":
            raise ValueError("the linked layout splits by pixels: --splits source is of packed")

    def _check_choices(self) -> None:
        for field in dataclasses.fields(self):
            _check_choice(field, getattr(self, field.name))
        if not self.formats or set(self.formats) - set(FORMATS):
            raise ValueError(f"formats must be of {', '.join(FORMATS)}, found {self.formats}")

    def _settle(self) -> None:
        """Give one form to what may be said in several: it is part of the digest."""
        if not self.splits:
            object.__setattr__(self, "split_by", "source")
        is_exact = self.tfds_slice is not None or self.split_by == "source"
        unsaid = "keep" if is_exact else "drop"
        object.__setattr__(self, "blank", self.blank or unsaid)
        object.__setattr__(self, "duplicates", self.duplicates or unsaid)
        object.__setattr__(self, "license", parse_license(self.license))
        object.__setattr__(self, "attribution", parse_attribution(self.attribution))
        known = tuple(name for name in FORMATS if name in self.formats)
        if known and not set(self.formats) - set(FORMATS):
            object.__setattr__(self, "formats", known)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size)

    @property
    def limits(self) -> Limits:
        """How large the parts of the source may be."""
        return limits_of(self)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the splits in their order."""
        return tuple(name for name, _ in self.splits)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values, for a manifest."""
        fields = spec_fields(self, _LATER_FIELDS)
        return {name: _plain(value) for name, value in fields.items()}


def spec_from_json(raw: Mapping[str, Any]) -> DatasetSpec:
    """Return the spec that `to_json` wrote; raise ValueError for what it does not know."""
    known = {f.name for f in dataclasses.fields(DatasetSpec)}
    if unknown := set(raw) - known:
        raise ValueError(f"dataset spec has unknown fields {sorted(unknown)}: update sketchmill")
    return DatasetSpec(**{name: _tuples(value) for name, value in raw.items()})


def parse_slice(text: str) -> tuple[str | None, str | None]:
    """Return the two ends of a slice of train as they are written; None where one is open.

    >>> parse_slice("train[:10%]"), parse_slice("train")
    ((None, '10%'), (None, None))

    Raises ValueError if the text is no such slice.
    """
    match = _SLICE.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(
            f"{text!r} is not a slice of train: write train[:500000] or train[10%:20%]"
        )
    return match[1], match[2]


def parse_splits(text: str) -> tuple[tuple[str, float], ...]:
    """Return the splits that a text like "train=0.9,test=0.1" names.

    >>> parse_splits("train=0.9, test=0.1"), parse_splits("source")
    ((('train', 0.9), ('test', 0.1)), ())

    Raises ValueError for other text; what the parts may be, DatasetSpec checks.
    """
    if text.strip() == SOURCE_SPLITS:
        return ()
    splits = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, share = part.partition("=")
        try:
            splits.append((name.strip(), float(share)))
        except ValueError as error:
            raise ValueError(
                f"{part!r} is not a split: write train=0.9,validation=0.05,test=0.05, or source"
            ) from error
    return tuple(splits)


def split_name(text: str) -> str:
    """Return a split's name as datasets have it.

    >>> split_name("val"), split_name("Training"), split_name("extra")
    ('validation', 'train', 'extra')
    """
    return _SPLIT_NAMES.get(text.lower(), text.lower())


def with_source_splits(spec: DatasetSpec, rows: Mapping[str, int]) -> DatasetSpec:
    """Return the spec with the splits that the source has: train, validation, test, then others.

    rows  number of drawings of each split, as the source names it
    """
    counts: dict[str, int] = {}
    for text, number in rows.items():
        counts[split_name(text)] = counts.get(split_name(text), 0) + number
    if spec.validation_part:
        if "validation" in counts or "train" not in counts:
            raise ValueError(
                f"--validation-part is of a source with train and without validation; it has "
                f"{', '.join(counts)}"
            )
        counts["validation"] = round(spec.validation_part * counts["train"])
        counts["train"] -= counts["validation"]
    order = dict.fromkeys(_SPLIT_NAMES.values())
    names = [name for name in order if name in counts] + sorted(set(counts) - set(order))
    total = max(1, sum(counts.values()))
    splits = tuple((name, counts[name] / total) for name in names)
    _check_split_names(names)
    return dataclasses.replace(spec, splits=splits, split_by="source")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def check_names(class_names: Sequence[str]) -> None:
    """Raise ValueError unless these can be the class names of a dataset."""
    if not class_names:
        raise ValueError("a dataset needs at least one class")
    if len(set(class_names)) != len(class_names):
        raise ValueError(f"a class is named twice in {class_names}")
    for name in class_names:
        if not name or name != name.strip() or not name.isprintable() or "/" in name:
            raise ValueError(
                f"class name {name!r} is empty, is not UTF-8, or has blanks around it, '/' or control "
                "characters: give it another name in the source, or choose other classes with "
                "--classes"
            )


def _check_splits(splits: tuple[tuple[str, float], ...]) -> None:
    _check_split_names([name for name, _ in splits])
    if not all(part > 0 for _, part in splits) or abs(sum(p for _, p in splits) - 1) > 1e-9:
        raise ValueError(f"split fractions must be positive and add up to 1, found {splits}")


def _check_split_names(names: Sequence[str]) -> None:
    fine = all(re.fullmatch(r"[a-z][a-z0-9]*", name) for name in names)
    if not names or len(set(names)) != len(names) or not fine:
        raise ValueError(f"splits need different names of a-z, 0-9, found {list(names)}")


def _check_choice(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ValueError for a value that the field's Literal does not list."""
    hints = (field.type, *get_args(field.type))
    choices = [each for hint in hints if get_origin(hint) is Literal for each in get_args(hint)]
    if choices and value is not None and value not in choices:
        raise ValueError(f"{field.name} must be one of {', '.join(choices)}, found {value!r}")


def _check_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is None:
        return
    if not value >= low or (high is not None and not value <= high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {wanted}, found {value}")
