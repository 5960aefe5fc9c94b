"""Files in Google's layout with random drawings, three tenths of them ink, for tests of builds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.doodles import google_npy


def write_npy_files(directory: Path, class_names: Sequence[str], rows: int) -> Path:
    """Write `rows` drawings of each class, decided by its name; return the new directory."""
    directory.mkdir()
    for name in class_names:
        rng = np.random.default_rng(list(name.encode()))
        images = rng.integers(0, 256, (rows, 28, 28), np.uint8)
        images[rng.random(images.shape) < 0.7] = 0
        (directory / f"{name}.npy").write_bytes(google_npy(images))
    return directory
