"""What decides the bytes of a dataset, next to the source itself. No NumPy, no Arrow.

Nothing here says how the work is done: runner, workers, order and machine change no byte.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.drawings.credit import parse_attribution, parse_license
from pipelines.drawings.limits import DEFAULT, Limits, limits_of

DEFAULT_SPLITS: tuple[tuple[str, float], ...] = (
    ("train", 0.9),
    ("validation", 0.05),
    ("test", 0.05),
)
FORMATS = ("parquet", "tfrecord")
LAYOUTS = ("packed", "linked")
IMAGE_ENCODINGS = ("png", "raw")
CLEANING = ("drop", "keep")
# Bumped whenever the same spec would give other bytes; it is part of every digest.
FORMAT_VERSION = 1
# Fields that format version 1 did not begin with.
_LIMITS = tuple(f.name for f in dataclasses.fields(Limits))
_LATER_FIELDS = frozenset({"on_bad_row", "max_bad_rows", "license", "attribution", *_LIMITS})
_SLICE = re.compile(r"train(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """Everything that decides a dataset's bytes but the source's.

    class_names      labels are positions in it
    image_size       pixels a side; only sources of strokes can be drawn at other sizes than 28
    splits           (name, fraction) that add up to 1; a drawing's pixel hash picks its split
    seed             of the splits and of the shuffle
    formats          one or both of parquet, tfrecord
    layout           packed: shards mix the classes; linked: shards of one class, reused
    rows_per_shard   None: 65,536, less if there would be fewer than 8 shards
    compression_level  of zstd in Parquet: 1 is fast; 10 gives 285 bytes a drawing, not 298, in 4 times
                     the time
    tfrecord_images  png, as TFDS writes them, or raw: 784 bytes, much faster

    Selection, in this order:
    tfds_slice       "train[:500000]": the drawings that TFDS's slicing selects
    max_per_class    the first rows of each class
    fraction         of the drawings, by hash; a smaller one is part of a larger one
    recognized_only  only drawings that Google's game guessed (the source must know)
    countries        only these, if any (the source must know)

    Cleaning, each with a count by class. A slice means exact drawings, so under tfds_slice
    nothing is cleaned unless asked for: duplicates and blank are then keep by default, else drop.
    blank            drop or keep drawings without ink
    min_ink, max_ink  pixels above 0; min_ink is of drawings that have any
    duplicates       drop: of the same pixels in the same class only the first row stays
    near_duplicates  drop a drawing whose 64-bit difference hash is at most so many bits from an
                     earlier kept one of its class; None: keep
    with_metadata    keep key_id, country_code, recognized, timestamp as columns
    on_bad_file      fail, or skip: leave the file out and say so in the manifest
    on_bad_row       the same of a damaged or implausible row, which is counted under its reason
    max_bad_rows     fail if more rows than these would be left out; None: no limit
    max_points to max_row_groups  as in pipelines.drawings.limits.Limits; what goes beyond is bad

    What the user states of the source; what is known of it anyway (pipelines.dataset.credit) is added.
    license          ids of SPDX joined by AND; empty: not stated
    attribution      a text, or "quickdraw" for drawings of Google's; empty: not stated
    """

    class_names: tuple[str, ...]
    image_size: int = 28
    splits: tuple[tuple[str, float], ...] = DEFAULT_SPLITS
    seed: int = 0
    formats: tuple[str, ...] = ("parquet",)
    layout: str = "packed"
    rows_per_shard: int | None = None
    compression_level: int = 1
    tfrecord_images: str = "png"
    tfds_slice: str | None = None
    max_per_class: int | None = None
    fraction: float = 1.0
    recognized_only: bool = False
    countries: tuple[str, ...] = ()
    blank: str | None = None
    min_ink: int = 1
    max_ink: int | None = None
    duplicates: str | None = None
    near_duplicates: int | None = None
    with_metadata: bool = False
    on_bad_file: str = "fail"
    format_version: int = FORMAT_VERSION
    on_bad_row: str = "fail"
    max_bad_rows: int | None = None
    license: str = ""
    attribution: str = ""
    max_points: int = DEFAULT.max_points
    max_line_bytes: int = DEFAULT.max_line_bytes
    max_pixels: int = DEFAULT.max_pixels
    max_row_groups: int = DEFAULT.max_row_groups

    def __post_init__(self) -> None:
        """Settle what is left open; raise ValueError for values no dataset can have."""
        self._settle()
        check_names(self.class_names)
        _check_splits(self.splits)
        if self.tfds_slice is not None:
            parse_slice(self.tfds_slice)
        _check_choice("layout", self.layout, LAYOUTS)
        if self.layout == "linked" and self.formats != ("parquet",):
            raise ValueError("the linked layout is of Parquet shards only")
        _check_choice("blank", self.blank, CLEANING)
        _check_choice("duplicates", self.duplicates, CLEANING)
        _check_choice("on_bad_file", self.on_bad_file, ("fail", "skip"))
        _check_choice("on_bad_row", self.on_bad_row, ("fail", "skip"))
        if self.max_bad_rows is not None and self.on_bad_row == "fail":
            raise ValueError("max_bad_rows is of on_bad_row='skip': without it none is left out")
        _check_range("max_bad_rows", self.max_bad_rows, 0, None)
        _check_choice("tfrecord_images", self.tfrecord_images, IMAGE_ENCODINGS)
        if not self.formats or set(self.formats) - set(FORMATS):
            raise ValueError(f"formats must be of {', '.join(FORMATS)}, found {self.formats}")
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

    def _settle(self) -> None:
        """Give one form to what may be said in several: it is part of the digest."""
        unsaid = "drop" if self.tfds_slice is None else "keep"
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
        """Return the spec as JSON values, for a manifest.

        A field of `_LATER_FIELDS` is left out while it has its default: specs from before it have
        the digests that they had.
        """
        return {
            f.name: _plain(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if f.name not in _LATER_FIELDS or getattr(self, f.name) != f.default
        }


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

    >>> parse_splits("train=0.9, test=0.1")
    (('train', 0.9), ('test', 0.1))

    Raises ValueError for other text; what the parts may be, DatasetSpec checks.
    """
    splits = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, share = part.partition("=")
        try:
            splits.append((name.strip(), float(share)))
        except ValueError as error:
            raise ValueError(
                f"{part!r} is no split: write train=0.9,validation=0.05,test=0.05"
            ) from error
    return tuple(splits)


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
    names = [name for name, _ in splits]
    fine = all(re.fullmatch(r"[a-z][a-z0-9]*", name) for name in names)
    if not names or len(set(names)) != len(names) or not fine:
        raise ValueError(f"splits need different names of a-z, 0-9, found {names}")
    if not all(part > 0 for _, part in splits) or abs(sum(p for _, p in splits) - 1) > 1e-9:
        raise ValueError(f"split fractions must be positive and add up to 1, found {splits}")


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def _check_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is None:
        return
    if not value >= low or (high is not None and not value <= high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {wanted}, found {value}")
