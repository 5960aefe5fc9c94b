"""Drawings as strokes, as people write them, and the command that reads them."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from built import Builder as Builder
from built import fill_with as fill_with


def some_strokes(count: int, seed: int = 0) -> list[list[list[list[int]]]]:
    """Return drawings as Google's simplified ones: whole numbers, from 0 to 255 in x."""
    rng = np.random.default_rng(seed)
    drawings = []
    for _ in range(count):
        strokes = [rng.integers(0, 256, (2, n)) for n in rng.integers(2, 9, rng.integers(1, 5))]
        strokes[0][:, 0], strokes[-1][0, -1] = 0, 255
        drawings.append([stroke.tolist() for stroke in strokes])
    return drawings


def ndjson(drawings: list, **fields: object) -> bytes:
    """Return drawings as .ndjson with these fields in every line."""
    return b"".join(json.dumps({**fields, "drawing": d}).encode() + b"\n" for d in drawings)


def pictures(build: Builder, root: Path, drawings: dict[str, list]) -> list[tuple[str, bytes]]:
    """Return class and pixels of drawings by class, built from plain .ndjson."""
    files = {f"{name}.ndjson": ndjson(strokes, word=name) for name, strokes in drawings.items()}
    return build.drawings(fill_with(root, files))
