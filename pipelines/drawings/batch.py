"""A columnar batch of drawings, the input and output of functions inside a work unit.

There is no Python object per drawing: one Beam element per drawing costs a hundred times as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

METADATA_COLUMNS = ("key_id", "country_code", "recognized", "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawings:
    """A batch of n drawings.

    images        (n, height, width) uint8, 0 = paper, 255 = ink
    label         (n,) int, position in the class names of the batch's source
    key_id        (n,) uint64, Google's number of the drawing
    country_code  (n,) object, two letters
    recognized    (n,) bool, whether Google's game guessed the drawing
    timestamp     (n,) int64, seconds since 1970 UTC
    problem       (n,) object, why a row is no drawing, None where it is one; its pixels are 0
    repair        (n,) object, what was converted in a row, None where nothing was

    A column that the source does not have is None. Raises ValueError if lengths differ.
    """

    images: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64]
    key_id: npt.NDArray[np.uint64] | None = None
    country_code: npt.NDArray[np.object_] | None = None
    recognized: npt.NDArray[np.bool_] | None = None
    timestamp: npt.NDArray[np.int64] | None = None
    problem: npt.NDArray[np.object_] | None = None
    repair: npt.NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 3 or self.images.dtype != np.uint8:
            found = f"{self.images.shape} {self.images.dtype}"
            raise ValueError(f"expected images (n, height, width) uint8, found {found}")
        for name, column in self.columns().items():
            if len(column) != len(self.images):
                raise ValueError(f"{name} has {len(column)} values for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns that are there, but the images, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images"}
        return {name: column for name, column in found.items() if column is not None}

    def metadata(self) -> dict[str, npt.NDArray[Any]]:
        """Return Google's columns that are there, by name."""
        return {k: v for k, v in self.columns().items() if k in METADATA_COLUMNS}

    def take(self, rows: npt.NDArray[Any]) -> "Drawings":
        """Return these rows (positions or a mask), in this order."""
        picked = {name: column[rows] for name, column in self.columns().items()}
        return Drawings(images=self.images[rows], **picked)


def joined(parts: Sequence[Drawings]) -> Drawings:
    """Return batches as one; a problem or repair that only some have is None in the others."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in dict.fromkeys(name for part in parts for name in part.columns()):
        values = [getattr(part, name) for part in parts]
        if name in ("problem", "repair"):
            pairs = zip(values, parts, strict=True)
            values = [np.full(len(part), None, object) if v is None else v for v, part in pairs]
        columns[name] = np.concatenate(values)
    return Drawings(images=np.concatenate([part.images for part in parts]), **columns)


def count_ink(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the number of pixels above 0 of every image: (n, h, w) to (n,).

    Adds eight pixels at a time as the bytes of one word, which hold up to 255 each.
    """
    flat = (images != 0).reshape(len(images), -1).view(np.uint8)
    words = flat.shape[1] // 8
    if words == 0 or words > 255 or flat.shape[1] % 8:
        return flat.sum(axis=1, dtype=np.int64)
    lanes = flat.view(np.uint64).sum(axis=1, dtype=np.uint64)
    return lanes.view(np.uint8).reshape(len(images), 8).sum(axis=1, dtype=np.int64)
