"""An export to a place of the user's: what is there already, and what must not be there."""

import os
import subprocess
import sys

import pytest

import pipelines.export.run as run
from pipelines.export.job import make_job
from pipelines.export.run import ExportOptions, export_dataset
from pipelines.export.spec import FORMATS, ExportSpec
from pipelines.export.target import _PLACE as PLACE
from pipelines.export.target import Target
from pipelines.store.artifacts import StoreError, open_store

ALL = ExportSpec(formats=FORMATS, rows_per_file=4)


def test_two_places_have_records_of_their_own(store, dataset, tmp_path):
    spec = ExportSpec(formats=("idx",))
    scratches = set()
    for out in (None, str(tmp_path / "a"), str(tmp_path / "b")):
        options = ExportOptions(out=out)
        export = run.begin(dataset.manifest, store, spec, name="small", options=options)
        scratches.add((export.target.store.url, export.job.scratch))
    assert len(scratches) == 3


def test_what_is_kept_between_steps_is_where_the_files_go_and_not_left_there(
    store, dataset, tmp_path
):
    before = list(store.objects())
    spec = ExportSpec(formats=("numpy_bitmap",))  # of two stages
    options = ExportOptions(out=str(tmp_path / "out"))
    export_dataset(dataset.manifest, store, spec, name="small", options=options)
    assert not (tmp_path / "out" / "attempts").exists()
    assert list(store.objects()) == before


def test_pictures_beyond_a_manifest_go_elsewhere_with_checksums(
    store, dataset, monkeypatch, tmp_path
):
    monkeypatch.setattr("pipelines.export.formats.png_tree.MAX_LISTED", 10)
    spec = ExportSpec(formats=("png",))
    with pytest.raises(ValueError, match="do not fit a manifest"):
        export_dataset(dataset.manifest, store, spec, name="small")
    options = ExportOptions(out=str(tmp_path / "plain"))
    export = export_dataset(dataset.manifest, store, spec, name="small", options=options)
    sums = [entry.path for entry in export.files if entry.path.startswith("png/checksums/")]
    for path in sums:
        command = ["sha256sum", "--check", "--quiet", str(tmp_path / "plain" / path)]
        subprocess.run(command, cwd=tmp_path / "plain" / "png", check=True)
    listed = sum(len((tmp_path / "plain" / path).read_text().splitlines()) for path in sums)
    assert listed == 24


@pytest.mark.parametrize("fault", ["missing", "short"])
def test_a_picture_that_no_manifest_lists_is_missed_at_publish(
    store, dataset, monkeypatch, tmp_path, fault
):
    monkeypatch.setattr("pipelines.export.formats.png_tree.MAX_LISTED", 10)
    real = run.run_stage

    def spoil(*arguments):
        real(*arguments)
        picture = min((tmp_path / "plain/png/train").rglob("*.png"))
        picture.unlink() if fault == "missing" else picture.write_bytes(b"short")

    monkeypatch.setattr(run, "run_stage", spoil)
    options = ExportOptions(out=str(tmp_path / "plain"))
    with pytest.raises(StoreError, match=r"pictures|is not of 880 bytes"):
        export_dataset(
            dataset.manifest, store, ExportSpec(formats=("png",)), name="small", options=options
        )
    assert not (tmp_path / "plain" / "manifest.json").exists()


def test_out_holds_the_export_without_a_store(store, dataset, tmp_path):
    out = tmp_path / "plain"
    options = ExportOptions(out=str(out))
    export = export_dataset(dataset.manifest, store, ALL, name="small", options=options)
    files = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    listed = {entry.path for entry in export.files}
    assert set(files) == listed | {"manifest.json"}
    assert list(store.manifests("exports")) == []
    again = export_dataset(dataset.manifest, store, ALL, name="small", options=options)
    assert again == export


@pytest.mark.parametrize("in_store", [True, False])
def test_what_a_killed_writer_left_is_swept(store, dataset, tmp_path, in_store):
    spec = ExportSpec(formats=("idx",))
    job = make_job(dataset.manifest, store, spec, name="small")
    root = store.local_path(f"exports/small/{job.digest}") if in_store else tmp_path / "plain"
    (root / "idx").mkdir(parents=True)
    gone = f"{PLACE}.{2**22 + 1}"
    # As they are called now, and as they were before they had a random part.
    for writer in (f"{gone}.{'0' * 16}", gone, "00000000.1"):
        half = root / "idx" / f".train-images-idx3-ubyte.{writer}.part"
        half.write_bytes(b"half")
        os.utime(half, (0, 0))
    live = f".train-labels-idx1-ubyte.{PLACE}.1.0123456789abcdef.part"
    (root / "idx" / live).write_bytes(b"of a live writer")
    (root / "idx" / "notes.part").write_bytes(b"a person's own")
    options = ExportOptions(out=None if in_store else str(root))
    export_dataset(dataset.manifest, store, spec, name="small", options=options)
    left = sorted(path.name for path in root.rglob("*.part"))
    assert left == [live, "notes.part"]


def test_two_writers_of_one_file_with_one_pid_write_a_file_each(tmp_path):
    target = Target(open_store(str(tmp_path)), "")
    with target.open("idx/x") as one:
        with target.open("idx/x") as other:
            assert len(list(tmp_path.rglob("*.part"))) == 2
            one.write(b"one")
            other.write(b"the other")
        assert (tmp_path / "idx/x").read_bytes() == b"the other"
    assert (tmp_path / "idx/x").read_bytes() == b"one"


# Writes half a file, says so, and writes the rest when it is told to.
SLOW_WRITER = """
import os, sys
from pipelines.export.target import Target
from pipelines.store.artifacts import open_store
with Target(open_store(sys.argv[1]), "").open("idx/x") as sink:
    sink.write(b"half")
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    sink.write(b" and half")
"""
SWEEPER = """
import sys
from pipelines.export.target import Target
from pipelines.store.artifacts import open_store
Target(open_store(sys.argv[1]), "")._sweep()
"""
# As in a container: PIDs of its own, under the same host name.
CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
# The shell is PID 1 of it, the program PID 2.
AS_CHILD = ("sh", "-c", '"$0" -c "$1" "$2"; exit $?', sys.executable)


def test_a_writer_in_another_container_with_any_pid_is_not_taken_for_dead(tmp_path):
    if subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us make PID namespaces (unshare)")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*CONTAINER, *AS_CHILD, SLOW_WRITER, str(tmp_path)], **pipes) as writer:
        assert writer.stdout.readline() == "2\n"
        for command in ([*CONTAINER, sys.executable, "-c"], [sys.executable, "-c"]):
            subprocess.run([*command, SWEEPER, str(tmp_path)], check=True)
            assert len(list(tmp_path.rglob("*.part"))) == 1, command
        writer.communicate("\n", timeout=60)
    assert (tmp_path / "idx/x").read_bytes() == b"half and half"


def test_out_with_leftovers_of_another_export_is_refused(store, dataset, tmp_path):
    """Readers take every file of a folder: load_dataset would mix the two."""
    out = tmp_path / "plain"
    (out / "hf" / "data").mkdir(parents=True)
    (out / "hf" / "data" / "train-00000-of-00004.parquet").write_bytes(b"another's")
    (out / "hf" / "notes.txt").write_bytes(b"a person's own")
    (out / "provenance.json").write_bytes(b"another's")
    spec, options = ExportSpec(formats=("hf",)), ExportOptions(out=str(out))
    with pytest.raises(ValueError, match=r"has hf/data/train-00000-of-00004\.parquet, which is no"):
        export_dataset(dataset.manifest, store, spec, name="small", options=options)
    assert not (out / "manifest.json").exists()
    (out / "hf" / "data" / "train-00000-of-00004.parquet").unlink()
    assert export_dataset(dataset.manifest, store, spec, name="small", options=options)
    assert (out / "provenance.json").read_bytes() != b"another's"


def test_out_with_another_export_is_refused(store, dataset, tmp_path):
    options = ExportOptions(out=str(tmp_path / "plain"))
    spec = ExportSpec(formats=("idx",))
    export_dataset(dataset.manifest, store, spec, name="small", options=options)
    with pytest.raises(ValueError, match="another export"):
        export_dataset(dataset.manifest, store, ALL, name="small", options=options)


def test_a_link_out_of_the_target_is_refused(store, dataset, tmp_path):
    out, elsewhere = tmp_path / "plain", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    for name in ("idx", "png"):
        (out / name).symlink_to(elsewhere)
        with pytest.raises(Exception, match="symbolic link"):
            export_dataset(
                dataset.manifest,
                store,
                ExportSpec(formats=(name,)),
                name="small",
                options=ExportOptions(out=str(out)),
            )
    assert list(elsewhere.iterdir()) == []
