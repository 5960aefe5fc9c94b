"""Options that every sub-command takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from pipelines.catalogue import SEED_CLASSES, class_lines, read_classes_file, split_names
from pipelines.drawings.limits import DEFAULT


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Which classes: a list on the command line, a file, or the twenty of the seed."""

    classes: Annotated[
        str | None,
        Parameter(
            help='Class names, e.g. "bee,sea turtle,tfds:308", or all; a name with a comma in '
            "quotes. Default: the seed's 20."
        ),
    ] = None
    classes_file: Annotated[
        Path | None,
        Parameter(
            help='File of class names, one a line, or in quotes; "#" at the start of a line or '
            "between blanks begins a comment."
        ),
    ] = None

    def written(self, default: tuple[str, ...] = SEED_CLASSES) -> tuple[str, ...]:
        """Return the names as they were written: what they mean, a source may know better."""
        if self.classes is not None and self.classes_file is not None:
            raise ValueError("give --classes or --classes-file, not both")
        if self.classes is not None:
            return split_names(self.classes) or (self.classes,)
        return class_lines(self.classes_file) if self.classes_file else default


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClasses(Classes):
    """Which classes of those that a model knows."""

    classes: Annotated[
        str | None,
        Parameter(
            help='Class names, e.g. "bee,sea turtle"; a name with a comma in quotes. Default: '
            "all that the model knows."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What the user states of a source whose license and attribution no checksum tells."""

    license: Annotated[
        str,
        Parameter(
            help="License of the source's drawings, an SPDX id such as CC-BY-4.0. Google's whole "
            ".npy files, its bucket and doodles have theirs without this option; no other source does."
        ),
    ] = ""
    attribution: Annotated[
        str,
        Parameter(
            help="Attribution for the cards of everything made of the drawings. quickdraw stands "
            "for Google's text and license: use it for strokes, parts of Google's files and copies "
            "that TFDS or others prepared."
        ),
    ] = ""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class BadInput:
    """What to do with files and rows of a source that are no drawings, or too large to be read."""

    on_bad_file: Annotated[
        Literal["fail", "skip"],
        Parameter(help="fail, or skip: leave the file out and say so in the manifest."),
    ] = "fail"
    on_bad_row: Annotated[
        Literal["fail", "skip"],
        Parameter(
            help="fail, or skip: leave out a torn line, a picture that cannot be decoded, an inverted "
            "or faint drawing, what is beyond a limit below; count it under its reason and name it in the manifest."
        ),
    ] = "fail"
    max_bad_rows: Annotated[
        int | None,
        Parameter(help="Fail if more rows than these would be left out. Default: no limit."),
    ] = None
    max_points: Annotated[
        int,
        Parameter(
            help="Points that one drawing may have; its strokes, where they are simplified, ten times "
            "as many pixels."
        ),
    ] = DEFAULT.max_points
    max_line_bytes: Annotated[
        int,
        Parameter(help="Bytes that one line of .ndjson, one record of .bin or TFRecord may have."),
    ] = DEFAULT.max_line_bytes
    max_pixels: Annotated[
        int, Parameter(help="Pixels that one picture may have; told before it is decoded.")
    ] = DEFAULT.max_pixels
    max_row_groups: Annotated[int, Parameter(help="Row groups that one Parquet file may have.")] = (
        DEFAULT.max_row_groups
    )


def read_class_list(file: Path, source: str) -> list[str]:
    """Return the names in a file: Google's, or as they are written for a source with its own.

    Raises ValueError for a name that Google's source has not, or if it is no file of text.
    """
    from pipelines.sources.registry import NAMED

    return list(read_classes_file(file) if source in NAMED else class_lines(file))


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated option.

    >>> listed("hf, png,")
    ('hf', 'png')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


# Numbers that count something; 0 mostly means what suits.
NotNegative = Annotated[int, Parameter(validator=Number(gte=0))]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]

DEFAULT_STORE = "./store"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Where things are kept and how the command speaks.

    store: directory, s3://, gs:// or memory:// URL of the artifact store
    json: print one JSON object as the last line of standard output
    quiet: no progress
    dry_run: print what would be done, then stop
    debug: show tracebacks and the libraries' logs
    """

    store: Annotated[str, Parameter(help="Artifact store: a directory or an object-store URL.")] = (
        DEFAULT_STORE
    )
    json: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Print one JSON object on the last line of stdout.",
        ),
    ] = False
    quiet: Annotated[bool, Parameter(negative=(), show_default=False, help="Show no progress.")] = (
        False
    )
    dry_run: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Print the resolved spec and the plan, then stop."
        ),
    ] = False
    debug: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Show tracebacks and logs.")
    ] = False
