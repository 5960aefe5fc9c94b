"""The kinds of sources by name, each imported on first use.

A new kind is one module with a subclass of SourceKind (base.py) and one line here.
"""

import functools
import importlib
from typing import TYPE_CHECKING

from pipelines.store.errors import BadFileError

if TYPE_CHECKING:  # which imports NumPy: --help needs this module
    from pipelines.sources.base import FileFormat, SourceKind

# Kind -> its module in pipelines.sources and the class there, and what it is, for --help.
NAMED: dict[str, tuple[str, str]] = {
    "doodles": ("doodles.make:Doodles", "drawn here, no network"),
    "quickdraw": ("download:QuickDraw", "Google's bucket"),
}
# Kinds that are found by the files at an address, in the order of the search.
FOUND: dict[str, tuple[str, str]] = {
    "classes": ("classes:ClassFiles", "files in a Quick, Draw! layout"),
    "parquet": ("parquet:Tables", "Parquet with drawings and labels"),
    "hub": ("hub_tables:HubTables", "hf://datasets/OWNER/NAME on the Hugging Face Hub"),
    "tfds": ("tfds:Prepared", "a dataset that TFDS has prepared"),
}


@functools.cache
def source_kind(name: str) -> "SourceKind":
    """Return the kind of a name, one of NAMED or FOUND."""
    module, _, made = (NAMED | FOUND)[name][0].partition(":")
    return getattr(importlib.import_module(f"pipelines.sources.{module}"), made)()


@functools.cache
def file_format(name: str) -> "FileFormat":
    """Return how a format is read; raise BadFileError if no kind of source has it."""
    for kind in map(source_kind, FOUND | NAMED):
        if name in kind.formats:
            return kind.formats[name]
    raise BadFileError(f"no reader for the format {name!r}")


def source_help() -> str:
    """Return what --source takes."""
    named = ", ".join(f"{name} ({what})" for name, (_, what) in NAMED.items())
    *others, last = (what for _, what in FOUND.values())
    return f"{named}, or a path or URL of {', '.join(others)}, or {last}."
