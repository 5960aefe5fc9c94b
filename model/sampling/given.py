"""Half drawings: which pixels are given, from a picture, a mask, or a drawing of a dataset.

A pixel of a picture is given if it is wholly opaque, or, with a mask, where that is white.
Half-transparent pixels, such as the edge of a soft eraser leaves, are not given: their value
is a mixture with what was below. Paper is black and ink white, as in the datasets.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Num, UInt8
from torch import Tensor

from model.config import PixelCNNConfig
from model.sampling.cached import Given

if TYPE_CHECKING:
    from PIL import Image

Images = Num[Tensor, "batch channels height width"]

_OPAQUE = np.iinfo(np.uint8).max


def given_from_png(content: bytes, config: PixelCNNConfig) -> Given:
    """Read a half drawing: a picture of the model's size whose unknown pixels are transparent.

    Needs Pillow. Raises ValueError if the file is no picture, has another size, or has no
    transparent pixel.
    """
    value, alpha = picture_from_png(content, config)
    mask = alpha == _OPAQUE
    if mask.all():
        raise ValueError(
            "the half drawing has no transparent pixel, so nothing is to be drawn: erase a part, "
            "or say with a mask or a number of rows what is given"
        )
    return Given(value, mask)


def picture_from_png(
    content: bytes, config: PixelCNNConfig
) -> tuple[UInt8[Tensor, "1 channels height width"], UInt8[Tensor, "1 height width"]]:
    """Read a picture's colors and its opacity, 255 where it is opaque; raise ValueError as above."""
    if config.num_channels not in (1, 3):
        raise ValueError(
            f"a picture has 1 or 3 channels, the model {config.num_channels}: use "
            "model.sampling.complete"
        )
    with _open(content, "half drawing") as picture:
        pixels = np.array(picture.convert("LA" if config.num_channels == 1 else "RGBA"))
    _check_size(pixels, config, "half drawing")
    value = torch.from_numpy(pixels[None, ..., :-1].copy()).permute(0, 3, 1, 2)
    return value, torch.from_numpy(pixels[None, ..., -1].copy())


def mask_from_png(content: bytes, config: PixelCNNConfig) -> Bool[Tensor, "1 height width"]:
    """Read which pixels are given: white ones; black ones are to be drawn.

    Raises ValueError if the file is no picture, has another size, another color, or no black.
    """
    with _open(content, "mask") as picture:
        pixels = np.array(picture.convert("L"))
    _check_size(pixels, config, "mask")
    if not np.isin(pixels, (0, _OPAQUE)).all():
        other = int(pixels[~np.isin(pixels, (0, _OPAQUE))][0])
        raise ValueError(f"a mask is white (given) and black (to draw), found the gray {other}")
    if pixels.all():
        raise ValueError("the mask has no black pixel, so nothing is to be drawn")
    return torch.from_numpy(pixels[None] == _OPAQUE)


def given_rows(images: Images, num_rows: int) -> Given:
    """Return the upper `num_rows` rows of drawings as given.

    Raises ValueError unless a row is left to be drawn.
    """
    height = images.shape[2]
    if not 0 <= num_rows < height:
        raise ValueError(f"given rows must be in 0..{height - 1}, found {num_rows}")
    mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    mask[:, :num_rows] = True
    return Given(images, mask)


def is_prefix(mask: Bool[Tensor, "batch height width"]) -> Bool[Tensor, " batch"]:
    """Return whether each drawing's given pixels come before all others: exact completion."""
    flat = mask.flatten(1)
    return (flat[:, 1:] <= flat[:, :-1]).all(1)


def check_given(given: Given, config: PixelCNNConfig) -> None:
    """Raise ValueError unless shapes and given values are the model's."""
    height, width, channels = config.image_shape
    num = len(given.mask)
    shapes = tuple(given.value.shape), tuple(given.mask.shape)
    if shapes != ((num, channels, height, width), (num, height, width)):
        raise ValueError(
            f"expected drawings (n, {channels}, {height}, {width}) and a mask (n, {height}, "
            f"{width}), found {shapes[0]} and {shapes[1]}"
        )
    known = given.value[given.mask[:, None].expand_as(given.value)].double()
    if ((known < config.low) | (known > config.high) | (known != known.round())).any():
        raise ValueError(f"given pixels must be whole numbers {config.low}..{config.high}")


def _open(content: bytes, what: str) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError  # a sampling machine need not have it

    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"the {what} cannot be read as a picture: {error}") from error
    return picture


def _check_size(pixels: npt.NDArray[np.uint8], config: PixelCNNConfig, what: str) -> None:
    height, width, _ = config.image_shape
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise ValueError(f"the {what} has {found} pixels, the model {height}x{width}")
