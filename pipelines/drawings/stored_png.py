"""The stored PNG: an uncompressed PNG that needs no decoder and that every decoder opens.

A PNG whose deflate stream is *stored* has a fixed length and its pixels at a fixed place:

    89 50 4E 47 0D 0A 1A 0A | IHDR chunk, 25 bytes | length IDAT 78 01 01 LEN NLEN   48 bytes
    h rows of: filter byte 0, then w pixels                                     h * (w + 1)
    adler32 | crc32 | IEND chunk, 12 bytes                                              20

28x28 takes 880 bytes. It does not compress: that is left to what holds it (zstd in Parquet).
"""

import struct

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

Uint8Array = npt.NDArray[np.uint8]

PIXELS_OFFSET = 48
TRAILER_BYTES = 20
# A stored deflate block holds at most 65,535 bytes and one block is what the layout has.
MAX_BLOCK_BYTES = 65_535
# 512 drawings of 28x28 and their PNGs stay in the second-level cache.
_ENCODE_ROWS = 512


def png_bytes(image_shape: tuple[int, int]) -> int:
    """Return the length of a stored PNG of this (height, width): 880 for 28x28."""
    height, width = image_shape
    return PIXELS_OFFSET + height * (width + 1) + TRAILER_BYTES


def encode_pngs(images: Uint8Array) -> Uint8Array:
    """Return the stored PNG of every image: (n, h, w) uint8 to (n, png_bytes) uint8.

    Raises ValueError for images that are empty or do not fit one stored block (255x255 does).
    """
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"expected images (n, h, w) uint8, found {images.shape} {images.dtype}")
    count, height, width = images.shape
    if not 0 < height * (width + 1) <= MAX_BLOCK_BYTES or width == 0:
        raise ValueError(f"images of {height}x{width} pixels do not fit a stored PNG")
    pngs = np.empty((count, png_bytes((height, width))), np.uint8)
    encode_into(images, pngs)
    return pngs


def encode_into(images: Uint8Array, pngs: Uint8Array) -> None:
    """Fill `pngs` (n, png_bytes) with the stored PNGs of `images`, a cache's worth at a time."""
    for start in range(0, len(images), _ENCODE_ROWS):
        _encode_rows(images[start : start + _ENCODE_ROWS], pngs[start : start + _ENCODE_ROWS])


def decode_pngs(pngs: Uint8Array, image_shape: tuple[int, int]) -> Uint8Array:
    """Return the pixels of stored PNGs as a view: (n, png_bytes) to (n, h, w), no copy."""
    height, width = image_shape
    end = PIXELS_OFFSET + height * (width + 1)
    lines = pngs[:, PIXELS_OFFSET:end].reshape(len(pngs), height, width + 1, copy=False)
    return lines[:, :, 1:]


def copy_pixels(images: Uint8Array) -> Uint8Array:
    """Return images (n, h, w) one after the other, without a copy where they are already.

    Lines are copied whole: half the time of np.ascontiguousarray, which goes by pixels.
    """
    if images.strides[-1] != 1 or images.flags.c_contiguous:
        return np.ascontiguousarray(images)
    lines = np.ascontiguousarray(images.view(f"V{images.shape[-1]}"))
    return lines.view(np.uint8)


def png_header(height: int, width: int) -> bytes:
    """Return the 48 bytes before the pixels; those from 37 on belong to the IDAT's CRC."""
    block_bytes = height * (width + 1)
    shape = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    idat = struct.pack(">I", block_bytes + 11) + b"IDAT"
    deflate = b"\x78\x01\x01" + struct.pack("<HH", block_bytes, block_bytes ^ 0xFFFF)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", shape) + idat + deflate


def _encode_rows(images: Uint8Array, pngs: Uint8Array) -> None:
    count, height, width = images.shape
    header = png_header(height, width)
    block_bytes = height * (width + 1)
    end = PIXELS_OFFSET + block_bytes
    lines = np.zeros((count, height, width + 1), np.uint8)
    lines[:, :, 1:] = images
    blocks = lines.reshape(count, block_bytes)
    pngs[:, :PIXELS_OFFSET] = np.frombuffer(header, np.uint8)
    pngs[:, PIXELS_OFFSET:end] = blocks
    values = blocks.view(f"V{block_bytes}").ravel().tolist()
    adlers, crcs = _checksums(values, zlib_ng.crc32(header[37:]))
    pngs[:, end : end + 4] = adlers
    pngs[:, end + 4 : end + 8] = crcs
    pngs[:, end + 8 :] = np.frombuffer(_chunk(b"IEND", b""), np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib_ng.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def _checksums(blocks: list[bytes], prefix_crc: int) -> tuple[Uint8Array, Uint8Array]:
    """Return the big-endian (n, 4) adler32 and crc32; the crc covers the adler as well."""
    adlers = np.array([zlib_ng.adler32(block) for block in blocks], ">u4")
    tails = adlers.view("V4").tolist()
    crc32 = zlib_ng.crc32
    crcs = np.array(
        [crc32(tail, crc32(block, prefix_crc)) for block, tail in zip(blocks, tails, strict=True)],
        ">u4",
    )
    return adlers.view(np.uint8).reshape(-1, 4), crcs.view(np.uint8).reshape(-1, 4)
