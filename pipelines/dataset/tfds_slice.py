"""The drawings that a slice of TFDS's quickdraw_bitmap selects, computed without TFDS.

TFDS orders its one split, `train`, by md5("train" + "<class>_<row>") over all classes; a slice
is a range of that order. Finding the two ends takes one md5 a drawing of the whole set, about a
minute for 50 million; which rows of a class lie between them is then one comparison.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pipelines.catalogue import catalogue
from pipelines.dataset.spec import DatasetSpec, parse_slice
from pipelines.sources.base import Source

_CHUNK_ROWS = 100_000
# The window misses with a probability below 1e-20.
_WINDOW_SIGMAS = 10


def slice_rule(text: str, source: Source) -> Callable[[str, int], npt.NDArray[np.bool_]]:
    """Return a rule that says which of a class's first n rows the slice takes.

    If the source's files have as many rows as Google's, the whole set of 345 classes is what is
    sliced, whichever classes are chosen; otherwise the classes that the source has.
    """
    counts = slice_universe(source)
    total = sum(counts.values())
    low, high = (_key_at(counts, place, total) for place in slice_bounds(text, total))

    def rule(class_name: str, rows: int) -> npt.NDArray[np.bool_]:
        keys = np.concatenate([np.empty(0, np.uint64), *_class_keys(class_name, rows)])
        return (keys >= np.uint64(low)) & (keys <= np.uint64(high - 1))

    return rule


def slice_universe(source: Source) -> Mapping[str, int]:
    """Return the number of drawings of every class that is sliced."""
    counts = source.rows_by_class()
    official = {entry.name: entry.num_drawings for entry in catalogue()}
    if not counts:
        raise ValueError(f"source {source.name} mixes classes in its files: it cannot be sliced")
    if all(official.get(name) == rows for name, rows in counts.items()):
        return official
    return counts


def slice_note(spec: DatasetSpec, source: Source) -> dict[str, object]:
    """Return what a spec's slice is a slice of, for plans and manifests; empty without one."""
    if spec.tfds_slice is None:
        return {}
    counts = slice_universe(source)
    which = "the whole quickdraw_bitmap" if _is_whole(counts) else "the classes of the source"
    total = sum(counts.values())
    return {
        "tfds_slice": {
            "of": which,
            "classes": len(counts),
            "drawings": total,
            "positions": list(slice_bounds(spec.tfds_slice, total)),
        }
    }


def check_slice(spec: DatasetSpec, source: Source) -> None:
    """Raise ValueError if the source cannot be sliced, or not class by class."""
    if spec.tfds_slice is None:
        return
    counts = slice_universe(source)
    if spec.layout == "linked" and not _is_whole(counts):
        raise ValueError(
            f"source {source.name} is a part of Quick, Draw!, of which a slice mixes the classes: "
            "the linked layout builds each class alone; use the packed layout"
        )
    slice_bounds(spec.tfds_slice, sum(counts.values()))


def _is_whole(counts: Mapping[str, int]) -> bool:
    return counts == {entry.name: entry.num_drawings for entry in catalogue()}


def slice_bounds(text: str, total: int) -> tuple[int, int]:
    """Return the positions [first, last) that a slice of `total` examples means.

    >>> slice_bounds("train[:500000]", 50_426_266), slice_bounds("train[10%:-5]", 1_005)
    ((0, 500000), (100, 1000))

    Percentages are rounded to the closest position, as TFDS does. Raises ValueError if the text
    is no slice of train.
    """
    low, high = parse_slice(text)
    first, last = _position(low, total, 0), _position(high, total, total)
    if first >= last:
        raise ValueError(f"slice {text!r} of {total} drawings is empty")
    return first, last


def _position(text: str | None, total: int, default: int) -> int:
    if text is None:
        return default
    place = round(int(text[:-1]) * total / 100) if text.endswith("%") else int(text)
    return min(max(place + total if place < 0 else place, 0), total)


def _class_keys(class_name: str, rows: int) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield the upper 64 bits of the md5 of a class's first rows, in pieces.

    Two of 50 million drawings agree in them with probability 1 in 14,000, and it matters only
    at the two ends of a slice.
    """
    seed = hashlib.md5(f"train{class_name}_".encode(), usedforsecurity=False)
    for start in range(0, rows, _CHUNK_ROWS):
        digests = []
        for row in range(start, min(start + _CHUNK_ROWS, rows)):
            digest = seed.copy()
            digest.update(b"%d" % row)
            digests.append(digest.digest()[:8])
        yield np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _key_at(counts: Mapping[str, int], position: int, total: int) -> int:
    """Return the key of the drawing at this position of the order; 2**64 past the end.

    Keys are uniform, so the wanted one is looked for near where it must be; one pass counts
    what is below the window and keeps what is in it.
    """
    if position in (0, total):
        return 0 if position == 0 else 2**64
    share = position / total
    margin = _WINDOW_SIGMAS * (share * (1 - share) / total) ** 0.5 + 1 / total
    low = max(0, int((share - margin) * 2**64))
    high = min(2**64 - 1, int((share + margin) * 2**64))
    below, inside = 0, [np.empty(0, np.uint64)]
    for class_name, rows in counts.items():
        for keys in _class_keys(class_name, rows):
            below += int((keys < np.uint64(low)).sum())
            inside.append(keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))])
    window = np.sort(np.concatenate(inside))
    assert 0 <= position - below < len(window), "the keys of TFDS are not uniform"
    return int(window[position - below])
