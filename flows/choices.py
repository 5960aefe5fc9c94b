"""Options that several sub-commands share: which classes, how many processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipelines.catalogue import SEED_CLASSES, parse_classes, read_classes_file


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Which classes: a list on the command line, a file, or the twenty of the seed."""

    classes: Annotated[
        str | None,
        Parameter(help='Class names, e.g. "bee,sea turtle,tfds:308". Default: the seed\'s 20.'),
    ] = None
    classes_file: Annotated[
        Path | None, Parameter(help="File of class names, one a line; # begins a comment.")
    ] = None

    def names(self, default: tuple[str, ...] = SEED_CLASSES) -> tuple[str, ...]:
        """Return the class names; raise ValueError for unknown ones or two ways at once."""
        if self.classes is not None and self.classes_file is not None:
            raise ValueError("give --classes or --classes-file, not both")
        if self.classes is not None:
            return parse_classes(self.classes)
        return read_classes_file(self.classes_file) if self.classes_file else default
