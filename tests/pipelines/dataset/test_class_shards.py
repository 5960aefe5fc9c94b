import io
import json
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run_command_line
from pipelines import beam
from pipelines.dataset.build import build_dataset
from pipelines.dataset.contact_sheet import sheet_cells
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.verify import diff_datasets, verify_dataset
from pipelines.drawings.reading import read_shard
from pipelines.sources.base import SourceOptions
from pipelines.sources.doodles.make import google_npy
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import open_store
from pipelines.store.lineage import diff, lineage_text, trace

CLASSES = ("bee", "sea turtle", "sun")


@pytest.fixture
def source_dir(write_npy_files) -> Path:
    return write_npy_files(CLASSES, 400)


def build(source_dir: Path, name: str = "sketches", **options):
    spec = DatasetSpec(**{"class_names": CLASSES} | options)
    root = source_dir.parent
    source = open_source(str(source_dir), spec.class_names, root / "cache")
    store = open_store(str(root / "store"))
    return build_dataset(spec, source, store, name), store


@pytest.mark.slow
def test_a_linked_dataset_has_the_content_of_a_packed_one(source_dir):
    packed, store = build(source_dir)
    linked, _ = build(source_dir, "linked", layout="linked")
    assert linked.summary["content_digest"] == packed.summary["content_digest"]
    assert linked.summary["counts"] == packed.summary["counts"]
    assert linked.summary["statistics"] == packed.summary["statistics"]
    assert diff_datasets(packed, linked, store).is_same_content
    assert verify_dataset(linked, store) == []


@pytest.mark.slow
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
            (_, labels, _), *_ = read_shard(manifest, entry, store)
            expected = 0 if "-sun-" in entry.path else 1
            assert set(labels.tolist()) == {expected}, entry.path


def test_the_linked_layout_refuses_classes_that_are_not_googles(source_dir):
    (source_dir / "my class.npy").write_bytes((source_dir / "sun.npy").read_bytes())
    with pytest.raises(ValueError, match="'my class' is not in the catalogue"):
        build(source_dir, layout="linked", class_names=("my class",))


def build_skipping(source_dir: Path, classes, store_name: str):
    root = source_dir.parent
    source = open_source(
        str(source_dir), classes, root / "cache", SourceOptions(skip_bad_files=True)
    )
    spec = DatasetSpec(class_names=tuple(classes), on_bad_file="skip", layout="linked")
    store = open_store(str(root / store_name))
    return build_dataset(spec, source, store, "linked"), store


def test_bad_files_are_skipped_and_named_once(source_dir):
    (source_dir / "cat.npy").write_bytes(b"<html>")  # is seen when the source is opened
    images = np.load(source_dir / "sun.npy")
    images[:300] = 0  # is seen by the scan
    (source_dir / "sun.npy").write_bytes(google_npy(images))
    manifest, store = build_skipping(source_dir, ["bee", "sea turtle", "sun", "cat"], "store")
    bad = [Path(each["file"]).name for each in manifest.summary["bad_files"]]
    assert bad == ["cat.npy", "sun.npy"]
    totals = {
        name: sum(by[name] for by in manifest.summary["counts"].values())
        for name in manifest.summary["class_names"]
    }
    assert totals == {"bee": 400, "sea turtle": 400, "sun": 0, "cat": 0}
    assert verify_dataset(manifest, store) == []


def test_no_class_left_is_said(source_dir):
    (source_dir / "cat.npy").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="no drawing is left"):
        build_skipping(source_dir, ["cat"], "store")


@pytest.mark.slow
def test_a_class_says_the_same_whatever_classes_were_asked_for_beside_it(source_dir):
    (source_dir / "cat.npy").write_bytes(b"<html>")
    images = np.load(source_dir / "sun.npy").reshape(-1, 28, 28)
    (source_dir / "sun.npy").write_bytes(_npy(images))
    _, few = build_skipping(source_dir, ["bee"], "few")
    _, many = build_skipping(source_dir, ["sun", "bee", "cat"], "many")
    one, other = (store.latest("datasets", "class-bee") for store in (few, many))
    assert one == other
    assert one.summary["bad_files"] == []
    assert one.summary["repairs"] == {}
    assert sum(many.latest("datasets", "linked").summary["repairs"].values()) == 1


def _npy(images: np.ndarray) -> bytes:
    """Return what NumPy writes of images (n, 28, 28, 1), which the source puts right."""
    sink = io.BytesIO()
    np.save(sink, images[..., None])
    return sink.getvalue()


def test_the_whole_names_its_files_and_shows_its_drawings(source_dir):
    images = np.load(source_dir / "sun.npy")
    images[:7] = 0
    (source_dir / "sun.npy").write_bytes(google_npy(images))
    manifest, store = build(source_dir, layout="linked")
    files = [each["file"] for each in manifest.summary["source_files"]]
    assert files == ["bee.npy", "sea turtle.npy", "sun.npy"]
    assert lineage_text(trace(manifest, store)).count("file: ") == 3
    sheets = {e.path for e in manifest.files if e.path.startswith("sheets/")}
    assert sheets == {"sheets/kept.png", "sheets/dropped-blank.png"}
    cells = sheet_cells(store.read(manifest, "sheets/kept.png"), 28)
    sources = [np.load(source_dir / f"{name}.npy").reshape(-1, 28, 28) for name in CLASSES]
    for place, cell in enumerate(cells[:6]):
        assert any((image == cell).all() for image in sources[place % 3]), place


def test_all_missing_classes_are_built_in_one_graph_a_pass(source_dir, monkeypatch):
    labels = []
    real = beam.run_units

    def counted(units, work, store, *, label, **rest):
        labels.append(label)
        return real(units, work, store, label=label, **rest)

    monkeypatch.setattr(beam, "run_units", counted)
    build(source_dir, layout="linked")
    assert labels == ["Scan", "Build"]


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
        "bee: 401 kept and 0 dropped drawings are not the 400 read",
        f"parquet: train/bee: found {number - 1} drawings, the manifest says {number}",
    ]


def test_diff_tells_rules_counts_and_drawings(source_dir):
    a, store = build(source_dir)
    b, _ = build(source_dir, class_names=("bee", "sun"), max_per_class=100)
    rules = diff(a, b)
    assert set(rules.spec) == {"class_names", "max_per_class"}
    assert rules.spec["max_per_class"] == (None, 100)
    dropped = {name: pair for name, pair in rules.summary.items() if name.startswith("dropped.")}
    assert dropped == {
        "dropped.over_max_per_class.bee": (None, 300),
        "dropped.over_max_per_class.sun": (None, 300),
    }
    drawings = diff_datasets(a, b, store)
    assert sum(drawings.only_in_a.values()) == 1200 - 200
    assert sum(drawings.only_in_b.values()) == 0
    assert not drawings.is_same_content


@pytest.mark.slow
def test_the_command_line_counts_the_drawings_that_only_one_dataset_has(source_dir, capsys):
    build(source_dir, "many")
    build(source_dir, "few", class_names=("bee", "sun"), max_per_class=100)
    url = str(source_dir.parent / "store")
    command = ["diff", "many", "few", "--drawings", "--json", "--store", url]
    assert run_command_line(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert sum(said["only left"].values()) == 1200 - 200
    assert sum(said["only right"].values()) == 0
    assert said["same drawings"] is False
