"""Parquet shards of drawings: the stored-PNG column, its schema, names, writer and reader.

The pictures are stored PNGs (pipelines/drawings/stored_png.py): fixed in length, pixels at a fixed
place, so our reader views them in Arrow's own buffer; zstd takes care of their size.

A shard opens with Hugging Face datasets (pictures, class names), Polars, DuckDB and pandas.
Imports nothing but NumPy and PyArrow, so that a training machine needs nothing else. Bytes
are the same for the same rows and the same PyArrow version; another version may differ.
"""

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.drawings.fitting import Fit
from pipelines.drawings.limits import DEFAULT, Limits
from pipelines.drawings.pictures import decode_drawings, drawing_of, open_picture
from pipelines.drawings.stored_png import (
    MAX_BLOCK_BYTES,
    PIXELS_OFFSET,
    Uint8Array,
    decode_pngs,
    encode_into,
    png_bytes,
    png_header,
)

ROWS_PER_GROUP = 8_192
# Level 1 is faster and smaller than level 3 on drawings (525 against 365 thousand a second).
ZSTD_LEVEL = 1
ENCODING_KEY = b"image_encoding"

_BINARY_KINDS = (
    pa.types.is_null,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)

IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def shard_schema(
    class_names: Sequence[str],
    image_shape: tuple[int, int] = (28, 28),
    extra: Mapping[str, pa.DataType] | None = None,
) -> pa.Schema:
    """Return the Arrow schema of a shard: image, label, then `extra` columns in their order.

    The metadata key `huggingface` makes `datasets` see pictures and class names;
    `image_encoding` names our layout and its size in bytes.
    """
    extra = dict(extra or {})
    features: dict[str, object] = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(class_names)},
    }
    features |= {name: _feature(kind) for name, kind in extra.items()}
    fields = [pa.field("image", IMAGE_TYPE), pa.field("label", pa.int64())]
    fields += [pa.field(name, kind) for name, kind in extra.items()]
    height, width = image_shape
    metadata = {
        b"huggingface": json.dumps({"info": {"features": features}}).encode(),
        ENCODING_KEY: f"png-stored-{png_bytes(image_shape)}".encode(),
        b"image_shape": f"{height}x{width}".encode(),
    }
    return pa.schema(fields, metadata)


def write_shard(
    images: Uint8Array,
    columns: Mapping[str, object],
    schema: pa.Schema,
    *,
    rows_per_group: int = ROWS_PER_GROUP,
    compression_level: int = ZSTD_LEVEL,
) -> bytes:
    """Return a Parquet file of these drawings, in this order.

    images   (n, h, w) uint8
    columns  every column of `schema` but the image: an array, list or Arrow array of n values

    Raises ValueError if a column is missing, unknown or of another length.
    """
    names = [field.name for field in schema if field.name != "image"]
    if set(names) != set(columns):
        raise ValueError(f"expected the columns {names}, found {sorted(columns)}")
    arrays = {name: _column(columns[name], schema.field(name).type) for name in names}
    for name, array in arrays.items():
        if len(array) != len(images):
            raise ValueError(f"column {name!r} has {len(array)} values for {len(images)} images")
    # One buffer for all row groups: fresh memory costs more than encoding (a page fault each).
    pngs = np.empty((min(rows_per_group, len(images)), png_bytes(images.shape[1:])), np.uint8)
    sink = pa.BufferOutputStream()
    with shard_writer(sink, schema, compression_level=compression_level) as writer:
        for start in range(0, len(images), rows_per_group) or [0]:
            stop = min(start + rows_per_group, len(images))
            encode_into(images[start:stop], pngs[: stop - start])
            batch: list[pa.Array] = [_image_column(pngs[: stop - start])]
            batch += [arrays[name].slice(start, stop - start) for name in names]
            table = pa.Table.from_arrays(batch, schema=schema)
            writer.write_table(table, row_group_size=rows_per_group)
    return sink.getvalue().to_pybytes()


def shard_writer(
    sink: pa.NativeFile, schema: pa.Schema, *, compression_level: int = ZSTD_LEVEL
) -> pq.ParquetWriter:
    """Return a writer with a shard's settings, for tables whose pictures are encoded already."""
    # Pictures do not repeat; labels do.
    names = [field.name for field in schema if field.name != "image"]
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=compression_level,
        use_dictionary=names,
        write_statistics=names,
        write_page_index=True,
        data_page_version="1.0",
        version="2.6",
    )


def open_shard(source: bytes | mmap.mmap | Path | str | BinaryIO) -> pq.ParquetFile:
    """Open a shard from its bytes, a path or an open file."""
    if isinstance(source, bytes | mmap.mmap):
        return pq.ParquetFile(pa.BufferReader(pa.py_buffer(source)))
    return pq.ParquetFile(source)


def read_images(column: pa.Array | pa.ChunkedArray) -> Uint8Array:
    """Return the pixels (n, h, w) uint8 of an image column, or of its `bytes` field.

    A column of our layout is viewed in place: the result is read-only, strided, and keeps the
    Arrow buffer alive. Several chunks are copied together. Any other pictures go through Pillow
    (pipelines/drawings/pictures.py). Raises ValueError for a null, a picture that is no drawing, or
    pictures of different sizes.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_read_chunk(chunk) for chunk in chunks if len(chunk)]
    if not parts:
        return np.empty((0, 0, 0), np.uint8)
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"pictures have different sizes: {sorted(shapes)}")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_pictures(
    column: pa.Array | pa.ChunkedArray, side: int, limits: Limits = DEFAULT, fit: Fit = None
) -> tuple[Uint8Array, npt.NDArray[np.object_] | None, npt.NDArray[np.object_] | None]:
    """Return the pixels (n, side, side) of an image column, row by row: problems, repairs.

    Where all are of our layout, problems and repairs are None and the pixels are a view, as
    `read_images` gives; else they say of each picture what hinders it, or was converted. Pictures
    of another size are fitted if `fit` says how. Raises
    ValueError for a column that holds something else.
    """
    if isinstance(column, pa.ChunkedArray):
        # Combining copies, even a single one.
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if not len(column):
        return np.empty((0, side, side), np.uint8), None, None
    values = bytes_field(column)
    view = None if values.null_count else _stored_view(values)
    if view is not None and view.shape[1:] == (side, side):
        return view, None, None
    return decode_drawings(values.to_pylist(), side, limits, fit=fit)


def shard_name(split: str, index: int, count: int) -> str:
    """Return a shard's path in its dataset, which also tells its split to `datasets`.

    >>> shard_name("train", 0, 4)
    'data/train-00000-of-00004.parquet'
    """
    return f"data/{split}-{index:05d}-of-{count:05d}.parquet"


def _image_column(pngs: Uint8Array) -> pa.StructArray:
    """Return stored PNGs (n, png_bytes) as an image column over the same memory."""
    count, length = pngs.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(length)
    binary = pa.BinaryArray.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(pngs)]
    )
    paths = pa.nulls(count, pa.string())
    return pa.StructArray.from_arrays([binary, paths], fields=list(IMAGE_TYPE))


def _read_chunk(chunk: pa.Array) -> Uint8Array:
    values = bytes_field(chunk)
    if values.null_count:
        raise ValueError("the image column has nulls: every drawing needs a picture")
    view = _stored_view(values)
    return _decode_any(values.to_pylist()) if view is None else view


def bytes_field(chunk: pa.Array) -> pa.Array:
    """Return the encoded pictures of an image column as binary values, null where one is null.

    Raises ValueError for a column that holds something else.
    """
    values = chunk
    if pa.types.is_struct(chunk.type) and chunk.type.get_field_index("bytes") >= 0:
        values = chunk.flatten()[chunk.type.get_field_index("bytes")]  # respects a slice, and nulls
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if any(is_kind(values.type) for is_kind in _BINARY_KINDS):
        values = values.cast(pa.binary())
    if not pa.types.is_binary(values.type):
        raise ValueError(f"expected a column of encoded pictures, found {chunk.type}")
    return values


def _stored_view(values: pa.BinaryArray) -> Uint8Array | None:
    """Return a view of the pixels if every value has our layout, else None."""
    _, offsets_buffer, content = values.buffers()
    count = len(values)
    offsets = np.frombuffer(offsets_buffer, np.int32)[values.offset : values.offset + count + 1]
    length = int(offsets[1] - offsets[0])
    if length <= PIXELS_OFFSET or content is None or (np.diff(offsets) != length).any():
        return None
    start = int(offsets[0])
    pngs = np.frombuffer(content, np.uint8)[start : start + count * length]
    pngs = pngs.reshape(count, length)
    width, height = struct.unpack(">II", pngs[0, 16:24].tobytes())
    if not 0 < height * (width + 1) <= MAX_BLOCK_BYTES or length != png_bytes((height, width)):
        return None
    header = np.frombuffer(png_header(height, width), np.uint8)
    if (pngs[:, :PIXELS_OFFSET] != header).any():
        return None
    view = decode_pngs(pngs, (height, width))
    view.flags.writeable = False
    return view


def _decode_any(contents: Sequence[bytes]) -> Uint8Array:
    images = [drawing_of(open_picture(content))[0] for content in contents]
    if len({image.shape for image in images}) > 1:
        raise ValueError("pictures have different sizes: " + str({i.shape for i in images}))
    return np.stack(images)


def _column(values: object, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array.cast(kind)


def _feature(kind: pa.DataType) -> dict[str, str]:
    """Return the Hugging Face feature of a plain Arrow type."""
    if pa.types.is_timestamp(kind):
        raise ValueError("store a timestamp as int64 seconds; readers differ in time zones")
    return {"_type": "Value", "dtype": _HF_NAMES.get(str(kind), str(kind))}


_HF_NAMES = {"double": "float64", "float": "float32", "halffloat": "float16"}
