"""Convert decoded pictures to drawings, by the same rules for every source and for completion.

    gray, palettes, 1 bit         as they are; also RGB and RGBA that are gray and opaque
    16 bits                       the high byte; refused where no value goes beyond 255
    transparent, ink of one color alpha is the ink, for any color
    one color on black            the largest channel; nearly gray: the luma
    JPEG, WebP and their like     as they decode; such pictures have no exact pixels
    EXIF orientation              turned upright
    all else                      refused: several colors, CMYK, float or 32-bit values, frames

A conversion is called a repair; readers count it. Drawings are ink on paper of 0;
pipelines/dataset/attributes.py judges whether they are inverted or faint, for all sources.
"""

import contextlib
import io
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.drawings.fitting import REPAIRS, Fit, fit_drawing
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.drawings.polarity import has_white_edge

if TYPE_CHECKING:
    from PIL import Image

Uint8Array = npt.NDArray[np.uint8]

ALPHA_REPAIR = "transparency as ink"
COLOR_REPAIR = "colored ink"
NEARLY_GRAY_REPAIR = "nearly gray"
WIDE_REPAIR = "16-bit values"
ORIENTATION_REPAIR = "EXIF orientation"
DARK_REPAIR = "dark ink on light paper"

# Colors that JPEG noise, interpolation or rounding changed differ by at most this much.
_SAME_COLOR = 16
_OPAQUE = 255
_PNG = b"\x89PNG\r\n\x1a\n"
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_ORIENTATION_TAG, _TURNED = 0x0112, range(2, 9)
# Pillow's, of ITU-R 601-2: equal for equal channels.
_LUMA, _LUMA_HALF, _LUMA_SHIFT = (19_595, 38_470, 7_471), 1 << 15, 16


class PictureError(ValueError):
    """A picture that is no drawing, or of which it cannot be told what the drawing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A decoded picture.

    colors   (h, w, 1 or 3) uint8
    alpha    (h, w) uint8, None if it is opaque everywhere
    repairs  what was converted so far
    """

    colors: Uint8Array
    alpha: Uint8Array | None = None
    repairs: tuple[str, ...] = ()


def open_picture(content: bytes, limits: Limits = DEFAULT) -> Picture:
    """Decode a picture of any format; needs Pillow.

    Raises PictureError if it has more pixels than it may, which its header tells, cannot be
    decoded, or is of a kind that is not guessed at; ValueError without Pillow.
    """
    try:
        from PIL import Image, ImageOps  # only other writers' pictures need it
    except ImportError as error:
        raise ValueError(
            "these pictures are not stored PNGs of sketchmill; install pillow to read them"
        ) from error

    try:
        with pillow_within(limits), Image.open(io.BytesIO(content)) as picture:
            _check_pixels(picture.width * picture.height, limits)
            _check_kind(picture)
            if picture.format == "PNG":
                with Image.open(io.BytesIO(content)) as twin:
                    twin.verify()  # checksums, which loading does not check
            is_wide = ";16" in str(picture.tile[0].args) if picture.tile else False
            picture.load()
            repairs = (str(picture.format),) if picture.format in _LOSSY else ()
            if _is_turned(picture):
                ImageOps.exif_transpose(picture, in_place=True)
                repairs += (ORIENTATION_REPAIR,)
            pixels = _pixels(picture)
            found = picture_of(pixels)
    except PictureError:
        raise
    except Exception as error:  # decoders raise arbitrary errors for damaged files
        raise PictureError(f"the picture cannot be decoded: {_reason(error, content)}") from error
    found = replace(found, repairs=repairs + found.repairs)
    return _narrowed(found) if is_wide and pixels.dtype == np.uint8 else found


@contextlib.contextmanager
def pillow_within(limits: Limits) -> Iterator[None]:
    """Raise PictureError where Pillow is asked for a picture of more pixels than it may have.

    Pillow looks at pictures within pictures too. Its other warnings are of what stands beside the
    pixels: EXIF, animation, transparency.
    """
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        found = int(re.findall(r"\d+", str(error))[0])
        raise PictureError(limits.problem("max_pixels", found) or str(error)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def pixels_problem(content: bytes, limits: Limits) -> str | None:
    """Return what is wrong with the size that a PNG, JPEG or GIF within these bytes states.

    None if it may have as many pixels, or if there is none.
    """
    if (place := content.find(_PNG)) >= 0:
        width, height = struct.unpack_from(">II", content.ljust(place + 24), place + 16)
        return limits.problem("max_pixels", width * height)
    places = [place for magic in (b"\xff\xd8\xff", b"GIF8") if (place := content.find(magic)) >= 0]
    if not places:
        return None
    from PIL import Image

    try:
        with (
            pillow_within(limits),
            Image.open(io.BytesIO(content[min(places) :])) as picture,
        ):
            return limits.problem("max_pixels", picture.width * picture.height)
    except PictureError as error:
        return str(error)
    except Exception:  # the reader reports why it is no picture
        return None


def picture_of(pixels: npt.NDArray[Any]) -> Picture:
    """Return pixels (h, w, channels) as a picture: gray, gray and alpha, RGB or RGBA.

    Raises PictureError unless they have 8 or 16 bits, and 16 where they have.
    """
    repairs: tuple[str, ...] = ()
    if pixels.dtype == np.uint16:
        num_colors = (pixels.shape[-1] - 1) // 2 * 2 + 1
        for part in (pixels[..., :num_colors], pixels[..., num_colors:]):
            if 0 < (highest := part.max(initial=0)) <= _OPAQUE:
                raise PictureError(
                    f"16-bit values go up to {highest} only: whether white is 255 or 65535 is not "
                    "guessed at, save 8 bits"
                )
        pixels, repairs = (pixels >> 8).astype(np.uint8), (WIDE_REPAIR,)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise PictureError(f"expected 1 to 4 channels of 8 bits, found {_shape(pixels)}")
    if pixels.shape[2] in (1, 3):
        return Picture(colors=pixels, repairs=repairs)
    alpha = pixels[..., -1]
    is_opaque = bool((alpha == _OPAQUE).all())
    return Picture(colors=pixels[..., :-1], alpha=None if is_opaque else alpha, repairs=repairs)


def drawing_of(picture: Picture) -> tuple[Uint8Array, str | None]:
    """Return a picture's drawing (h, w) and what was converted, None for nothing.

    Raises PictureError where it cannot be told what the drawing is.
    """
    if picture.alpha is None:
        image, repair = gray_of(picture.colors)
    else:
        image, repair = _ink_of_alpha(picture.colors, picture.alpha), ALPHA_REPAIR
    repairs = picture.repairs if repair is None else (*picture.repairs, repair)
    return image, ", ".join(repairs) or None


def gray_of(colors: Uint8Array) -> tuple[Uint8Array, str | None]:
    """Return opaque colors (h, w, 1 or 3) as gray (h, w), and what was converted.

    Raises PictureError for several colors, or a color of paper.
    """
    first = colors[..., :1]
    if colors.shape[2] == 1 or (colors == first).all():
        return first[..., 0], None
    spread = colors.max(axis=2) - colors.min(axis=2)
    if spread.max() <= _SAME_COLOR:
        luma = (colors.astype(np.uint32) @ np.array(_LUMA, np.uint32) + _LUMA_HALF) >> _LUMA_SHIFT
        return luma.astype(np.uint8), NEARLY_GRAY_REPAIR
    return _ink_of_color(colors), COLOR_REPAIR


def decode_drawings(
    contents: Sequence[bytes | None],
    side: int,
    limits: Limits = DEFAULT,
    *,
    fit: Fit = None,
    is_dark: bool = False,
) -> tuple[Uint8Array, npt.NDArray[np.object_], npt.NDArray[np.object_]]:
    """Return the drawings (n, side, side) of encoded pictures, their problems and repairs.

    A picture that is no drawing has a problem and pixels of 0, as has one of another size unless it
    is to be fitted.

    is_dark  the ink is dark on light paper: it is inverted
    """
    images = np.zeros((len(contents), side, side), np.uint8)
    problems, repairs = (np.full(len(contents), None, object) for _ in range(2))
    for row, content in enumerate(contents):
        try:
            images[row], repairs[row] = _drawing(content or b"", side, limits, fit, is_dark)
        except PictureError as error:
            problems[row] = str(error) if content is not None else "the picture is null"
    return images, problems, repairs


def _drawing(
    content: bytes, side: int, limits: Limits, fit: Fit, is_dark: bool
) -> tuple[Uint8Array, str | None]:
    picture = open_picture(content, limits)
    image, repair = drawing_of(picture)
    notes = [] if repair is None else [repair]
    if is_dark and picture.alpha is None:
        image, notes = 255 - image, [*notes, DARK_REPAIR]
        _check_edge(image)
    if image.shape != (side, side):
        if not fit:
            raise PictureError(f"the picture has {_size(image)} pixels, expected {side}x{side}")
        _check_edge(image)
        image, notes = fit_drawing(image, side, fit), [*notes, REPAIRS[fit]]
    return image, ", ".join(notes) or None


def _check_edge(image: Uint8Array) -> None:
    """Raise PictureError where most of the edge is ink, so that it is not known to be paper."""
    if has_white_edge(image):
        raise PictureError(
            "most of the outermost pixels are ink: the picture is inverted, or cut too close"
        )


def _check_pixels(found: int, limits: Limits) -> None:
    if problem := limits.problem("max_pixels", found):
        raise PictureError(problem)


def _check_kind(picture: "Image.Image") -> None:
    """Raise PictureError for what no rule is for."""
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise PictureError(
            f"the picture has {frames} frames: which is the drawing is not guessed at"
        )
    if picture.mode not in _MODES and not picture.mode.startswith("I;16"):
        kinds = {"I": "32-bit integers", "F": "floating-point numbers"}
        raise PictureError(
            f"the picture holds {kinds.get(picture.mode, picture.mode + ' colors')}, whose white "
            "is not guessed at: save 8-bit gray"
        )


def _is_turned(picture: "Image.Image") -> bool:
    try:
        return picture.getexif().get(_ORIENTATION_TAG) in _TURNED
    except Exception:  # viewers ignore EXIF that cannot be read
        return False


def _pixels(picture: "Image.Image") -> npt.NDArray[Any]:
    """Return a loaded picture's pixels (h, w, channels), alpha where it has one."""
    clear = picture.info.get("transparency")
    if picture.mode.startswith("I;16"):
        wide = np.asarray(picture).astype(np.uint16)[..., None]
        if clear is None:
            return wide
        opacity = np.where(wide == clear, 0, np.iinfo(np.uint16).max).astype(np.uint16)
        return np.concatenate([wide, opacity], axis=2)
    if picture.mode in ("P", "PA") or clear is not None:
        picture = picture.convert("RGBA" if picture.mode == "PA" or clear is not None else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _narrowed(picture: Picture) -> Picture:
    """Count 16-bit colors, of which Pillow gives the high bytes; refuse where these say nothing."""
    if picture.alpha is None and not picture.colors.any():
        raise PictureError("16-bit colors go up to 255 only, or all are black: save 8 bits")
    return replace(picture, repairs=(*picture.repairs, WIDE_REPAIR))


def _ink_of_alpha(colors: Uint8Array, alpha: Uint8Array) -> Uint8Array:
    """Return the opacity of ink of one color; transparent pixels may have any color."""
    if not alpha.any() and (colors != colors[0, 0]).any():
        raise PictureError(
            "all of the picture is transparent, though it has colors: drop its alpha"
        )
    ink = colors.reshape(-1, colors.shape[2])[alpha.argmax()]
    off = np.abs(colors.astype(np.int16) - ink).max(axis=2)
    # Of a color that is multiplied by alpha and divided again, 255 / alpha is lost.
    off = np.where(alpha == 0, 0, off - 255 / np.maximum(alpha, 1))
    if off.max() > _SAME_COLOR:
        raise PictureError(
            f"the picture is partly transparent and has several colors, {_color(ink)} and "
            f"{_color(colors.reshape(-1, len(ink))[off.argmax()])}: whether alpha or color is the "
            "ink is not guessed at, save gray without alpha"
        )
    return alpha


def _ink_of_color(colors: Uint8Array) -> Uint8Array:
    """Return the largest channel of ink of one hue on black."""
    image = colors.max(axis=2)
    flat = colors.reshape(-1, colors.shape[2])
    ink = flat[image.argmax()]
    expected = image[..., None] * (ink / ink.max())
    off = np.abs(colors - expected).max(axis=2)
    if off.max() > _SAME_COLOR or image.min() > _SAME_COLOR:
        other = flat[off.argmax() if off.max() > _SAME_COLOR else image.argmin()]
        raise PictureError(
            f"the picture has several colors, {_color(ink)} and {_color(other)}: expected ink of "
            "one color on black paper, save gray"
        )
    return image


def _reason(error: Exception, content: bytes) -> str:
    from PIL import UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    # Pillow names the buffer by its address, which differs from run to run.
    begins = f", it begins with {content[:8]!r}" if content else ""
    return f"unknown format of {len(content)} bytes{begins}"


def _color(color: Uint8Array) -> str:
    return str(tuple(color.tolist()))


def _size(image: npt.NDArray[Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _shape(pixels: npt.NDArray[Any]) -> str:
    return f"shape {pixels.shape} of {pixels.dtype.name}"
