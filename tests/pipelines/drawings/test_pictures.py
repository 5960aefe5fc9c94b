"""Pictures as people's programs write them: the drawing's own pixels, or a word why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.drawings.pictures import (
    PictureError,
    decode_drawings,
    drawing_of,
    open_picture,
    picture_of,
)

SIDE = 12
ORIENTATION = 0x0112


def some_drawing(seed: int = 0) -> np.ndarray:
    """Return ink of all values on paper, with a full white and no symmetry."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    image[rng.random(image.shape) < 0.6] = 0
    image[2, 3] = 255
    return image


def saved(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(sink, kind, **options)
    return sink.getvalue()


def stacked(*channels: np.ndarray | int) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*channels), axis=2).astype(np.uint8)


def drawn(content: bytes) -> tuple[np.ndarray, str | None]:
    return drawing_of(open_picture(content))


def with_palette(image: np.ndarray, seed: int) -> bytes:
    """Write a palette of grays in an order of its own."""
    order = np.random.default_rng(seed).permutation(256).astype(np.uint8)
    indexed = Image.new("P", image.shape)
    indexed.putdata(np.argsort(order).astype(np.uint8)[image].tobytes())
    indexed.putpalette(np.repeat(order, 3).tobytes())
    return saved(indexed)


def unmultiplied(image: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    """Return ink of a color as a canvas saves it: multiplied by alpha, rounded, divided again."""
    alpha = image.astype(float)
    part = [np.round(alpha * c / 255) * 255 / np.maximum(alpha, 1) for c in color]
    return stacked(*(np.round(channel).clip(0, 255) for channel in part), image)


def saved_wide(pixels: np.ndarray, *, clear: int | None = None) -> bytes:
    """Write (h, w, channels) uint16 as a PNG of 16 bits, which Pillow cannot."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = pixels.astype(">u2").reshape(height, -1)
    content = b"".join(b"\0" + line.tobytes() for line in lines)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"tRNS", b"" if clear is None else struct.pack(">H", clear)),
        (b"IDAT", zlib.compress(content)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks
        if part or name == b"IEND"
    )


def wide(*channels: np.ndarray | int) -> np.ndarray:
    return stacked(*channels).astype(np.uint16) * 257


def turned(image: np.ndarray, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by a quarter, clockwise, to see it upright
    return saved(np.rot90(image).copy(), kind, exif=exif)


LOSSLESS = {
    "gray": (lambda x, _: saved(x), None),
    "interlaced or not, BMP": (lambda x, _: saved(x, "BMP"), None),
    "GIF": (lambda x, _: saved(x, "GIF"), None),
    "palette": (with_palette, None),
    "gray RGB": (lambda x, _: saved(stacked(x, x, x)), None),
    "opaque RGBA": (lambda x, _: saved(stacked(x, x, x, 255)), None),
    "opaque LA": (lambda x, _: saved(stacked(x, 255)), None),
    "16 bits": (lambda x, _: saved(x.astype(np.uint16) * 257), "16-bit values"),
    "16 bits, low byte": (lambda x, _: saved(x.astype(np.uint16) * 256 + 7), "16-bit values"),
    "16-bit RGB": (lambda x, _: saved_wide(wide(x, x, x)), "16-bit values"),
    "16-bit LA": (lambda x, _: saved_wide(wide(x, 255)), "16-bit values"),
    "16-bit black on clear": (
        lambda x, _: saved_wide(wide(0, 0, 0, x)),
        "16-bit values, transparency as ink",
    ),
    "16 bits, one value clear": (
        lambda x, _: saved_wide(wide(np.where(x > 99, 255, 9)), clear=9 * 257),
        "16-bit values, transparency as ink",
    ),
    "16 bits, TIFF": (lambda x, _: saved(x.astype(np.uint16) * 257, "TIFF"), "16-bit values"),
    "black on clear": (lambda x, _: saved(stacked(0, 0, 0, x)), "transparency as ink"),
    "white on clear": (lambda x, _: saved(stacked(255, x)), "transparency as ink"),
    "color on clear": (
        lambda x, s: saved(unmultiplied(x, (s % 256, 200, 40))),
        "transparency as ink",
    ),
    "red": (lambda x, _: saved(stacked(x, 0, 0)), "colored ink"),
    "orange": (lambda x, _: saved(stacked(x, np.round(x * 0.55), x // 9)), "colored ink"),
    "turned": (lambda x, _: turned(x, "PNG"), "EXIF orientation"),
    "WebP": (lambda x, _: saved(stacked(x, x, x), "WEBP", lossless=True), "WEBP"),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LOSSLESS)), st.integers(0, 1_000))
def test_a_drawing_in_whatever_encoding_has_its_own_pixels(encoding, seed):
    image = some_drawing(seed)
    write, repair = LOSSLESS[encoding]
    if encoding == "16 bits, one value clear":
        image = np.where(image > 99, 255, 0)
    found, said = drawn(write(image, seed))
    assert np.array_equal(found, image), encoding
    assert said == repair


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_goes_to_255(bits):
    image = (some_drawing() >> (8 - bits)).astype(np.uint8)
    white = 2**bits - 1
    picture = Image.new("P", (SIDE, SIDE))
    picture.putdata(image.tobytes())
    picture.putpalette(
        np.repeat(np.arange(white + 1) * (255 // white), 3).astype(np.uint8).tobytes()
    )
    assert np.array_equal(drawn(saved(picture, bits=bits))[0], image * (255 // white))
    if bits == 1:
        assert np.array_equal(drawn(saved(Image.fromarray(image.astype(bool))))[0], image * 255)


def test_a_palette_with_transparency_is_ink_of_alpha():
    levels = some_drawing() // 64
    picture = Image.new("P", (SIDE, SIDE))
    picture.putdata(levels.tobytes())
    picture.putpalette(bytes(12))
    content = saved(picture, transparency=bytes([0, 85, 170, 255]))
    assert np.array_equal(drawn(content)[0], levels * 85)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_is_gray_within_its_loss_and_counted(channels):
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[3:9, 4:7] = 255
    pixels = image if channels == 1 else stacked(image, image, image)
    found, said = drawn(saved(pixels, "JPEG", quality=90))
    assert said == "JPEG"
    assert np.abs(found.astype(int) - image).max() < 30


@pytest.mark.parametrize("exif", [b"Exif\0\0no EXIF", b"II*\0\xff\xff\xff\xff"])
def test_exif_that_says_nothing_turns_nothing(exif):
    image = some_drawing()
    found, said = drawn(saved(image, exif=exif))
    assert np.array_equal(found, image)
    assert said is None
    upright = Image.Exif()
    upright[ORIENTATION] = 0
    assert drawn(saved(image, exif=upright))[1] is None


def test_a_clear_page_is_blank():
    assert not drawn(saved(stacked(0, 0, 0, np.zeros((SIDE, SIDE)))))[0].any()
    assert not drawn(saved(np.zeros((SIDE, SIDE), np.uint16)))[0].any()


def two_hues(image: np.ndarray) -> np.ndarray:
    other = np.roll(image, 5, axis=0)
    other[image > 0] = 0
    return stacked(image, other, 0)


def animated(image: np.ndarray) -> bytes:
    return saved(image, save_all=True, append_images=[Image.fromarray(255 - image)], kind="GIF")


REFUSED = {
    "values up to 200 of 16 bits": (
        lambda x: saved((x.clip(0, 200)).astype(np.uint16)),
        "16-bit values go up to 200 only",
    ),
    "values up to 255 of 16 bits, in color": (
        lambda x: saved_wide(wide(x, x, x) // 257),
        "16-bit colors go up to 255 only",
    ),
    "32 bits": (lambda x: saved(x.astype(np.int32), "TIFF"), "holds 32-bit integers"),
    "floats": (lambda x: saved(x.astype(np.float32), "TIFF"), "holds floating-point numbers"),
    "CMYK": (lambda x: saved(Image.fromarray(x).convert("CMYK"), "JPEG"), "holds CMYK colors"),
    "LAB": (lambda x: saved(Image.new("LAB", (SIDE, SIDE)), "TIFF"), "holds LAB colors"),
    "frames": (animated, "has 2 frames"),
    "two hues": (lambda x: saved(two_hues(x)), "has several colors"),
    "red on white": (lambda x: saved(stacked(255, 255 - x, 255 - x)), "has several colors"),
    "blue on dark blue": (lambda x: saved(stacked(0, 0, x.clip(90))), r"several.*\(0, 0, 90\)"),
    "clear paper, gray ink": (lambda x: saved(stacked(x, x.clip(90))), "partly transparent"),
    "two inks on clear": (
        lambda x: saved(
            np.dstack([two_hues(x), np.where(two_hues(x).any(2), 255, 0)]).astype("u1")
        ),
        "partly transparent and has several colors",
    ),
    "hidden": (lambda x: saved(stacked(x, x, x, 0)), "all of the picture is transparent"),
    "no picture": (lambda x: b"no picture at all", "unknown format of 17 bytes"),
    "nothing": (lambda x: b"", "unknown format of 0 bytes"),
    "cut short": (lambda x: saved(x)[:-40], "cannot be decoded|is damaged"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_ambiguous_or_damaged_is_refused_with_words(name):
    write, message = REFUSED[name]
    with pytest.raises(PictureError, match=message):
        drawn(write(some_drawing()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_never_gives_other_pixels_without_a_word(data):
    image = some_drawing()
    content = bytearray(saved(image))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found, _ = drawn(bytes(content))
    except PictureError:
        return
    assert np.array_equal(found, image), place


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_of_any_number_of_channels_are_decided_as_in_files(channels, dtype):
    image = some_drawing()
    color, alpha = (255, image) if channels in (2, 4) else (image, None)
    parts = [color] * ((channels + 1) // 2 * 2 - 1) + ([alpha] if alpha is not None else [])
    pixels = stacked(*parts).astype(dtype) * (1 if dtype == np.uint8 else 257)
    assert pixels.shape[2] == channels
    assert np.array_equal(drawing_of(picture_of(pixels))[0], image)


def test_a_low_channel_beside_a_full_one_is_refused():
    image = some_drawing().astype(np.uint16)
    full = np.full_like(image, 65_535)
    for parts in ((image, full), (full, image), (image, image, image, full)):
        with pytest.raises(PictureError, match="16-bit values go up to 255 only"):
            picture_of(np.stack(parts, axis=2))


def test_a_shape_that_is_no_picture_is_refused():
    for pixels in (np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 1), np.int32)):
        with pytest.raises(PictureError, match="expected 1 to 4 channels of 8 bits"):
            picture_of(pixels)


def test_pictures_are_judged_one_by_one():
    image = some_drawing()
    wide = saved(np.zeros((SIDE, 5), np.uint8))
    contents = [saved(image), None, b"x", wide, saved(stacked(image, 0, 0))]
    images, problems, repairs = decode_drawings(contents, SIDE)
    assert np.array_equal(images[[0, 4]], [image, image])
    assert not images[1:4].any()
    assert [problem is None for problem in problems] == [True, False, False, False, True]
    assert problems[1] == "the picture is null"
    assert problems[3] == "the picture has 12x5 pixels, expected 12x12"
    assert repairs.tolist() == [None, None, None, None, "colored ink"]
