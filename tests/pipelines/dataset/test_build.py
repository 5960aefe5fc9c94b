import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipelines.beam import run_units
from pipelines.dataset.build import build_dataset, plan_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.hashing import choose_splits, pixel_hashes
from pipelines.drawings.parquet import open_shard, read_images
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest
from pipelines.store.scratch import read_scratch, sealed

CLASSES = ("bee", "sea turtle", "sun")


def write_bitmaps(directory: Path, classes=CLASSES, count: int = 300, seed: int = 0) -> Path:
    """Write files of sparse random drawings; class i has count + i of them."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(classes):
        rng = np.random.default_rng([seed, *name.encode()])
        images = rng.integers(0, 256, (count + index, 28, 28), np.uint8)
        images[rng.random(images.shape) < 0.7] = 0
        (directory / f"{name}.npy").write_bytes(google_npy(images))
    return directory


def build(tmp_path: Path, source_dir: Path, store: str = "store", **options) -> Manifest:
    run = {name: options.pop(name) for name in ("workers", "beam_args") if name in options}
    spec = DatasetSpec(**{"class_names": CLASSES} | options)
    source = open_source(str(source_dir), spec.class_names, tmp_path / "cache")
    return build_dataset(spec, source, open_store(str(tmp_path / store)), "sketches", **run)


def read_split(store: Store, manifest: Manifest, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [np.empty((0, 28, 28), np.uint8)], [np.empty(0, np.int64)]
    for entry in manifest.files:
        if entry.split == split and entry.path.endswith(".parquet"):
            table = open_shard(store.get(f"{manifest.prefix}/{entry.path}")).read()
            images.append(read_images(table["image"]))
            labels.append(table["label"].to_numpy())
    return np.concatenate(images), np.concatenate(labels)


def as_set(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def test_a_dataset_holds_what_three_lines_of_numpy_would_put_there(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    manifest = build(tmp_path, source_dir)
    store = open_store(str(tmp_path / "store"))
    expected = {split: set() for split in ("train", "validation", "test")}
    for label, name in enumerate(CLASSES):
        images = np.load(source_dir / f"{name}.npy").reshape(-1, 28, 28)
        splits = choose_splits(pixel_hashes(images), manifest.spec["splits"], 0)
        for position, split in enumerate(expected):
            picked = images[splits == position]
            expected[split] |= as_set(picked, np.full(len(picked), label))
    for split, drawings in expected.items():
        images, labels = read_split(store, manifest, split)
        assert len(images) == manifest.summary["splits"][split] == len(drawings), split
        assert as_set(images, labels) == drawings, split


@pytest.mark.slow
def test_what_beam_is_given_does_not_grow_with_the_drawings(tmp_path, monkeypatch):
    # Services take a graph of some 10 MB, and Beam compresses what it is given several times.
    given: list[int] = []

    def count_bytes(units, work, *arguments, **options):
        given.append(len(pickle.dumps((list(units), work))))
        return run_units(units, work, *arguments, **options)

    monkeypatch.setattr("pipelines.beam.run_units", count_bytes)
    for count in (500, 10_000):
        source_dir = write_bitmaps(tmp_path / f"source-{count}", count=count)
        build(tmp_path, source_dir, rows_per_shard=count // 2)
    small, large = given[:2], given[2:]
    assert len(small) == len(large) == 2
    for before, after in zip(small, large, strict=True):
        assert after < 1.05 * before


@pytest.mark.slow
def test_a_plan_that_was_damaged_while_a_build_was_off_is_put_anew(tmp_path, monkeypatch):
    source_dir = write_bitmaps(tmp_path / "source")
    whole = build(tmp_path, source_dir, "whole")

    def damage(units, work, store, **options):
        if options["label"] == "Scan":
            return run_units(units, work, store, **options)
        (plan,) = (tmp_path / "store").glob("attempts/shards/*/blocks-*.bin")
        plan.write_bytes(bytes(plan.stat().st_size))
        raise ConnectionError("the worker is gone")

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.beam.run_units", damage)
        with pytest.raises(ConnectionError):
            build(tmp_path, source_dir)
    assert build(tmp_path, source_dir).files == whole.files


def test_a_higher_compression_level_is_smaller_with_the_same_drawings(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    for path in source_dir.iterdir():  # thick lines in place of noise, which nothing compresses
        images = np.load(path)
        images[:] = np.where(np.arange(784) % (5 + np.arange(len(images))[:, None]) < 2, 255, 0)
        path.write_bytes(google_npy(images))
    fast, small = (build(tmp_path, source_dir, compression_level=level) for level in (1, 12))
    sizes = [sum(e.bytes for e in m.files if e.path.endswith(".parquet")) for m in (fast, small)]
    assert sizes[1] < sizes[0]
    assert small.summary["content_digest"] == fast.summary["content_digest"]
    assert small.digest != fast.digest


def test_the_manifest_names_every_file_that_was_read(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    files = build(tmp_path, source_dir).summary["source_files"]
    assert [each["file"] for each in files] == sorted(f"{name}.npy" for name in CLASSES)
    for each in files:
        content = (source_dir / each["file"]).read_bytes()
        assert each["digest"] == "sha256:" + hashlib.sha256(content).hexdigest()
        assert each["bytes"] == len(content)


def test_building_again_answers_at_once_with_the_same_manifest(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    first = build(tmp_path, source_dir)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.is_file()}
    assert build(tmp_path, source_dir) == first
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.is_file()}
    assert after == before


def test_the_manifest_lists_every_file_and_counts_every_drawing(tmp_path):
    manifest = build(tmp_path, write_bitmaps(tmp_path / "source"))
    store = open_store(str(tmp_path / "store"))
    listed = {f"{manifest.prefix}/{entry.path}" for entry in manifest.files}
    stored = {item.path for item in store.objects(manifest.prefix)}
    assert stored == listed | {f"{manifest.prefix}/manifest.json"}
    assert store.damaged(manifest) == []
    counts = manifest.summary["counts"]
    for index, name in enumerate(CLASSES):
        assert sum(counts[split][name] for split in counts) == 300 + index


@pytest.mark.parametrize("rows_per_shard", [50, 333, 10_000])
@pytest.mark.slow
def test_shards_are_even_and_content_does_not_depend_on_their_number(tmp_path, rows_per_shard):
    source_dir = write_bitmaps(tmp_path / "source")
    reference = build(tmp_path, source_dir)
    manifest = build(tmp_path, source_dir, rows_per_shard=rows_per_shard)
    sizes = [entry.rows for entry in manifest.files if entry.split == "train"]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= rows_per_shard
    assert manifest.summary["content_digest"] == reference.summary["content_digest"]


def test_a_shard_mixes_the_classes(tmp_path):
    manifest = build(tmp_path, write_bitmaps(tmp_path / "source", count=1000), rows_per_shard=300)
    store = open_store(str(tmp_path / "store"))
    for entry in manifest.files:
        if entry.split == "train":
            labels = open_shard(store.get(f"{manifest.prefix}/{entry.path}")).read()["label"]
            assert set(labels.to_pylist()) == {0, 1, 2}, entry.path


def test_no_drawing_is_in_two_splits_whatever_its_class(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    # The same file under two names: every drawing has two classes.
    (source_dir / "sun.npy").write_bytes((source_dir / "bee.npy").read_bytes())
    manifest = build(tmp_path, source_dir)
    store = open_store(str(tmp_path / "store"))
    seen = {}
    for split in ("train", "validation", "test"):
        for image in read_split(store, manifest, split)[0]:
            assert seen.setdefault(image.tobytes(), split) == split


@pytest.mark.slow
def test_splits_are_stable_when_classes_are_added(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    store = open_store(str(tmp_path / "store"))
    few = build(tmp_path, source_dir, class_names=("sun", "bee"))
    many = build(tmp_path, source_dir)
    for split in ("train", "validation", "test"):
        images, labels = read_split(store, few, split)
        names = np.array([CLASSES.index(name) for name in ("sun", "bee")])
        assert as_set(images, names[labels]) <= as_set(*read_split(store, many, split)), split


def test_equal_drawings_of_a_class_stay_once(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    images = np.load(source_dir / "bee.npy").reshape(-1, 28, 28)
    doubled = np.concatenate([images, images[:25], np.zeros((3, 28, 28), np.uint8)])
    (source_dir / "bee.npy").write_bytes(google_npy(doubled))
    manifest = build(tmp_path, source_dir)
    assert manifest.summary["dropped"] == {"blank": {"bee": 3}, "duplicate": {"bee": 25}}
    assert build(tmp_path, source_dir, duplicates="keep").summary["dropped"] == {
        "blank": {"bee": 3}
    }


@pytest.mark.parametrize("layout", ["packed", "linked"])
def test_what_beam_counts_is_what_the_manifest_says(tmp_path, layout, caplog):
    source_dir = write_bitmaps(tmp_path / "source")
    images = np.load(source_dir / "bee.npy").reshape(-1, 28, 28)
    doubled = np.concatenate([images, images[:25], np.zeros((3, 28, 28), np.uint8)])
    (source_dir / "bee.npy").write_bytes(google_npy(doubled))
    with caplog.at_level("INFO", "pipelines.dataset.jobs"):
        manifest = build(tmp_path, source_dir, layout=layout, rows_per_shard=100)
    store = open_store(str(tmp_path / "store"))
    paths = [i.path for i in store.objects("attempts") if i.path.endswith("counters.json")]
    counters = [json.loads(bytes(read_scratch(store, path))) for path in paths]
    assert all(each == counters[0] for each in counters)
    dropped = {reason: sum(by.values()) for reason, by in manifest.summary["dropped"].items()}
    shards = [entry for entry in manifest.files if entry.path.endswith(".parquet")]
    assert dropped == {"blank": 3, "duplicate": 25}
    assert counters[0] == {
        "rows_kept": manifest.summary["num_drawings"],
        "rows_written": manifest.summary["num_drawings"],
        "made_units": len(shards),
        "rows_dropped_blank": 3,
        "rows_dropped_duplicate": 25,
        "bytes_read": manifest.summary["num_drawings"] * 784,
        "bytes_written": sum(entry.bytes for entry in shards),
    }
    scanned = f"'rows_read': {manifest.summary['num_drawings'] + 28}"
    assert any(scanned in text and "'bytes_read': " in text for text in caplog.messages)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.slow
def test_an_unfinished_build_is_continued_to_the_same_bytes(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    whole = build(tmp_path, source_dir, "undisturbed", rows_per_shard=100)
    build(tmp_path, source_dir, "killed", rows_per_shard=100)
    killed = open_store(str(tmp_path / "killed"))
    # What a kill may leave: no manifest, some shards missing, one without its record.
    prefix = whole.prefix
    for path in ("manifest.json", "data/train-00002-of-00009.parquet", "README.md"):
        killed.delete(f"{prefix}/{path}")
    records = f"attempts/shards/sketches-{whole.digest}"
    killed.delete(f"{records}/train-00004-of-00009.json")
    # What a power failure may leave: a record without content, a shard with another's.
    killed.put(f"{records}/train-00005-of-00009.json", b"")
    # What another version may leave: a record of other fields.
    killed.put(f"{records}/train-00003-of-00009.json", sealed(b'{"files": [["x", 1, "0"]]}'))
    shard = f"{prefix}/data/train-00006-of-00009.parquet"
    killed.put(shard, bytes(len(killed.get(shard))))
    again = build(tmp_path, source_dir, "killed", rows_per_shard=100)
    assert again == whole
    assert killed.damaged(again) == []


def test_a_plan_tells_the_work_without_reading_drawings(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    source = open_source(str(source_dir), CLASSES, tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    spec = DatasetSpec(class_names=CLASSES)
    plan = plan_dataset(spec, source, store, "sketches")
    assert plan.rows_by_class == {"bee": 300, "sea turtle": 301, "sun": 302}
    assert not plan.is_built
    manifest = build_dataset(spec, source, store, "sketches")
    assert plan_dataset(spec, source, store, "sketches").is_built
    assert manifest.digest == plan.digest


def test_a_copy_elsewhere_is_the_same_source(tmp_path):
    one = open_source(str(write_bitmaps(tmp_path / "a")), CLASSES, tmp_path / "cache")
    two = open_source(str(write_bitmaps(tmp_path / "b")), CLASSES, tmp_path / "cache")
    other = open_source(str(write_bitmaps(tmp_path / "c", seed=1)), CLASSES, tmp_path / "cache")
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_missing_classes_and_empty_selections_are_refused(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    with pytest.raises(ValueError, match=r"has no file of frog; it has bee, sea turtle, sun"):
        build(tmp_path, source_dir, class_names=("frog",))
    with pytest.raises(ValueError, match="no drawing of class 'bee' is left: all were dropped"):
        build(tmp_path, source_dir, min_ink=785)


def test_dask_runner_without_an_address_is_refused(tmp_path):
    source_dir = write_bitmaps(tmp_path / "source")
    with pytest.raises(ValueError, match="DaskRunner needs the address"):
        build(tmp_path, source_dir, beam_args=["--runner=apache_beam.runners.dask.DaskRunner"])
