import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.dataset.attributes import difference_hashes, drawing_attributes
from pipelines.dataset.build import build_dataset
from pipelines.dataset.packing import num_shards
from pipelines.dataset.selection import FIRST_REASON, REASONS, Selection, near_duplicates, repeated
from pipelines.dataset.spec import DatasetSpec, parse_splits, spec_from_json
from pipelines.dataset.tfds_slice import slice_bounds
from pipelines.drawings.batch import METADATA_COLUMNS, Drawings, count_ink
from pipelines.drawings.hashing import (
    add_sums,
    choose_splits,
    pixel_hashes,
    sum_rows,
    unit_interval,
)
from pipelines.drawings.reading import read_shard
from pipelines.sources.base import SourceOptions
from pipelines.sources.doodles.make import google_npy, write_doodles
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import open_store


def some_drawings(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    return images


def attributes(images: np.ndarray, **options):
    drawings = Drawings(images=images, label=np.zeros(len(images), np.int64))
    return drawing_attributes(drawings, **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_ink_and_peak_are_those_of_a_loop(height, width, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, height, width), np.uint8) * (
        rng.random((5, height, width)) > 0.9
    )
    images = images.astype(np.uint8)
    table = attributes(images).to_pydict()
    for i, image in enumerate(images):
        assert table["ink"][i] == sum(pixel > 0 for pixel in image.ravel())
        assert table["peak"][i] == max(image.ravel())


def test_full_images_have_all_their_ink_counted():
    assert count_ink(np.full((2, 255, 255), 255, np.uint8)).tolist() == [255 * 255] * 2


def test_hashes_are_xxh3_of_the_pixels_row_by_row():
    import xxhash

    images = some_drawings(3)
    for image, (high, low) in zip(images, pixel_hashes(images).tolist(), strict=True):
        assert xxhash.xxh3_128_intdigest(image.tobytes()) == high << 64 | low


def test_splits_have_about_their_fractions_and_are_independent_of_the_seed_for_a_drawing():
    hashes = pixel_hashes(np.random.default_rng(0).integers(0, 256, (20_000, 4, 4), np.uint8))
    splits = (("train", 0.8), ("validation", 0.15), ("test", 0.05))
    chosen = choose_splits(hashes, splits, 0)
    shares = np.bincount(chosen, minlength=3) / len(chosen)
    assert np.abs(shares - [0.8, 0.15, 0.05]).max() < 0.01
    assert (choose_splits(hashes, splits, 1) != chosen).mean() > 0.2


def test_a_smaller_fraction_is_part_of_a_larger_one():
    hashes = pixel_hashes(some_drawings(2_000))
    place = unit_interval(hashes, 5)
    assert ((place < 0.1) & ~(place < 0.3)).sum() == 0
    assert 0.05 < (place < 0.1).mean() < 0.15


def test_the_sum_of_parts_is_the_sum_of_the_whole_in_any_order():
    hashes = pixel_hashes(some_drawings(50))
    parts = [sum_rows(part, "bee", "train") for part in np.split(hashes, [7, 30])]
    assert add_sums(*parts) == sum_rows(hashes[::-1], "bee", "train")
    assert sum_rows(hashes, "bee", "train") != sum_rows(hashes, "sun", "train")
    assert sum_rows(hashes, "bee", "train") != sum_rows(hashes, "bee", "test")


def test_only_later_repetitions_go():
    images = some_drawings(6)[[0, 1, 0, 2, 1, 0]]
    kept = np.array([True, True, True, True, True, False])
    assert repeated(pixel_hashes(images), kept).tolist() == [False, False, True, False, True, False]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 64), st.integers(0, 1000))
def test_near_duplicates_are_those_of_comparing_all_pairs(bits, seed):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 4, np.uint64)[rng.integers(0, 4, 30)]
    hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, 30).astype(np.uint64))
    kept = rng.random(30) < 0.8
    stays: list[int] = []
    expected = np.zeros(30, bool)
    for i in np.flatnonzero(kept):
        near = any(int(hashes[i] ^ hashes[j]).bit_count() <= bits for j in stays)
        expected[i] = near
        if not near:
            stays.append(i)
    assert near_duplicates(hashes, kept, bits).tolist() == expected.tolist()


def test_a_small_change_moves_few_bits_of_the_difference_hash():
    images = some_drawings(1).repeat(2, axis=0)
    images[1, 5, 5] ^= 40
    a, b = difference_hashes(images).tolist()
    assert (a ^ b).bit_count() <= 2
    other = difference_hashes(some_drawings(1, seed=9)).tolist()[0]
    assert (a ^ other).bit_count() > 10


def test_rules_run_in_order_and_every_row_has_one_code():
    images = np.concatenate([some_drawings(40), np.zeros((2, 28, 28), np.uint8)])
    images = np.concatenate([images, images[:3]])
    spec = DatasetSpec(class_names=("bee",), max_per_class=42, min_ink=200)
    codes = Selection(spec=spec).codes("bee", attributes(images))
    ink = count_ink(images)
    code = {reason: FIRST_REASON + place for place, reason in enumerate(REASONS)}
    assert (codes[42:] == code["over_max_per_class"]).all()
    assert (codes[40:42] == code["blank"]).all()
    assert ((codes[:40] == code["too_little_ink"]) == (ink[:40] < 200)).all()


def write(directory: Path, **files: np.ndarray) -> str:
    directory.mkdir()
    for name, images in files.items():
        (directory / f"{name}.npy").write_bytes(google_npy(images))
    return str(directory)


def test_a_slice_is_exact_although_rows_are_blank_or_repeated(tmp_path):
    images = {name: some_drawings(120, seed) for seed, name in enumerate(("bee", "sun"))}
    images["bee"][100:120] = images["bee"][:20]
    images["sun"][30] = 0
    source = open_source(write(tmp_path / "source", **images), None, tmp_path / "cache")
    order = [
        (hashlib.md5(f"train{name}_{i}".encode()).digest(), image.tobytes())
        for name, rows in images.items()
        for i, image in enumerate(rows)
    ]
    wanted = Counter(pixels for _, pixels in sorted(order)[:200])
    assert max(wanted.values()) > 1
    store = open_store(str(tmp_path / "store"))
    spec = DatasetSpec(class_names=("bee", "sun"), tfds_slice="train[:200]")
    manifest = build_dataset(spec, source, store, "slice")
    assert set(manifest.summary["dropped"]) == {"outside_tfds_slice"}
    found = Counter(
        image.tobytes()
        for entry in manifest.files
        if entry.split
        for images, _, _ in read_shard(manifest, entry, store)
        for image in images
    )
    assert found == wanted


def test_cleaning_a_slice_is_possible_if_asked_for(tmp_path):
    images = some_drawings(100)
    images[50:60], images[70] = images[:10], 0
    source = open_source(write(tmp_path / "source", bee=images), None, tmp_path / "cache")
    spec = DatasetSpec(
        class_names=("bee",), tfds_slice="train", duplicates="drop", blank="drop", min_ink=225
    )
    manifest = build_dataset(spec, source, open_store(str(tmp_path / "store")), "clean")
    assert {"duplicate", "blank", "too_little_ink"} == set(manifest.summary["dropped"])


def test_blank_drawings_stay_if_they_are_wanted():
    images = np.concatenate([some_drawings(3), np.zeros((2, 28, 28), np.uint8)])
    spec = DatasetSpec(class_names=("bee",), blank="keep", duplicates="keep", min_ink=300)
    codes = Selection(spec=spec).codes("bee", attributes(images))
    assert (codes[3:] < FIRST_REASON).all()
    assert (codes[:3] == FIRST_REASON + REASONS.index("too_little_ink")).all()


def test_contact_sheets_show_what_was_kept_and_dropped(tmp_path):
    images = some_drawings(50)
    source_dir = write(tmp_path / "source", bee=np.concatenate([images, images[:5]]))
    source = open_source(source_dir, ["bee"], tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    manifest = build_dataset(DatasetSpec(class_names=("bee",)), source, store, "sheets")
    paths = {entry.path for entry in manifest.files if entry.path.startswith("sheets/")}
    assert paths == {"sheets/kept.png", "sheets/dropped-duplicate.png"}
    content = store.get(f"{manifest.prefix}/sheets/dropped-duplicate.png")
    sheet = np.asarray(Image.open(io.BytesIO(content)))
    for i in range(5):
        assert np.array_equal(255 - sheet[:28, 28 * i : 28 * (i + 1)], images[i]), i


@pytest.mark.slow
def test_a_changed_threshold_reads_no_drawing_again(tmp_path, monkeypatch):
    source_dir = write(tmp_path / "source", bee=some_drawings(200))
    source = open_source(source_dir, ["bee"], tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    build_dataset(DatasetSpec(class_names=("bee",)), source, store, "one")

    def fail(*_):
        raise AssertionError("scanned again")

    monkeypatch.setattr("pipelines.dataset.scan.ScanWork.__call__", fail)
    spec = DatasetSpec(class_names=("bee",), min_ink=240, fraction=0.9, seed=3)
    manifest = build_dataset(spec, source, store, "two")
    assert set(manifest.summary["dropped"]) == {"too_little_ink", "outside_fraction"}


@pytest.mark.slow
def test_recognized_and_countries_need_and_use_the_metadata(tmp_path):
    root = write_doodles(tmp_path / "doodles", ("sun",), per_class=120)
    strokes = open_source(
        str(root / "simplified"),
        ["sun"],
        tmp_path / "cache",
        SourceOptions(columns=METADATA_COLUMNS),
    )
    spec = DatasetSpec(
        class_names=("sun",), recognized_only=True, countries=("US", "JP"), with_metadata=True
    )
    store = open_store(str(tmp_path / "store"))
    manifest = build_dataset(spec, strokes, store, "chosen")
    dropped = manifest.summary["dropped"]
    assert set(dropped) == {"not_recognized", "other_country"}
    assert manifest.summary["num_drawings"] == 120 - sum(n["sun"] for n in dropped.values())
    bitmaps = open_source(str(root / "numpy_bitmap"), ["sun"], tmp_path / "cache")
    with pytest.raises(ValueError, match="does not know country_code, key_id, recognized"):
        build_dataset(spec, bitmaps, store, "unknown")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class_names", ()),
        ("class_names", ("bee", "bee")),
        ("class_names", ("a/b",)),
        ("splits", (("train", 0.5),)),
        ("splits", (("Train", 1.0),)),
        ("formats", ("csv",)),
        ("layout", "heap"),
        ("image_size", 0),
        ("fraction", 1.5),
        ("countries", ("usa",)),
        ("near_duplicates", 65),
        ("duplicates", "maybe"),
    ],
)
def test_values_that_no_dataset_can_have_are_refused(field, value):
    with pytest.raises(ValueError, match=r"."):
        DatasetSpec(**{"class_names": ("bee",)} | {field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_per_class", 0, "max_per_class must be at least 1, found 0"),
        ("fraction", float("nan"), "fraction must be between 0.0 and 1.0, found nan"),
        ("blank", "maybe", "blank must be one of drop, keep"),
        ("tfds_slice", "test[:5]", "is not a slice of train"),
        ("splits", (("train", float("nan")),), "must be positive and add up to 1"),
    ],
)
def test_a_refused_value_is_told_what_was_expected(field, value, message):
    with pytest.raises(ValueError, match=message):
        DatasetSpec(class_names=("bee",), **{field: value})


def test_the_order_of_formats_does_not_matter():
    one = DatasetSpec(class_names=("bee",), formats=("tfrecord", "parquet", "tfrecord"))
    assert one == DatasetSpec(class_names=("bee",), formats=("parquet", "tfrecord"))


@pytest.mark.parametrize("text", ["train", "train=x", "train=0.5=0.5"])
def test_splits_that_say_no_fractions_are_refused(text):
    with pytest.raises(ValueError, match="is not a split: write train="):
        parse_splits(text)


def test_a_spec_survives_its_json():
    spec = DatasetSpec(class_names=("bee", "sun"), countries=("US",), max_ink=500)
    assert spec_from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="unknown fields"):
        spec_from_json(spec.to_json() | {"color": "red"})


@pytest.mark.parametrize("text", ["test", "train[5:5]", "train[a:]", "train[:10%:2]"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(ValueError, match="slice"):
        slice_bounds(text, 1000)


def test_shards_are_neither_too_few_nor_too_small():
    assert num_shards(50_000_000, None) == 763
    assert num_shards(100, None) == 1
    assert num_shards(101, 50) == 3


def test_a_batch_has_a_label_for_every_image():
    with pytest.raises(ValueError, match="label has 1 values for 2 images"):
        Drawings(images=some_drawings(2), label=np.zeros(1, np.int64))
