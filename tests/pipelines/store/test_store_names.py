"""Names and links from the outside, and what reaches the disk before it is visible."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_cases import check_whole, content_of, make

from pipelines.store.artifacts import StoreError, open_store
from pipelines.store.manifest import FileEntry

HOSTILE = [
    "",
    "..",
    ".",
    "../escape",
    "a/../../escape",
    "a/./b",
    "/etc/passwd",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\\b",
    "C:/x",
    "%2e%2e/x",
    "a%2F..%2Fb",
    "%2Fetc",
    "a%5C..%5Cb",
    "a%00b",
    "e\u0301",
    "\u1100\u1161",
    "\u00e9" * 128,
    "a/\u2025/b",
    "a ",
    "a.",
    " a",
    "a#1",
    "x" * 256,
    "/".join(["x" * 200] * 6),
]


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_path_is_refused_by_every_operation(local_store, path):
    operations = (
        lambda: local_store.put(path, b"x"),
        lambda: local_store.put_chunks(path, [b"x"]),
        lambda: local_store.create(path, b"x"),
        lambda: local_store.get(path),
        lambda: list(local_store.chunks(path)),
        lambda: local_store.size(path),
        lambda: local_store.delete(path),
        lambda: local_store.list_dirs(path or ".."),
        lambda: list(local_store.objects(path or "..")),
    )
    for operation in operations:
        with pytest.raises(StoreError, match="not a path inside a store"):
            operation()
    assert list(local_store.local_path().iterdir()) == []


@pytest.mark.parametrize("name", ["..", "A", "cat sketches", "-x", "x" * 65, "", "a/b", "a\0"])
def test_artifact_names_are_slugs(local_store, name):
    with pytest.raises(ValueError, match="not allowed in a store"):
        local_store.add_ref("datasets", name, "0" * 64)
    with pytest.raises(ValueError, match="not allowed in a store"):
        local_store.find("datasets", name, "0" * 64)


@pytest.mark.parametrize("path", ["../../../escape", "/abs", "a\0", "x" * 300])
def test_manifest_with_a_hostile_file_name_is_not_published(local_store, path):
    manifest = make(local_store)
    entry = FileEntry(path=path, bytes=1, sha256="0" * 64)
    object.__setattr__(manifest, "files", (*manifest.files, entry))
    with pytest.raises(StoreError, match="not a path inside a store"):
        local_store.publish(manifest)


def test_link_out_of_the_root_is_refused(local_store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    root = local_store.local_path()
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    for path in ("folder/secret", "file", "folder/new"):
        for operation in (local_store.get, local_store.size, local_store.delete):
            with pytest.raises(StoreError, match="symbolic link"):
                operation(path)
        for write in (local_store.put, local_store.create):
            with pytest.raises(StoreError, match="symbolic link"):
                write(path, b"x")
    with pytest.raises(StoreError, match="symbolic link"):
        list(local_store.objects())
    assert [file.name for file in outside.iterdir()] == ["secret"]


def test_link_that_stays_inside_is_followed(local_store):
    local_store.put("data/a", b"a")
    (local_store.local_path() / "alias").symlink_to("data")
    assert local_store.get("alias/a") == b"a"


def test_manifest_and_its_files_are_on_disk_before_it_is_visible(local_store, monkeypatch):
    events = []
    fsync, link = os.fsync, Path.hardlink_to

    def recording_fsync(handle):
        events.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def recording_link(target, source):
        events.append(f"visible {target.name}")
        link(target, source)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "hardlink_to", recording_link)
    manifest = make(local_store)
    shown = events.index("visible manifest.json")
    before = events[:shown]
    assert {"README.md", "train-00000.parquet", "data", manifest.digest, "store"} <= set(before)
    assert before[-1].startswith("manifest.json#")
    assert manifest.digest in events[shown:]


@pytest.mark.parametrize("number", range(8))
def test_disk_that_fails_to_sync_shows_no_manifest(local_store, monkeypatch, number):
    fsync, calls = os.fsync, []

    def failing_fsync(handle):
        calls.append(handle)
        if len(calls) == number + 1:
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync)
        with pytest.raises(OSError, match="No space left"):
            make(local_store)
    assert list(local_store.manifests("datasets")) == []
    make(local_store)
    check_whole(local_store)


MAKER = """
import sys
sys.path.insert(0, {here!r})
from store_cases import make
from pipelines.store.artifacts import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for seed in range(30):
    make(store, spec={{"seed": seed}})
"""


@pytest.mark.slow
def test_killed_publishers_leave_a_whole_store_that_a_rerun_completes(local_store, tmp_path):
    code = MAKER.format(here=str(Path(__file__).parents[1]))
    for attempt in range(5):
        command = [sys.executable, "-c", code, local_store.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
            maker.stdout.readline()
            time.sleep(0.02 * 2**attempt)
            maker.send_signal(signal.SIGKILL)
        check_whole(local_store)
    subprocess.run([sys.executable, "-c", code, local_store.url], check=True, capture_output=True)
    check_whole(local_store)
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    for seed in range(30):
        make(undisturbed, spec={"seed": seed})
    stored, expected = content_of(local_store), content_of(undisturbed)
    refs = {path for path in stored if path.startswith("refs/")}
    assert {p: c for p, c in stored.items() if p not in refs}.items() <= expected.items()
    assert set(local_store.refs("datasets", "cats")) == set(undisturbed.refs("datasets", "cats"))
