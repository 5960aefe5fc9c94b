"""Find pictures and labels among the features of tf.train.Examples, by the names that are in use.

    image/encoded, image, ...     an encoded picture (PNG and the like), or height * width bytes or
                                  whole numbers, as `height` and `width` say, else of a square
    label, image/class/label      a number
    class_name, image/class/text  a name

The first record decides which are read; a record that lacks one is a bad row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.limits import Limits
from pipelines.drawings.pictures import PictureError, drawing_of, open_picture
from pipelines.sources.metadata import COLUMN_NAMES
from pipelines.sources.records.proto import Feature, parse_feature
from pipelines.sources.row_labels import RowLabel, row_label

_IMAGES = ("image/encoded", "image", "image_raw", "image/raw", "img", "picture", "drawing")
_NUMBERS = ("image/class/label", "label", "labels", "class_label", "class", "class_index")
_NAMES = ("image/class/text", "class_name", "word", "category", "label_name", "label", "class")
_EXTENTS = (("height", "width", "depth"), ("image/height", "image/width", "image/channels"))
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which features of a file's records are read.

    image   its name
    shape   of the first picture
    is_raw  whether the values are the pixels
    number  of the label, "" if there is none
    name    of the class, "" if there is none
    """

    image: str
    shape: tuple[int, int]
    is_raw: bool
    number: str
    name: str

    def label(self, features: Mapping[str, bytes]) -> RowLabel:
        """Return what a record says of its class; raise ValueError if nothing."""
        numbers: list[int] = []
        names: list[str] = []
        if self.number:
            values = _values(features, self.number, "int64", 1)
            numbers.append(int(values[0]))
        if self.name:
            text = _values(features, self.name, "bytes", 1)[0]
            try:
                names += filter(None, [bytes(text).decode()])
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.name} is not UTF-8 text") from error
        return row_label(numbers, names, " and ".join(filter(None, [self.number, self.name])))

    def picture(self, features: Mapping[str, bytes]) -> bytes | npt.NDArray[np.uint8]:
        """Return a record's encoded picture, or its pixels (h, w); raise ValueError for others."""
        if not self.is_raw:
            return bytes(_values(features, self.image, "bytes", 1)[0])
        found = _feature(features, self.image)
        values = found.values
        if found.kind == "bytes":
            content = bytes(_values(features, self.image, "bytes", 1)[0])
            values = np.frombuffer(content, np.uint8)
        if found.kind == "float" or len(values) != math.prod(self.shape):
            raise ValueError(
                f"{self.image} holds {len(values)} {found.kind}, expected {math.prod(self.shape)} "
                "pixels"
            )
        pixels = np.asarray(values)
        if pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"{self.image} has pixels of {pixels.min()} to {pixels.max()}")
        return pixels.astype(np.uint8).reshape(self.shape)


def choose(features: Mapping[str, bytes], limits: Limits) -> Chosen:
    """Return which features to read; raise ValueError that lists those that are there."""
    found = {name: feature for name in features if (feature := parse_feature(features[name]))}
    image = next((name for name in _IMAGES if name in found), None)
    if image is None or found[image].kind == "float":
        raise ValueError(_no_picture(image, found))
    number = _first(found, _NUMBERS, "int64")
    name = _first(found, _NAMES, "bytes")
    if not number and not name:
        raise ValueError(f"it has no label or class_name; {_listed(found)}")
    values = found[image].values
    content = values[0] if found[image].kind == "bytes" and len(values) == 1 else None
    if isinstance(content, bytes) and content.startswith(_MAGIC):
        shape, is_raw = _encoded_shape(content, limits), False
    else:
        length = len(content) if isinstance(content, bytes) else len(values)
        shape, is_raw = _raw_shape(image, length, found), True
    return Chosen(image=image, shape=shape, is_raw=is_raw, number=number, name=name)


def metadata_of(features: Mapping[str, bytes], columns: Sequence[str]) -> dict[str, Any]:
    """Return the values of the metadata columns that a record has, by their names there."""
    record: dict[str, Any] = {}
    for name in (name for column in columns for name in COLUMN_NAMES[column]):
        feature = parse_feature(features[name]) if name in features else None
        if feature is not None and len(feature.values) == 1:
            value = feature.values[0]
            record[name] = value.decode() if isinstance(value, bytes) else value.item()
    return record


def _feature(features: Mapping[str, bytes], name: str) -> Feature:
    found = parse_feature(features[name]) if name in features else None
    if found is None:
        raise ValueError(f"it has no feature {name}")
    return found


def _values(features: Mapping[str, bytes], name: str, kind: str, count: int) -> Any:
    found = _feature(features, name)
    if found.kind != kind or len(found.values) != count:
        raise ValueError(f"{name} is {found}, expected {kind}")
    return found.values


def _first(found: Mapping[str, Feature], names: Sequence[str], kind: str) -> str:
    fitting = (n for n in names if n in found and found[n].kind == kind)
    return next((name for name in fitting if len(found[name].values) == 1), "")


def _encoded_shape(content: bytes, limits: Limits) -> tuple[int, int]:
    """Return height and width of the first picture, (0, 0) if it is no drawing: a bad row."""
    try:
        height, width = drawing_of(open_picture(content, limits))[0].shape
    except PictureError:
        return 0, 0
    return height, width


def _raw_shape(image: str, length: int, found: Mapping[str, Feature]) -> tuple[int, int]:
    """Return height and width of pixels: as features say, or of a square."""
    for names in _EXTENTS:
        stated = [found[name].values[0] for name in names if _first(found, [name], "int64")]
        if len(stated) >= 2:
            height, width, *depth = (int(value) for value in stated)
            if height * width != length or depth not in ([], [1]):
                raise ValueError(
                    f"{image} holds {length} values that are no encoded picture, for {names[0]}, "
                    f"{names[1]}, ... of {' x '.join(map(str, stated))}: expected one of gray a pixel"
                )
            return height, width
    side = math.isqrt(length)
    if side * side != length or not length:
        raise ValueError(
            f"{image} holds {length} values, neither an encoded picture nor those of a square"
        )
    return side, side


def _no_picture(image: str | None, found: Mapping[str, Feature]) -> str:
    if image is None and "ink" in found:
        return (
            "it holds strokes, as TensorFlow's tutorial of Quick, Draw! writes them (ink, shape), "
            "whose place and size on the page are lost: take Google's simplified drawings (.ndjson)"
        )
    if image is None:
        return f"it has no image or image/encoded; {_listed(found)}"
    return (
        f"its {image} holds floats, whose white is not guessed at: write bytes of 0 to 255, or "
        f"encoded pictures; {_listed(found)}"
    )


def _listed(found: Mapping[str, Feature]) -> str:
    shown = [f"{name[:40]} ({feature})" for name, feature in sorted(found.items())[:_SHOWN]]
    return f"it has {', '.join(shown) or 'no features'}"
