"""Partial drawings: the given pixels of a picture, of a picture with a mask, or of a dataset row.

A pixel of a picture is given if it is opaque or, with a mask, where the mask is white.
Half-transparent pixels, as left by the edge of a soft eraser, are not given: their value is blended
with the background. Paper is black and ink white, as in the datasets.
"""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Num, UInt8
from torch import Tensor

from model.network.config import PixelCNNConfig
from model.sampling.cached import Given
from pipelines.drawings.limits import is_limit_problem
from pipelines.drawings.pictures import Picture, PictureError, gray_of, open_picture

Images = Num[Tensor, "batch channels height width"]

_OPAQUE = np.iinfo(np.uint8).max


def given_from_png(content: bytes, config: PixelCNNConfig, name: str = "the half drawing") -> Given:
    """Read a partial drawing: a picture of the model's size with transparent unknown pixels.

    Needs Pillow. Raises ValueError if the file is not a picture, has another size, or has no
    transparent pixel.
    """
    value, alpha = picture_from_png(content, config, name)
    mask = alpha == _OPAQUE
    if mask.all():
        raise ValueError(
            f"{name} has no transparent pixel, so there is nothing to draw: erase a part, "
            "or define the given pixels with a mask or a number of rows"
        )
    return Given(value, mask)


def picture_from_png(
    content: bytes, config: PixelCNNConfig, name: str = "the half drawing"
) -> tuple[UInt8[Tensor, "1 channels height width"], UInt8[Tensor, "1 height width"]]:
    """Read a picture's colors, 0 where not opaque, and its opacity, 255 where opaque.

    Depth, palette, orientation and conversion to gray are as for a dataset's pictures. Raises
    ValueError as above.
    """
    if config.num_channels not in (1, 3):
        raise ValueError(
            f"a picture has 1 or 3 channels, the model {config.num_channels}: use "
            "model.sampling.completion"
        )
    picture = _open(content, config, name)
    alpha = picture.alpha
    if alpha is None:
        alpha = np.full(picture.colors.shape[:2], _OPAQUE, np.uint8)
    # The color of a transparent pixel is arbitrary.
    colors = np.where((alpha == _OPAQUE)[..., None], picture.colors, 0)
    if config.num_channels == 1:
        colors = _gray(colors, name)[..., None]
    value = np.broadcast_to(colors, (*alpha.shape, config.num_channels)).copy()
    value = torch.from_numpy(value[None]).permute(0, 3, 1, 2)
    return value, torch.from_numpy(alpha[None].copy())


def mask_from_png(
    content: bytes, config: PixelCNNConfig, name: str = "the mask"
) -> Bool[Tensor, "1 height width"]:
    """Read a mask: white pixels are given, black ones are to be sampled.

    Raises ValueError if the file is not a picture, has another size, another color, or no black.
    """
    picture = _open(content, config, name)
    if picture.alpha is not None:
        raise ValueError(
            f"{name}: a mask is white (given) and black (to draw), found transparent pixels"
        )
    pixels = _gray(picture.colors, name)
    if not np.isin(pixels, (0, _OPAQUE)).all():
        other = int(pixels[~np.isin(pixels, (0, _OPAQUE))][0])
        raise ValueError(
            f"{name}: a mask is white (given) and black (to draw), found the gray {other}"
        )
    if pixels.all():
        raise ValueError(f"{name} has no black pixel, so there is nothing to draw")
    return torch.from_numpy(pixels[None] == _OPAQUE)


def given_rows(images: Images, num_rows: int) -> Given:
    """Return the upper `num_rows` rows of drawings as given.

    Raises ValueError unless at least one row remains.
    """
    height = images.shape[2]
    if not 0 <= num_rows < height:
        raise ValueError(f"given rows must be in 0..{height - 1}, found {num_rows}")
    mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    mask[:, :num_rows] = True
    return Given(images, mask)


def is_prefix(mask: Bool[Tensor, "batch height width"]) -> Bool[Tensor, " batch"]:
    """Return whether each drawing's given pixels precede all others, so completion is exact."""
    flat = mask.flatten(1)
    return (flat[:, 1:] <= flat[:, :-1]).all(1)


def check_given(given: Given, config: PixelCNNConfig) -> None:
    """Raise ValueError unless shapes and given values fit the model."""
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


def check_opaque(
    alpha: UInt8[Tensor, "1 height width"], given: Given, name: str = "the half drawing"
) -> None:
    """Raise ValueError if a given pixel of a picture is not opaque."""
    if (alpha[given.mask] < _OPAQUE).any():
        raise ValueError(
            f"{name} is transparent at given pixels: flatten it onto black paper with white ink"
        )


def _open(content: bytes, config: PixelCNNConfig, what: str) -> Picture:
    height, width, _ = config.image_shape
    try:
        picture = open_picture(content)
    except PictureError as error:
        problem = str(error)
        if is_limit_problem(problem):
            found = problem.partition(",")[0]
            raise ValueError(f"{what} has {found}, the model {height}x{width}") from error
        raise ValueError(f"{what} cannot be read: {problem}") from error
    if picture.colors.shape[:2] != (height, width):
        found = "x".join(map(str, picture.colors.shape[:2]))
        raise ValueError(f"{what} has {found} pixels, the model {height}x{width}")
    return picture


def _gray(colors: npt.NDArray[np.uint8], what: str) -> npt.NDArray[np.uint8]:
    try:
        return gray_of(colors)[0]
    except PictureError as error:
        raise ValueError(f"{what} cannot be read: {error}") from error
