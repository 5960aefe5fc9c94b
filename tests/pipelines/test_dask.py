"""A real Dask cluster: the local bytes, errors in our words, and anything may be killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ceph import BUCKET, free_ports
from dask_cluster import ROOT, Cluster, cluster, kill

from flows.cli import run_command_line
from pipelines.beam import run_units
from pipelines.dataset.scan import ScanUnit, ScanWork
from pipelines.engines import dask
from pipelines.sources.base import SourceFile
from pipelines.store.artifacts import open_store

pytestmark = pytest.mark.slow

SLOW_SEC = 0.2


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """A scheduler and two workers."""
    with cluster(tmp_path_factory.mktemp("dask") / "fast") as made:
        yield made


@pytest.fixture
def slow(tmp_path):
    """A cluster whose workers take their time for a shard."""
    with cluster(tmp_path / "slow", slow_sec=SLOW_SEC) as made:
        yield made


@pytest.fixture
def source(write_npy_files, monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return write_npy_files(("bee", "sun"), 200)


BUILD = ["build", "--source", "source", "--classes", "all", "--rows-per-shard", "30", "--json"]
FORMATS = "hf,idx,webdataset,numpy_bitmap,png"


def run(capsys, *command: str) -> tuple[int, str, str]:
    code = run_command_line([*command, "--quiet"])
    said = capsys.readouterr()
    return code, said.out, said.err


def built(store: str) -> tuple[str, dict[str, str]]:
    """Return the digest of the dataset and the hashes of its files."""
    manifest = open_store(store).latest("datasets", "source")
    return manifest.digest, {entry.path: entry.sha256 for entry in manifest.files}


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of an export's files; the statement names the engine."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in ("manifest.json", "provenance.json")
        and path.suffix != ".toml"
    }


def test_dataset_and_exports_have_the_local_bytes(fast, source, capsys, monkeypatch):
    assert run(capsys, *BUILD, "--store", "local")[0] == 0
    flags = ["--beam=--runner=DaskRunner", f"--beam=--dask_client_address={fast.address}"]
    assert run(capsys, *BUILD, "--store", "flags", *flags)[0] == 0
    monkeypatch.setenv("SKETCHMILL_CLUSTER", fast.address)
    assert run(capsys, *BUILD, "--store", "short")[0] == 0
    assert built("short") == built("flags") == built("local")
    versions = open_store("short").latest("datasets", "source").versions
    assert versions["runner"] == "DaskRunner"
    export = ["export", "source", "--format", FORMATS, "--store", "local", "--json"]
    assert run(capsys, *export, "--out", "exported-by-dask")[0] == 0
    monkeypatch.delenv("SKETCHMILL_CLUSTER")
    assert run(capsys, *export, "--out", "exported-here")[0] == 0
    here = files(Path("exported-here"))
    assert len(here) > 400
    assert files(Path("exported-by-dask")) == here


def test_damaged_file_is_told_of_in_the_same_words(fast, source, capsys):
    whole = (source / "bee.npy").read_bytes()
    (source / "bee.npy").write_bytes(whole[:-1000])
    assert (
        run(capsys, *BUILD, "--store", "local")[2:]
        == (run(capsys, *BUILD, "--store", "s", "--cluster", fast.address)[2:])
    )
    assert run(capsys, *BUILD, "--store", "s", "--cluster", fast.address)[0] == 2


def test_what_a_worker_raises_comes_in_its_own_words(fast, source):
    file = SourceFile(
        url=str(source / "gone.npy"),
        format="npy",
        class_name="bee",
        rows=9,
        bytes=9 * 784 + 80,
        digest="sha256:0",
        layout={"offset": 80, "side": 28, "dtype": "|u1", "repair": ""},
        is_direct=True,
    )
    unit = ScanUnit(file=file, start=0, stop=9, path="attempts/x", pixels_path=None)
    found = []
    for given, cluster_address in ((unit, ""), (unit, fast.address), ("x", fast.address)):
        with pytest.raises((OSError, RuntimeError)) as caught:
            run_units(
                [given],
                ScanWork(image_size=28),
                open_store("store"),
                label="Scan",
                cluster=cluster_address,
            )
        found.append((type(caught.value).__name__, str(caught.value)))
    assert found[0] == found[1]
    assert found[0][0] == "FileNotFoundError"
    assert found[2] == ("WorkError", "'str' object has no attribute 'file'")


def test_workers_that_lack_something_are_named(fast, source, capsys, monkeypatch, tmp_path):
    place = open_store("store")
    gone = str(tmp_path / "gone.npy")
    monkeypatch.setattr(dask, "file_size", lambda _: 10)
    reports = dask.ask_workers(fast.address, [], place, [gone])
    expected = f"lacks a source file of 10 bytes, {gone}: it is not there"
    assert [report.lacks for report in reports] == [(expected,)] * 2
    assert list(place.objects("attempts")) == []

    elsewhere = open_store("elsewhere")
    place.url = elsewhere.url
    (report, _) = dask.ask_workers(fast.address, [], place, [])
    assert f"{elsewhere.url} is not the store of that name here" in report.lacks[0]

    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")  # of this process
    with pytest.raises(dask.EngineError) as caught:
        dask.check_workers(fast.address, [], open_store("store"), [])
    assert str(caught.value).startswith(f"2 of 2 workers of {fast.address} cannot do this work: ")
    assert f"{report.address} has python 3.{sys.version_info[1]}, here it is 3.9" in str(
        caught.value
    )


def test_doctor_asks_every_worker(fast, capsys, tmp_path):
    command = ["doctor", "--store", str(tmp_path / "store"), "--cluster", fast.address]
    code, out, err = run(capsys, *command)
    assert code == 0, err
    assert out.count("ok    worker tcp://127.0.0.1:") == 2
    assert out.count("1 thread, ") == out.count("reaches the store") == 2
    code, out, _ = run(capsys, *command, "--dry-run")
    assert out.count("ok    worker") == 2
    assert "reaches the store" not in out


def test_no_scheduler_is_an_error_that_names_the_address(source, capsys, monkeypatch):
    monkeypatch.setattr(dask, "CONNECT_SEC", 1.0)
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    code, _, err = run(capsys, *BUILD, "--store", "store", "--cluster", address)
    assert code == 1
    assert f"no Dask scheduler answers at {address} within 1 s: start one" in err
    code, out, err = run(capsys, "doctor", "--store", "store", "--cluster", address)
    assert code == 1
    assert f"no Dask scheduler answers at {address}" in out


def test_worker_without_sketchmill_is_named(source, capsys, tmp_path):
    absent = tmp_path / "path" / "pipelines" / "__init__.py"
    absent.parent.mkdir(parents=True)
    absent.write_text("raise ModuleNotFoundError('there is none here', name='pipelines')")
    made = Cluster(tmp_path / "cluster")
    try:
        made.add_worker(PYTHONPATH=str(tmp_path / "path"))
        made.wait(1)
        code, _, err = run(capsys, *BUILD, "--store", "store", "--cluster", made.address)
    finally:
        made.stop()
    assert code == 1
    assert f"1 of 1 workers of {made.address} cannot do this work: tcp://127.0.0.1:" in err
    assert "has no sketchmill (ModuleNotFoundError('there is none here'))" in err


def test_scheduler_without_workers_is_an_error(source, capsys, tmp_path):
    with cluster(tmp_path / "empty", workers=0) as made:
        code, _, err = run(capsys, *BUILD, "--store", "store", "--cluster", made.address)
    assert code == 1
    assert f"the scheduler at {made.address} has no worker: start some" in err


def records() -> int:
    return len(list(Path("store/attempts/shards").rglob("*.json")))


def when_at_work(act: Callable[[], object]) -> threading.Thread:
    """Act as soon as the third shard is there."""

    def wait() -> None:
        while records() < 3:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_worker_and_nanny_that_are_killed_change_nothing(slow, source, capsys):
    acting = when_at_work(lambda: kill(slow.workers[0]))
    code, _, err = run(capsys, *BUILD, "--store", "store", "--cluster", slow.address)
    assert (code, err) == (0, "")
    assert not acting.is_alive()
    assert run(capsys, *BUILD, "--store", "local")[0] == 0
    assert built("store") == built("local")


def test_scheduler_that_is_killed_is_named_and_another_cluster_goes_on(slow, fast, source, capsys):
    killed = []
    when_at_work(lambda: (kill(slow.scheduler), killed.append(time.monotonic())))
    code, _, err = run(capsys, *BUILD, "--store", "store", "--cluster", slow.address)
    assert time.monotonic() - killed[0] < 60
    assert code == 1
    assert f"the Dask scheduler at {slow.address} was lost: " in err
    assert open_store("store").latest("datasets", "source") is None
    assert 3 <= records() < 14
    assert run(capsys, *BUILD, "--store", "store", "--cluster", fast.address)[0] == 0
    assert run(capsys, *BUILD, "--store", "local")[0] == 0
    assert built("store") == built("local")


def test_workers_that_are_all_lost_are_told_of(slow, source, capsys, monkeypatch):
    monkeypatch.setattr(dask, "LONELY_SEC", 1.0)
    when_at_work(lambda: [kill(each) for each in slow.workers])
    code, _, err = run(capsys, *BUILD, "--store", "store", "--cluster", slow.address)
    assert code == 1
    assert f"the scheduler at {slow.address} has had no worker for 1 s" in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_submitter_that_ends_leaves_no_work_and_goes_on(slow, source, capsys, number):
    command = [sys.executable, "-c", "from flows.cli import main; main()", *BUILD]
    command += ["--store", "store", "--cluster", slow.address, "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, env=environment)
    when_at_work(lambda: started.send_signal(number)).join(60)
    assert started.wait(30) == (130 if number == signal.SIGINT else -number)
    deadline = time.monotonic() + 30
    while slow.tasks():
        assert time.monotonic() < deadline, "the scheduler still has tasks"
        time.sleep(0.2)
    assert records() < 14
    assert run(capsys, *BUILD, "--store", "store", "--cluster", slow.address)[0] == 0
    assert run(capsys, *BUILD, "--store", "local")[0] == 0
    assert built("store") == built("local")


def test_store_on_s3_and_a_worker_without_its_credentials(s3_server, source, capsys, tmp_path):
    store = f"s3://{BUCKET}/{tmp_path.name}"
    made = Cluster(tmp_path / "cluster")
    try:
        made.add_worker()
        made.add_worker(AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="wrong")
        made.wait(2)
        code, _, err = run(capsys, *BUILD, "--store", store, "--cluster", made.address)
        assert code == 1
        assert f"1 of 2 workers of {made.address} cannot do this work: tcp://127.0.0.1:" in err
        assert "does not reach the store" in err
        kill(made.workers[1])
        made.wait(1)
        code, out, err = run(capsys, *BUILD, "--store", store, "--cluster", made.address)
        assert (code, err) == (0, "")
    finally:
        made.stop()
    assert run(capsys, *BUILD, "--store", "local")[0] == 0
    assert built(store) == built("local")
    assert json.loads(out)["dataset"] == built("local")[0]


def test_samples_and_quotas_have_the_local_bytes(fast, source, capsys):
    """Portable arithmetic: the same on every CPU, so on every worker."""
    shipped = ["--model", "shipped:tiny-20", "--store", "store", "--json"]
    draw = ["sample", *shipped, "--classes", "bee,sun", "--samples-per-class", "5"]
    draw += ["--rows-per-shard", "3", "--arithmetic", "portable"]
    assert run(capsys, *draw, "--name", "here")[0] == 0
    code, out, err = run(capsys, *draw, "--name", "there", "--cluster", fast.address)
    assert code == 0, err
    here, there = (open_store("store").latest("samples", name) for name in ("here", "there"))
    assert here.digest == there.digest == json.loads(out)["samples"]
    shards = [
        {e.path: e.sha256 for e in made.files if e.path.endswith(".parquet")}
        for made in (here, there)
    ]
    assert len(shards[0]) == 4
    assert shards[0] == shards[1]
    code, _, err = run(capsys, *draw[:-1], "torch", "--cluster", fast.address, "--name", "torch")
    assert code == 0, err
    assert open_store("store").latest("samples", "torch").summary["num_drawings"] == 10
