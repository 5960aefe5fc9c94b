"""The built-in source: synthetic drawings of 20 classes, in Google's own formats.

    <cache>/doodles/v1-seed0-1200/numpy_bitmap/<class>.npy    28x28, header of 80 bytes
                                  simplified/<class>.ndjson   strokes, 0..255

Drawing i of a class depends on (seed, class, i) alone, so that a larger set begins with the smaller
one. Doodles stand in for Quick, Draw! where there is no network; everything made of them is marked
as synthetic.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.catalogue import SEED_CLASSES
from pipelines.drawings.hashing import text_seed
from pipelines.processes.progress import Progress
from pipelines.sources.base import (
    BITMAP_SIZE,
    DOODLES_PER_CLASS,
    Place,
    Request,
    Source,
    SourceKind,
    SourceOptions,
)
from pipelines.sources.classes import ClassFiles, class_folder, plan_bitmaps
from pipelines.sources.doodles import animals, plants, things
from pipelines.sources.doodles.pen import Guide, Pen, follow, hold
from pipelines.sources.doodles.rasterize import rasterize
from pipelines.sources.download import held
from pipelines.store.local_files import write_atomically

# In the cache's path: bumped when the drawings change.
DOODLES_VERSION = 1

_BATCH = 128
_COUNTRIES = ("US", "GB", "DE", "BR", "JP", "CZ", "IN", "ZA")

SHAPES: Mapping[str, Callable[[Pen], None]] = {
    "bee": animals.bee,
    "bicycle": things.bicycle,
    "broccoli": plants.broccoli,
    "butterfly": animals.butterfly,
    "cactus": plants.cactus,
    "frog": animals.frog,
    "guitar": things.guitar,
    "lightning": plants.lightning,
    "penguin": animals.penguin,
    "pizza": plants.pizza,
    "rollerskates": things.rollerskates,
    "sea turtle": animals.sea_turtle,
    "sheep": animals.sheep,
    "snowflake": plants.snowflake,
    "sun": plants.sun,
    "swan": animals.swan,
    "The Eiffel Tower": things.eiffel_tower,
    "tractor": things.tractor,
    "train": things.train,
    "tree": plants.tree,
}
# Seen from the side: people draw them facing either way.
_FACING = {"bee", "bicycle", "rollerskates", "sea turtle", "sheep", "swan", "tractor", "train"}


class Doodles(SourceKind):
    """Drawings of 20 classes, made here."""

    def classes(self, place: Place, options: SourceOptions) -> tuple[str, ...]:
        """Return the classes that can be drawn."""
        del place, options
        return SEED_CLASSES

    def plan(self, place: Place, request: Request) -> Source:
        """Return the source; the digest of doodles that are not drawn yet is empty."""
        chosen, options = _chosen(request), request.options
        count = options.doodles_per_class
        root = doodles_dir(request.cache_dir, options.seed, count)
        if all((root / "numpy_bitmap" / f"{name}.npy").is_file() for name in chosen):
            return self.open(place, request)
        planned = [(name, count, count * BITMAP_SIZE**2, "") for name in chosen]
        return dataclasses.replace(plan_bitmaps(planned, options), is_synthetic=True)

    def open(self, place: Place, request: Request) -> Source:
        """Draw what the cache lacks and return its bitmaps, or strokes for another size."""
        del place
        chosen, options = _chosen(request), request.options
        count, progress = options.doodles_per_class, request.progress
        root = write_doodles(
            request.cache_dir, chosen, seed=options.seed, per_class=count, progress=progress
        )
        is_small = options.image_size == BITMAP_SIZE
        folder, ending = ("numpy_bitmap", ".npy") if is_small else ("simplified", ".ndjson")
        files = class_folder(str(root / folder), ending)
        source = ClassFiles().open(files, dataclasses.replace(request, classes=chosen))
        return dataclasses.replace(source, is_synthetic=True)


def _chosen(request: Request) -> tuple[str, ...]:
    """Return the classes to draw; raise ValueError for what doodles cannot give."""
    chosen = tuple(request.classes or SEED_CLASSES)
    if unknown := [name for name in chosen if name not in SEED_CLASSES]:
        raise ValueError(
            f"doodles cannot draw {', '.join(unknown)}; it draws {', '.join(SEED_CLASSES)}. "
            "Use --source quickdraw or a directory for other classes"
        )
    if request.options.columns and request.options.image_size == BITMAP_SIZE:
        # Their bitmaps are not cairo's: joining compares and would refuse them.
        raise ValueError("doodles have no metadata of Google's to join")
    return chosen


def write_doodles(
    cache_dir: Path,
    classes: Sequence[str] = SEED_CLASSES,
    *,
    seed: int = 0,
    per_class: int = DOODLES_PER_CLASS,
    progress: Progress | None = None,
) -> Path:
    """Draw what the cache lacks of these classes and return the directory of the formats."""
    root = doodles_dir(cache_dir, seed, per_class)
    total = len(classes) * per_class
    for index, class_name in enumerate(classes):
        bitmaps = root / "numpy_bitmap" / f"{class_name}.npy"
        if not bitmaps.is_file():
            if progress is not None:
                progress("doodles", index * per_class, total, class_name)
            bitmaps.parent.mkdir(parents=True, exist_ok=True)
            # Written once: another process may have drawn them meanwhile and be reading them.
            with held(bitmaps.with_name(f"{bitmaps.name}.part")):
                if not bitmaps.is_file():
                    _write_class(root, class_name, draw(class_name, seed, per_class), seed)
        if progress is not None:
            progress("doodles", (index + 1) * per_class, total, class_name)
    return root


def _write_class(
    root: Path, class_name: str, drawings: Sequence[list[npt.NDArray[np.int64]]], seed: int
) -> None:
    lines = "".join(_ndjson(class_name, seed, i, d) for i, d in enumerate(drawings))
    write_atomically(root / "simplified" / f"{class_name}.ndjson", lines.encode("ascii"))
    # The bitmaps last: they mark the class as complete.
    write_atomically(root / "numpy_bitmap" / f"{class_name}.npy", google_npy(render(drawings)))


def doodles_dir(cache_dir: Path, seed: int, per_class: int) -> Path:
    """Return where the doodles of a seed are kept."""
    return cache_dir / "doodles" / f"v{DOODLES_VERSION}-seed{seed}-{per_class}"


def draw(class_name: str, seed: int, count: int) -> list[list[npt.NDArray[np.int64]]]:
    """Return the first `count` drawings of a class.

    A drawing is a list of strokes (k, 2) of whole numbers, 0 to 255, x then y.
    """
    drawings = []
    for start in range(0, count, _BATCH):
        guides = [_guide(class_name, seed, i) for i in range(start, min(start + _BATCH, count))]
        drawings += follow(guides)
    return drawings


def render(drawings: Sequence[Sequence[npt.NDArray[np.int64]]]) -> npt.NDArray[np.uint8]:
    """Return the bitmaps (n, 28, 28) of drawings."""
    batches = [rasterize(drawings[i : i + _BATCH]) for i in range(0, len(drawings), _BATCH)]
    return np.concatenate(batches)


def google_npy(images: npt.NDArray[np.uint8]) -> bytes:
    """Return an .npy file as Google wrote it: (n, 784) after a header of exactly 80 bytes."""
    count = len(images)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {images[0].size}), }}"
    header = text.encode("ascii").ljust(69) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + images.tobytes()


def _guide(class_name: str, seed: int, index: int) -> Guide:
    pen = Pen(np.random.Generator(np.random.PCG64(text_seed("doodle", seed, class_name, index))))
    SHAPES[class_name](pen)
    return hold(pen, can_mirror=class_name in _FACING)


def _ndjson(
    class_name: str, seed: int, index: int, strokes: Sequence[npt.NDArray[np.int64]]
) -> str:
    """Return the line of one drawing: Google's fields, with values that are plainly not Google's."""
    number = text_seed("doodle line", seed, class_name, index)
    line = {
        "word": class_name,
        "countrycode": _COUNTRIES[number % len(_COUNTRIES)],
        "timestamp": "2017-01-01 00:00:00.00000 UTC",
        "recognized": number % 16 != 0,
        # Below 2**52, where no number of Google's is.
        "key_id": str(number % 2**51),
        "drawing": [stroke.T.tolist() for stroke in strokes],
    }
    return json.dumps(line, separators=(",", ":")) + "\n"
