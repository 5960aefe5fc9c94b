import io
import json
import subprocess
import sys
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.drawings.parquet import (
    open_shard,
    read_images,
    shard_name,
    shard_schema,
    write_shard,
)
from pipelines.drawings.stored_png import copy_pixels, decode_pngs, encode_pngs, png_bytes

NAMES = ("bee", "sea turtle", "The Eiffel Tower")


def drawings(count: int, shape: tuple[int, int] = (28, 28), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def shard(images: np.ndarray, **options: int) -> bytes:
    labels = np.arange(len(images)) % len(NAMES)
    return write_shard(images, {"label": labels}, shard_schema(NAMES, images.shape[1:]), **options)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 255), st.integers(1, 255), st.integers(0, 1000))
def test_pillow_reads_a_stored_png_of_any_size(height, width, seed):
    images = drawings(2, (height, width), seed)
    pngs = encode_pngs(images)
    assert pngs.shape == (2, png_bytes((height, width)))
    for png, image in zip(pngs, images, strict=True):
        # verify() checks every CRC; reading the pixels checks the adler32 of the deflate stream.
        Image.open(io.BytesIO(png.tobytes())).verify()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.tobytes()))), image)


def test_a_drawing_of_28_by_28_takes_880_bytes_with_pixels_from_48():
    images = drawings(1)
    png = encode_pngs(images)[0]
    assert len(png) == 880
    assert np.array_equal(png[48:860].reshape(28, 29)[:, 1:], images[0])


def test_decoding_is_a_view_of_the_encoded_bytes():
    pngs = encode_pngs(drawings(5))
    assert np.shares_memory(decode_pngs(pngs, (28, 28)), pngs)


@pytest.mark.parametrize("shape", [(28, 28), (5, 3), (1, 1)])
def test_copied_pixels_are_the_decoded_ones_in_one_piece(shape):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    decoded = decode_pngs(encode_pngs(images), shape)
    for view, expected in [
        (decoded, images),
        (decoded[::2], images[::2]),
        (decoded[:, :, ::-1], images[:, :, ::-1]),
        (decoded[:0], images[:0]),
    ]:
        copied = copy_pixels(view)
        assert copied.flags.c_contiguous
        assert copied.dtype == np.uint8
        assert np.array_equal(copied, expected)
    assert copy_pixels(images) is images


@pytest.mark.parametrize("shape", [(0, 28), (28, 0), (256, 256)])
def test_sizes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="do not fit a stored PNG"):
        encode_pngs(np.zeros((1, *shape), np.uint8))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 20])
def test_a_shard_gives_back_what_it_was_given(count):
    images = drawings(count)
    table = open_shard(shard(images, rows_per_group=8)).read()
    assert table.num_rows == count
    assert np.array_equal(read_images(table["image"]).reshape(-1, 28, 28), images)
    assert table["label"].to_pylist() == [i % 3 for i in range(count)]


def test_same_rows_give_same_bytes():
    assert shard(drawings(50)) == shard(drawings(50).copy())


def test_reading_our_layout_copies_nothing():
    column = open_shard(shard(drawings(9))).read_row_group(0)["image"].chunk(0)
    view = read_images(column)
    content = np.frombuffer(column.field("bytes").buffers()[2], np.uint8)
    assert np.shares_memory(view, content)
    assert not view.flags.writeable


def test_slices_of_a_column_are_read_at_their_place():
    images = drawings(9)
    column = open_shard(shard(images)).read()["image"].combine_chunks()
    assert np.array_equal(read_images(column.slice(3, 4)), images[3:7])


def test_pictures_of_another_writer_are_decoded():
    images = drawings(3)
    content = []
    for image in images:
        sink = io.BytesIO()
        Image.fromarray(image).save(sink, "PNG")
        content.append({"bytes": sink.getvalue(), "path": None})
    assert np.array_equal(read_images(pa.array(content)), images)


def test_same_length_alone_does_not_pass_for_our_layout():
    # Valid PNGs of 880 bytes whose pixels are elsewhere must be decoded, not viewed.
    sink = io.BytesIO()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(sink, "PNG")
    png = sink.getvalue()
    text = b"tEXt" + b"k\x00" + b"x" * (880 - len(png) - 14)

    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    padded = png[:33] + chunk + png[33:]
    assert len(padded) == 880
    assert read_images(pa.array([padded, padded])).sum() == 0


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"not a picture"]), "cannot be decoded"),
        (pa.array([None], pa.binary()), "nulls"),
        (pa.array([1]), "expected a column of encoded pictures"),
    ],
)
def test_bad_columns_are_named(column, message):
    with pytest.raises(ValueError, match=message):
        read_images(column)


def test_missing_columns_are_named():
    schema = shard_schema(NAMES, extra={"seed": pa.int64()})
    with pytest.raises(ValueError, match="seed"):
        write_shard(drawings(1), {"label": [0]}, schema)
    with pytest.raises(ValueError, match="'seed' has 2 values for 1 images"):
        write_shard(drawings(1), {"label": [0], "seed": [1, 2]}, schema)


def test_metadata_tells_hugging_face_the_features():
    schema = shard_schema(NAMES, extra={"seed": pa.int64(), "bits_per_dim": pa.float32()})
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"_type": "ClassLabel", "names": list(NAMES)}
    assert features["bits_per_dim"] == {"_type": "Value", "dtype": "float32"}


def test_shard_names_tell_the_split():
    assert shard_name("test", 3, 12) == "data/test-00003-of-00012.parquet"


def test_importing_shards_loads_only_numpy_and_pyarrow():
    code = (
        "import sys, pipelines.drawings.parquet; "
        "print(sorted(set(sys.modules) & "
        "{'apache_beam', 'torch', 'pandas', 'PIL', 'tensorflow', 'obstore', 'xxhash'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stdout + result.stderr
