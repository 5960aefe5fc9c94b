"""Fit square bitmaps of one size to another, for files whose readers give one size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.drawings.batch import Drawings
from pipelines.drawings.fitting import REPAIRS, fit_drawing
from pipelines.sources.base import Reader, SourceFile, SourceOptions, check_side


def fitted_layout(url: str, side: int, options: SourceOptions) -> dict[str, Any]:
    """Return what a file's layout says of fitting; nothing if its bitmaps have the size.

    Raises BadFileError if they have another and are not to be fitted.
    """
    if side == options.image_size or options.fit is None:
        check_side(url, side, options.image_size)
        return {}
    return {"fit": options.fit, "how": f"fit {options.fit}"}


def native_side(file: SourceFile, image_size: int) -> int:
    """Return the pixels a side that the file's own reader gives."""
    return int(file.layout["side"]) if "fit" in file.layout else image_size


class FittedReader(Reader):
    """Reads the drawings of another reader and fits them."""

    def __init__(self, reader: Reader, image_size: int, layout: Mapping[str, Any]) -> None:
        self.reader, self.image_size, self.fit = reader, image_size, layout["fit"]

    def read(self, start: int, stop: int) -> Drawings:
        """Return the drawings [start, stop), each with the repair that it was fitted."""
        drawings = self.reader.read(start, stop)
        images = np.stack(
            [fit_drawing(each, self.image_size, self.fit) for each in drawings.images]
        )
        before = [None] * len(images) if drawings.repair is None else drawings.repair.tolist()
        texts = [", ".join(filter(None, (text, REPAIRS[self.fit]))) for text in before]
        return replace(drawings, images=images, repair=np.array(texts, object))
