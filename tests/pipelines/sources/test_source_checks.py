"""Never a silent wrong drawing: what contradicts itself is refused, or left out and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.dataset.jobs
from pipelines.dataset.attributes import failed_attributes, table_to_bytes
from pipelines.dataset.build import build_dataset, dataset_digest
from pipelines.dataset.scan import missing_units, scan_units
from pipelines.dataset.spec import DatasetSpec
from pipelines.drawings.batch import METADATA_COLUMNS
from pipelines.drawings.parquet import IMAGE_TYPE
from pipelines.drawings.stored_png import encode_pngs
from pipelines.sources.base import BadFileError, SourceOptions
from pipelines.sources.doodles.make import google_npy, write_doodles
from pipelines.sources.registry import open_reader, open_source
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest


def some_drawings(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[rng.random(images.shape) < 0.7] = 0
    return images


def write_parquet(path: Path, labels: list, *, pngs: list[bytes] | None = None) -> None:
    """Write pictures as Hugging Face does; the classes are shoe and dress."""
    path.parent.mkdir(exist_ok=True)
    if pngs is None:
        pngs = [png.tobytes() for png in encode_pngs(some_drawings(len(labels), len(path.name)))]
    features = {"label": {"_type": "ClassLabel", "names": ["shoe", "dress"]}}
    info = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pictures = pa.array([{"bytes": png, "path": None} for png in pngs], IMAGE_TYPE)
    schema = pa.schema([("image", pictures.type), ("label", pa.int64())], info)
    pq.write_table(pa.Table.from_arrays([pictures, pa.array(labels)], schema=schema), path)


def build(source_dir: Path, tmp_path: Path, names: tuple[str, ...], **fields: object) -> Manifest:
    skip = fields.get("on_bad_file") == "skip"
    source = open_source(
        str(source_dir), names, tmp_path / "cache", SourceOptions(skip_bad_files=skip)
    )
    spec = DatasetSpec(class_names=names, **fields)
    return build_dataset(spec, source, open_store(str(tmp_path / "store")), "checked")


@pytest.mark.parametrize(("label", "found"), [(-1, "-1"), (2, "2"), (None, "null")])
def test_a_label_that_names_no_class_is_not_the_last_class(tmp_path, label, found):
    write_parquet(tmp_path / "source" / "a.parquet", [0, 1, label] * 10)
    with pytest.raises(BadFileError, match=rf"row 2: label is {found}, expected 0 to 1"):
        build(tmp_path / "source", tmp_path, ("shoe", "dress"))


def truncated(path: Path) -> None:
    write_parquet(path, [0, 1] * 20)
    path.write_bytes(path.read_bytes()[:-200])


def torn_group(path: Path) -> None:
    write_parquet(path, [0, 1] * 20)
    content = bytearray(path.read_bytes())
    content[200:2_000] = bytes(1_800)
    path.write_bytes(content)


def no_picture(path: Path) -> None:
    write_parquet(path, [0, 1], pngs=[encode_pngs(some_drawings(1))[0].tobytes(), b"no picture"])


@pytest.mark.parametrize("damage", [truncated, torn_group, no_picture])
def test_a_damaged_parquet_file_is_refused_or_left_out_and_named(tmp_path, damage):
    write_parquet(tmp_path / "source" / "good.parquet", [0, 1] * 50)
    damage(tmp_path / "source" / "bad.parquet")
    why = r"cannot be read as Parquet of drawings|row 1: the picture cannot be decoded: unknown format"
    with pytest.raises(BadFileError, match=rf"bad\.parquet.*({why})"):
        build(tmp_path / "source", tmp_path, ("shoe", "dress"))
    manifest = build(tmp_path / "source", tmp_path, ("shoe", "dress"), on_bad_file="skip")
    assert manifest.summary["num_drawings"] == 100
    (bad,) = manifest.summary["bad_files"]
    assert bad["file"] == "bad.parquet"
    assert str(tmp_path) not in bad["reason"]
    assert " at 0x" not in bad["reason"]


def test_a_file_named_after_another_class_is_refused_at_once(tmp_path):
    root = write_doodles(tmp_path / "doodles", ("sun", "bee"), per_class=20) / "simplified"
    open_source(str(root), ["sun"], tmp_path / "cache")  # its index is remembered
    (tmp_path / "source").mkdir()
    shutil.copy(root / "sun.ndjson", tmp_path / "source" / "bee.ndjson")
    with pytest.raises(BadFileError, match="line 1 is a drawing of 'sun', the file's name says"):
        open_source(str(tmp_path / "source"), ["bee"], tmp_path / "cache")


def test_a_line_of_another_class_is_refused(tmp_path):
    root = write_doodles(tmp_path / "doodles", ("sun", "bee"), per_class=20) / "simplified"
    lines = (root / "sun.ndjson").read_text().splitlines()
    lines[7] = (root / "bee.ndjson").read_text().splitlines()[0]
    (root / "sun.ndjson").write_text("\n".join(lines))
    with pytest.raises(
        BadFileError, match="line 8: a drawing of 'bee', the file's name says 'sun'"
    ):
        build(root, tmp_path, ("sun",))


def test_two_files_of_one_class_are_refused(tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("bee", "full_numpy_bitmap_bee", "sun"):
        (tmp_path / "source" / f"{name}.npy").write_bytes(google_npy(some_drawings(30)))
    with pytest.raises(ValueError, match="2 files of class 'bee': bee"):
        open_source(str(tmp_path / "source"), ["bee"], tmp_path / "cache")
    assert len(open_source(str(tmp_path / "source"), ["sun"], tmp_path / "cache").files) == 1


def test_metadata_are_not_joined_unchecked_without_cairo(tmp_path, monkeypatch, quickdraw_sample):
    root = quickdraw_sample / "official"
    (tmp_path / "source").mkdir()
    shutil.copy(root / "simplified" / "bee.ndjson", tmp_path / "source")
    rows = (root / "simplified" / "bee.ndjson").read_bytes().count(b"\n")
    images = np.load(root / "numpy_bitmap" / "bee.npy").reshape(-1, 28, 28)[:rows]
    images[[3, rows - 1]] = images[[rows - 1, 3]]
    (tmp_path / "source" / "bee.npy").write_bytes(google_npy(images))
    source = open_source(
        str(tmp_path / "source"),
        ["bee"],
        tmp_path / "cache",
        SourceOptions(columns=METADATA_COLUMNS),
    )
    # The first row is in its place, the last is not.
    with pytest.raises(BadFileError, match="different orders or sources"):
        open_reader(source.files[0], 28).read(0, rows)

    def no_cairo():
        raise ValueError("install libcairo2")

    monkeypatch.setattr("pipelines.sources.strokes.cairo._cairo", no_cairo)
    with pytest.raises(ValueError, match="install libcairo2"):
        open_reader(source.files[0], 28).read(0, 1)


def change(path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write other drawings into a file once the step `at` of a build has been done."""
    original = getattr(pipelines.dataset.jobs, at)

    def changing(*args, **options):
        result = original(*args, **options)
        path.write_bytes(google_npy(some_drawings(200, seed=5)))
        return result

    monkeypatch.setattr(pipelines.dataset.jobs, at, changing)


@pytest.mark.parametrize("step", ["make_plan", "scan_units"])
@pytest.mark.slow
def test_a_source_that_changes_while_it_is_read_is_not_published(tmp_path, monkeypatch, step):
    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "bee.npy"
    path.write_bytes(google_npy(some_drawings(200)))
    store = open_store(str(tmp_path / "store"))
    with monkeypatch.context() as patch:
        change(path, step, patch)
        with pytest.raises(BadFileError, match="while it was read"):
            build(tmp_path / "source", tmp_path, ("bee",))
    assert not list(store.manifests("datasets"))
    # The drawings as they were, once more: what was made of the others is not found again.
    path.write_bytes(google_npy(some_drawings(200)))
    one = build(tmp_path / "source", tmp_path, ("bee",))
    other = build(tmp_path / "source", tmp_path / "other", ("bee",))
    assert one.digest == other.digest
    assert one.summary["content_digest"] == other.summary["content_digest"]


@pytest.mark.slow
def test_ranges_that_failed_or_were_torn_are_scanned_again(tmp_path):
    root = write_doodles(tmp_path / "doodles", ("sun",), per_class=30)
    source = open_source(str(root / "simplified"), ["sun"], tmp_path / "cache")
    store = open_store(str(tmp_path / "store"))
    manifest = build_dataset(DatasetSpec(class_names=("sun",)), source, store, "whole")
    (unit,) = units = scan_units(source, 28)
    attributes, pixels = store.get(unit.path), store.get(unit.pixels_path)
    assert missing_units(units, store) == ()
    for path, torn in [
        (unit.path, table_to_bytes(failed_attributes("the disk was away"))),
        (unit.path, attributes[:-1]),
        (unit.pixels_path, pixels[:-1]),
    ]:
        store.put(unit.path, attributes)
        store.put(unit.pixels_path, pixels)
        store.put(path, torn)
        assert missing_units(units, store) == units, path
    again = build_dataset(DatasetSpec(class_names=("sun",), seed=1), source, store, "again")
    assert again.summary["num_drawings"] == manifest.summary["num_drawings"]


def test_doodles_and_a_copy_of_their_files_are_two_datasets(tmp_path):
    doodles = open_source(
        "doodles", ["sun"], tmp_path / "cache", SourceOptions(doodles_per_class=30)
    )
    folder = str(Path(doodles.files[0].url).parent)
    copied = open_source(folder, ["sun"], tmp_path / "cache")
    assert doodles.files[0].digest == copied.files[0].digest
    spec = DatasetSpec(class_names=("sun",))
    assert dataset_digest(spec, doodles) != dataset_digest(spec, copied)
