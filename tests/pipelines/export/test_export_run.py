"""Same bytes whatever the workers, nothing made twice, manifest last, wherever it goes."""

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pipelines.export.run as run
from pipelines.drawings.parquet import open_shard, read_images
from pipelines.export.formats.registry import export_format
from pipelines.export.job import Extras, Record, make_job, record_path
from pipelines.export.run import (
    ExportOptions,
    ExportWork,
    begin,
    export_dataset,
    finish,
    make_share,
)
from pipelines.export.spec import FORMATS, ExportSpec
from pipelines.export.target import Target
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import FileEntry
from pipelines.store.scratch import read_record

ALL = ExportSpec(formats=FORMATS, rows_per_file=4)


def contents(root: Path) -> dict[str, bytes]:
    found = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(store, dataset, tmp_path):
    places = [str(tmp_path / "one"), str(tmp_path / "two")]
    for workers, out in enumerate(places, start=1):
        options = ExportOptions(out=out, workers=workers)
        export_dataset(dataset.manifest, store, ALL, name="small", options=options)
    one, two = (contents(Path(place)) for place in places)
    assert one == two
    assert len(one) > 40


def test_the_same_export_is_answered_at_once(store, dataset, monkeypatch):
    first = export_dataset(dataset.manifest, store, ALL, name="small")
    monkeypatch.setattr(run, "run_watched", pytest.fail)
    assert export_dataset(dataset.manifest, store, ALL, name="small") == first
    assert store.latest("exports", "small") == first
    assert store.damaged(first) == []


@pytest.mark.slow
def test_parts_of_several_machines_are_joined_by_the_export(store, dataset, monkeypatch):
    whole = export_dataset(dataset.manifest, store, ALL, name="whole")
    parts = begin(dataset.manifest, store, ALL, name="parts")
    files = [make_share(parts, slice(part, None, 3))[0] for part in (2, 0)]
    assert min(files) > 0
    assert store.latest("exports", "parts") is None
    made = []
    for writer in map(export_format, FORMATS):
        real = writer.make
        monkeypatch.setattr(
            writer,
            "make",
            lambda unit, *rest, real=real: made.append(unit) or real(unit, *rest),
        )
    joined = export_dataset(dataset.manifest, store, ALL, name="parts")
    first_stage = [unit for unit in made if unit.stage == 0]
    assert 0 < len(first_stage) < sum(files)
    assert {e.sha256 for e in joined.files if e.rows} == {e.sha256 for e in whole.files if e.rows}
    # There is nothing left to do, and no such part.
    assert make_share(parts, slice(1, None, 3)) == (0, 0)
    with pytest.raises(ValueError, match="counted from 0"):
        make_share(parts, slice(3, None, 3))


@pytest.mark.slow
def test_whoever_makes_the_last_files_joins_and_publishes(store, dataset):
    whole = export_dataset(dataset.manifest, store, ALL, name="whole")
    small = begin(dataset.manifest, store, ALL, name="small")
    with pytest.raises(ValueError, match="the export has the files 0 to ") as caught:
        make_share(small, slice(0, 10_001))
    last = int(str(caught.value).rsplit(" ", 1)[-1])
    ranges = [(5, last), (0, 1)]  # the machine of files 2 to 4 was lost
    for first, stop in ranges:
        files, missing = make_share(small, slice(first, stop + 1))
        assert files == stop + 1 - first
    assert missing == 3
    assert make_share(small, slice(2, 5)) == (3, 0)
    assert store.latest("exports", "small") is None
    export = finish(small)
    assert store.latest("exports", "small") == export
    assert {e.sha256 for e in export.files if e.rows} == {e.sha256 for e in whole.files if e.rows}
    assert make_share(small, slice(0, 2)) == (0, 0)


@pytest.mark.slow
def test_who_finds_its_records_swept_takes_the_export_that_is_there(store, dataset, monkeypatch):
    real, others = run.run_stage, []

    def overtaken(*arguments):
        real(*arguments)
        if not others:  # another process does all the rest, and sweeps
            others.append(None)
            others[0] = export_dataset(dataset.manifest, store, ALL, name="small")

    monkeypatch.setattr(run, "run_stage", overtaken)
    export = export_dataset(dataset.manifest, store, ALL, name="small")
    assert others == [export]


def test_order_of_formats_is_no_other_export():
    assert ExportSpec(formats=("png", "hf", "png")) == ExportSpec(formats=("hf", "png"))


@pytest.mark.slow
def test_an_interrupted_export_makes_only_what_is_missing(store, dataset, monkeypatch):
    whole = export_dataset(dataset.manifest, store, ALL, name="whole")
    job = make_job(dataset.manifest, store, ALL, name="small")
    target = Target(store, f"exports/small/{job.digest}")
    work = ExportWork(job, "", target.prefix)
    units = export_format("webdataset").units(job, 0, ())
    for unit in units[:3]:
        assert work(unit, store) == {"made_units": 1}

    made = []
    real = export_format("webdataset").make
    monkeypatch.setattr(
        export_format("webdataset"),
        "make",
        lambda unit, *rest: made.append(unit.name) or real(unit, *rest),
    )
    export = export_dataset(dataset.manifest, store, ALL, name="small")
    assert sorted(made) == sorted(unit.name for unit in units[3:])
    without_names = [(e.path.replace("whole", "small"), e.bytes) for e in whole.files]
    assert {path for path, _ in without_names} == {entry.path for entry in export.files}


KILLED_SPEC = ExportSpec(formats=("webdataset", "numpy_bitmap", "png"), rows_per_file=10)
KILLED = f"""
import sys
from pipelines.export.run import ExportOptions, export_dataset
from pipelines.export.spec import ExportSpec
from pipelines.store.artifacts import open_store

store = open_store(sys.argv[1])
spec = {KILLED_SPEC!r}
options = ExportOptions(out=sys.argv[2])
export_dataset(store.latest("datasets", "small"), store, spec, name="small", options=options)
"""


@pytest.mark.slow
def test_a_killed_export_goes_on_to_the_same_bytes(store, make_dataset, tmp_path):
    drawn = make_dataset(store, {"train": (600,)})
    export = [sys.executable, "-W", "ignore", "-c", KILLED, store.url]
    started = subprocess.Popen([*export, str(tmp_path / "killed")])
    while len(list((tmp_path / "killed").glob("attempts/exports/*/*/*"))) < 20:
        assert started.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    started.kill()
    started.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    for name in ("killed", "whole"):
        options = ExportOptions(out=str(tmp_path / name))
        export_dataset(drawn.manifest, store, KILLED_SPEC, name="small", options=options)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_made_again(store, dataset, name):
    job = make_job(dataset.manifest, store, ExportSpec(formats=(name,)), name="small")
    target = Target(store, f"exports/small/{job.digest}")
    work = ExportWork(job, "", target.prefix)
    unit = export_format(name).units(job, 0, ())[0]
    work(unit, store)
    assert work(unit, store) == {"kept_units": 1}
    record = read_record(store, record_path(job, unit), Record)
    path = [*record.files, *record.scratch_files][-1].path
    place = f"{job.scratch}/{path}" if record.scratch_files else target.path(path)
    content = store.get(place)
    store.put(place, b"x" + content[1:])  # the size is right, the content is not
    assert work(unit, store)["made_units"] == 1
    assert store.get(place) == content


@pytest.mark.parametrize("max_listed", [10, 1000])
def test_a_missing_picture_is_made_again(store, dataset, monkeypatch, max_listed):
    monkeypatch.setattr("pipelines.export.formats.png_tree.MAX_LISTED", max_listed)
    job = make_job(dataset.manifest, store, ExportSpec(formats=("png",)), name="small")
    target = Target(store, f"exports/small/{job.digest}")
    work = ExportWork(job, "", target.prefix)
    unit = export_format("png").units(job, 0, ())[0]
    work(unit, store)
    picture = min(item.path for item in store.objects(target.path("png/train")))
    store.delete(picture)
    assert work(unit, store) == {"made_units": 1}
    assert store.size(picture) == 880


def test_only_kept_rows_are_exported(store, dataset):
    masks, kept = {}, {split: [] for split in dataset.images}
    for index, entry in enumerate(dataset.manifest.files):
        mask = np.arange(entry.rows or 0) % 2 == 1
        buffer = io.BytesIO()
        np.save(buffer, mask)
        store.put(f"attempts/masks/{index}.npy", buffer.getvalue())
        masks[entry.path] = FileEntry(
            path=f"attempts/masks/{index}.npy",
            bytes=len(buffer.getvalue()),
            sha256=store.sha256(f"attempts/masks/{index}.npy"),
            rows=int(mask.sum()),
        )
        kept[entry.split].append(mask)
    spec = ExportSpec(formats=("hf", "numpy_bitmap", "webdataset"), filters={"min_ink": 1})
    export = export_dataset(dataset.manifest, store, spec, name="small", extras=Extras(kept=masks))
    wanted = {split: np.concatenate(parts) for split, parts in kept.items()}
    assert export.summary["splits"] == {split: mask.sum() for split, mask in wanted.items()}
    for split, mask in wanted.items():
        path = f"{export.prefix}/hf/data/{split}-00000-of-00001.parquet"
        table = open_shard(store.get(path)).read()
        assert np.array_equal(read_images(table["image"]), dataset.images[split][mask])
    total = sum(
        len(np.load(store.local_path(f"{export.prefix}/{entry.path}")))
        for entry in export.files
        if entry.path.endswith(".npy")
    )
    assert total == sum(mask.sum() for mask in wanted.values())


def test_a_failure_leaves_no_manifest_and_the_next_run_completes(store, dataset, monkeypatch):
    def fail(*_):
        raise OSError("disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(export_format("idx"), "make", fail)
        with pytest.raises(Exception, match="disk is full"):
            export_dataset(dataset.manifest, store, ALL, name="small")
        assert store.latest("exports", "small") is None
    export = export_dataset(dataset.manifest, store, ALL, name="small")
    assert store.damaged(export) == []
    assert list(store.objects("attempts/exports")) == []


def test_export_that_lost_its_name_gets_it_back(store, dataset):
    spec = ExportSpec(formats=("idx",))
    made = export_dataset(dataset.manifest, store, spec, name="small")
    for item in list(store.objects("refs/exports")):
        store.delete(item.path)
    assert store.latest("exports", "small") is None
    assert export_dataset(dataset.manifest, store, spec, name="small") == made
    assert store.latest("exports", "small") == made


def test_statement_of_a_machine_that_came_first_is_kept(store, dataset, monkeypatch):
    """It names the versions there; what a slower machine would write must not take its place."""
    spec = ExportSpec(formats=("idx",))
    made = export_dataset(dataset.manifest, store, spec, name="small")
    store.delete(f"{made.prefix}/manifest.json")
    monkeypatch.setattr("pipelines.export.run.provenance_json", lambda *_: b"of another version")
    again = export_dataset(dataset.manifest, store, spec, name="small")
    assert store.damaged(again) == []
    assert again.files == made.files


def test_a_store_in_memory_is_read_and_filled(make_dataset):
    store = open_store("memory://")
    drawn = make_dataset(store, {"train": (7, 3)}, names=("bee", "caf\u00e9", "a/b", "C++"))
    export = export_dataset(drawn.manifest, store, ALL, name="small")
    assert store.damaged(export) == []


def test_only_the_chosen_splits_are_exported(store, dataset):
    spec = ExportSpec(formats=("idx",), splits=("test",))
    export = export_dataset(dataset.manifest, store, spec, name="small")
    assert export.summary["splits"] == {"test": 5}
    spec = ExportSpec(formats=("idx",), splits=("tset",))
    with pytest.raises(ValueError, match="no split 'tset'; it has train, test"):
        export_dataset(dataset.manifest, store, spec, name="small")


def test_progress_ends_at_every_drawing_of_every_format(store, dataset):
    calls = []
    options = ExportOptions(progress=lambda *call: calls.append(call))
    spec = ExportSpec(formats=("idx", "numpy_bitmap"))
    export_dataset(dataset.manifest, store, spec, name="small", options=options)
    assert ("export", 48, 48) in [call[:3] for call in calls]
    assert ("join", 24, 24) in [call[:3] for call in calls]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_shard_that_does_not_match_its_manifest_stops_the_export(store, dataset, format_name):
    path = f"{dataset.manifest.prefix}/data/test-00000-of-00001.parquet"
    content = bytearray(store.get(path))
    content[100] ^= 1
    store.put(path, bytes(content))
    spec = ExportSpec(formats=(format_name,))
    with pytest.raises(Exception, match=r"test-00000-of-00001\.parquet is damaged"):
        export_dataset(dataset.manifest, store, spec, name="small")


def test_a_dataset_without_parquet_says_what_to_do(store, dataset):
    import dataclasses

    manifest = dataclasses.replace(dataset.manifest, files=())
    with pytest.raises(ValueError, match="formats=parquet"):
        export_dataset(manifest, store, ALL, name="small")


def test_formats_and_rows_are_checked():
    with pytest.raises(ValueError, match="'tfrecord' is not one of hf, tfds"):
        ExportSpec(formats=("tfrecord",))
    with pytest.raises(ValueError, match="at least one format"):
        ExportSpec(formats=())
    with pytest.raises(ValueError, match="rows_per_file"):
        ExportSpec(formats=("hf",), rows_per_file=0)
