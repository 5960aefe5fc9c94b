"""The export spec: all that decides an export's bytes besides the dataset. Standard library only.

    hf            Parquet files with pictures and class names, and a Hugging Face dataset card
    tfds          TFRecord files and metadata that `tfds.builder_from_directory` opens
    webdataset    tar files of <key>.png, <key>.cls and, for synthetic rows, <key>.json
    numpy_bitmap  Google's own layout: <class>.npy, (n, 784) uint8 after an 80-byte header
    idx           MNIST's layout: one file of images and one of labels a split
    png           <split>/<class>/<row>.png with metadata.csv, as `imagefolder` reads it

How the work is done (runner, workers, order, retries, machine) changes no byte.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Format -> its module in pipelines.export.formats, and the class there; in the order of exports.
FORMATS: Mapping[str, str] = {
    "hf": "hf:HuggingFace",
    "tfds": "tfds:Tfds",
    "webdataset": "webdataset:WebDataset",
    "numpy_bitmap": "numpy_bitmap:NumpyBitmap",
    "idx": "idx:Idx",
    "png": "png_tree:PngTree",
}
# Bumped whenever the same spec would give other bytes; it is part of every digest.
FORMAT_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """Formats and rows of an export.

    formats        some of FORMATS; their order does not matter
    splits         only these, in this order; empty: all of the dataset
    rows_per_file  of hf, tfds and webdataset; None: what suits the format
    filters        rules that the exported rows were accepted by; what they accepted follows from
                   the audit, which is an input of the export
    gate           limits that the audit's numbers kept to
    """

    formats: tuple[str, ...]
    splits: tuple[str, ...] = ()
    rows_per_file: int | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    gate: Sequence[Mapping[str, Any]] = ()
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Put the formats in one order; raise ValueError for values no export can have."""
        if not self.formats:
            raise ValueError(f"an export needs at least one format of {', '.join(FORMATS)}")
        for name in self.formats:
            if name not in FORMATS:
                raise ValueError(f"format {name!r} is not one of {', '.join(FORMATS)}")
        if self.rows_per_file is not None and self.rows_per_file < 1:
            raise ValueError(f"rows_per_file must be at least 1, found {self.rows_per_file}")
        wanted = tuple(name for name in FORMATS if name in self.formats)
        object.__setattr__(self, "formats", wanted)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values, for a manifest."""
        raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return raw | {
            "formats": list(self.formats),
            "splits": list(self.splits),
            "filters": dict(self.filters),
            "gate": [dict(limit) for limit in self.gate],
        }
