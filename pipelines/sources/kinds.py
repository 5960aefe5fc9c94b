"""The kinds of sources by name, each imported on first use.

A new kind is one module with a subclass of SourceKind (base.py) and one entry here. The docstring of
the module is the kind's page of help: `sketchmill sources KIND`.
"""

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.store.errors import BadFileError

if TYPE_CHECKING:  # which imports NumPy: --help needs this module
    from pipelines.sources.base import FileFormat, SourceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a kind before it is imported.

    made     its module in pipelines.sources and the class there
    what     it is, in --help
    say      how --source names it
    checked  what of it is checked
    """

    made: str
    what: str
    say: str
    checked: str


NAMED: dict[str, Known] = {
    "doodles": Known(
        made="doodles.make:Doodles",
        what="drawn here, no network",
        say="doodles",
        checked="made by sketchmill",
    ),
    "quickdraw": Known(
        made="download:QuickDraw",
        what="Google's bucket",
        say="quickdraw",
        checked="size and SHA-256 of each file",
    ),
}
# Kinds that are found by the files at an address, in the order of the search.
FOUND: dict[str, Known] = {
    "classes": Known(
        made="classes:ClassFiles",
        what="files in a Quick, Draw! layout",
        say="a folder of bee.npy, .ndjson, .jsonl (also .gz, .zst), .bin, .npz of sketch-rnn or "
        "Kaggle's .csv, or one such file",
        checked="header and size, each line or record, the class that it names",
    ),
    "parquet": Known(
        made="tables.kind:Tables",
        what="Parquet with drawings and labels",
        say="a folder of .parquet or one file, of pictures, lists of pixels or strokes; --label-names "
        "for numbered labels without names",
        checked="row groups, each picture or drawing, its size and label",
    ),
    "hub": Known(
        made="tables.hub:HubTables",
        what="hf://datasets/OWNER/NAME on the Hugging Face Hub",
        say="hf://datasets/OWNER/NAME, also @REVISION and /FOLDER (extra hub)",
        checked="the commit that the name means, then as parquet",
    ),
    "tfds": Known(
        made="tfds.kind:Prepared",
        what="a dataset that TFDS has prepared",
        say="the folder of dataset_info.json",
        checked="all shards are there, each record's checksum, size and label",
    ),
    "idx": Known(
        made="idx.kind:IdxFolder",
        what="a folder of IDX files as MNIST's",
        say="a folder of train-images-idx3-ubyte and train-labels-idx1-ubyte, also .gz; --label-names "
        "where no label_map.csv names the labels; --transpose for EMNIST",
        checked="magic number, sizes, gzip's checksum, as many labels as pictures",
    ),
    "examples": Known(
        made="records.kind:Examples",
        what="TFRecord or ArrayRecord of pictures and labels",
        say="a folder of .tfrecord or .array_record, or one file; --label-names for numbered labels",
        checked="each record's checksums, its features, size and label",
    ),
    "webdataset": Known(
        made="tars.kind:WebDatasetTars",
        what="tars of WebDataset",
        say="a folder of .tar or one file; --label-names for numbered labels",
        checked="headers, the end of the tar, a picture and a class in each sample, dataset.json",
    ),
    # The last: pictures beside files of other kinds may be of their README.
    "folders": Known(
        made="folders.kind:Folders",
        what="a folder of pictures by class",
        say="a folder of bee/1.png or train/bee/1.png: PNG, JPEG, WebP, GIF, BMP",
        checked="each picture's SHA-256, the way of a class's ink, metadata.csv",
    ),
}


@functools.cache
def source_kind(name: str) -> "SourceKind":
    """Return the kind of a name, one of NAMED or FOUND."""
    module, _, made = (NAMED | FOUND)[name].made.partition(":")
    return getattr(importlib.import_module(f"pipelines.sources.{module}"), made)()


def help_page(name: str) -> str:
    """Return the page of help of a kind."""
    module = (NAMED | FOUND)[name].made.partition(":")[0]
    return str(importlib.import_module(f"pipelines.sources.{module}").__doc__)


@functools.cache
def file_format(name: str) -> "FileFormat":
    """Return how a format is read; raise BadFileError if no kind of source has it."""
    for kind in map(source_kind, FOUND | NAMED):
        if name in kind.formats:
            return kind.formats[name]
    raise BadFileError(f"no reader for the format {name!r}")


def source_help() -> str:
    """Return what --source takes."""
    named = ", ".join(f"{name} ({kind.what})" for name, kind in NAMED.items())
    *others, last = (kind.what for kind in FOUND.values())
    return f"{named}, or a path or URL of {', '.join(others)}, or {last}."
