from pathlib import Path

import numpy as np
import pytest

from pipelines.build import build_dataset
from pipelines.doodles import google_npy
from pipelines.sources.opening import open_directory
from pipelines.spec import DatasetSpec
from pipelines.store import open_store
from pipelines.verify import diff_datasets, read_entry, verify_dataset

CLASSES = ("bee", "sea turtle", "sun")


@pytest.fixture
def source_dir(tmp_path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for name in CLASSES:
        rng = np.random.default_rng(list(name.encode()))
        images = rng.integers(0, 256, (400, 28, 28), np.uint8)
        images[rng.random(images.shape) < 0.7] = 0
        (directory / f"{name}.npy").write_bytes(google_npy(images))
    return directory


def build(source_dir: Path, name: str = "sketches", **options):
    spec = DatasetSpec(**{"class_names": CLASSES} | options)
    root = source_dir.parent
    source = open_directory(str(source_dir), spec.class_names, root / "cache")
    store = open_store(str(root / "store"))
    return build_dataset(spec, source, store, name), store


def test_a_linked_dataset_has_the_content_of_a_packed_one(source_dir):
    packed, store = build(source_dir)
    linked, _ = build(source_dir, "linked", layout="linked")
    assert linked.summary["content_digest"] == packed.summary["content_digest"]
    assert linked.summary["counts"] == packed.summary["counts"]
    assert linked.summary["statistics"] == packed.summary["statistics"]
    assert diff_datasets(packed, linked, store).is_same_content
    assert verify_dataset(linked, store) == []


def test_a_new_list_of_known_classes_computes_no_class_again(source_dir):
    _, store = build(source_dir, layout="linked")
    shards = {i.path: i.modified for i in store.objects("datasets/class-sun") if "data/" in i.path}
    before = {item.path for item in store.objects("attempts")}
    build(source_dir, "fewer", layout="linked", class_names=("sun", "bee"))
    after = {item.path for item in store.objects("attempts")}
    again = {i.path: i.modified for i in store.objects("datasets/class-sun") if "data/" in i.path}
    assert after == before
    assert again.keys() == shards.keys()


def test_labels_of_linked_shards_are_mapped_by_the_manifest(source_dir):
    manifest, store = build(source_dir, layout="linked", class_names=("sun", "bee"))
    for entry in manifest.files:
        if entry.split == "train":
            (_, labels), *_ = read_entry(manifest, entry, store)
            expected = 0 if "-sun-" in entry.path else 1
            assert set(labels.tolist()) == {expected}, entry.path


def test_the_linked_layout_refuses_classes_that_are_not_googles(source_dir):
    (source_dir / "my class.npy").write_bytes((source_dir / "sun.npy").read_bytes())
    with pytest.raises(ValueError, match="'my class' is not in the catalogue"):
        build(source_dir, layout="linked", class_names=("my class",))


def test_verify_finds_a_changed_byte_and_a_missing_file(source_dir):
    manifest, store = build(source_dir, formats=("parquet", "tfrecord"))
    assert verify_dataset(manifest, store) == []
    path = f"{manifest.prefix}/{manifest.files[-1].path}"
    content = bytearray(store.get(path))
    content[len(content) // 2] ^= 1
    store.put(path, bytes(content))
    store.delete(f"{manifest.prefix}/README.md")
    problems = verify_dataset(manifest, store)
    assert problems == [
        "README.md: missing",
        f"{manifest.files[-1].path}: content does not match its SHA-256",
    ]


def test_verify_recounts_what_the_manifest_says(source_dir):
    import dataclasses

    manifest, store = build(source_dir)
    counts = {split: dict(by) for split, by in manifest.summary["counts"].items()}
    counts["train"]["bee"] += 1
    lying = dataclasses.replace(manifest, summary={**manifest.summary, "counts": counts})
    number = counts["train"]["bee"]
    assert verify_dataset(lying, store) == [
        f"parquet: train/bee: found {number - 1} drawings, the manifest says {number}"
    ]


def test_diff_tells_rules_counts_and_drawings(source_dir):
    a, store = build(source_dir)
    b, _ = build(source_dir, class_names=("bee", "sun"), max_per_class=100)
    diff = diff_datasets(a, b, store)
    assert set(diff.spec) == {"class_names", "max_per_class"}
    assert diff.spec["max_per_class"] == (None, 100)
    assert diff.dropped == {"over_max_per_class/bee": (0, 300), "over_max_per_class/sun": (0, 300)}
    assert sum(diff.only_in_a.values()) == 1200 - 200
    assert sum(diff.only_in_b.values()) == 0
    assert not diff.is_same_content
