"""The same bytes on every runner, after failures and retries, and in any order of the work."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from pipelines import beam
from pipelines.beam import WorkError, run_units, runner_flags
from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.sources.base import BadFileError
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import open_store
from pipelines.store.errors import EngineError
from pipelines.store.manifest import Manifest

CLASSES = ("bee", "sun")


@pytest.fixture
def source_dir(write_npy_files) -> Path:
    return write_npy_files(CLASSES, 200)


def build(source_dir: Path, store: str, **run) -> Manifest:
    source = open_source(str(source_dir), CLASSES, source_dir.parent / "cache")
    spec = DatasetSpec(class_names=CLASSES, rows_per_shard=100, formats=("parquet", "tfrecord"))
    return build_dataset(spec, source, open_store(str(source_dir.parent / store)), "x", **run)


def contents(manifest: Manifest) -> list[tuple[str, str]]:
    return [(entry.path, entry.sha256) for entry in manifest.files]


@dataclass(frozen=True)
class Count:
    """Puts an object a unit and counts it."""

    def __call__(self, unit, store):
        store.put(f"attempts/{unit}", b"done")
        return {"units": 1, "numbers": unit}


def test_units_are_done_and_counted(tmp_path):
    store = open_store(str(tmp_path))
    counters = run_units([1, 2, 3], Count(), store, label="Count")
    assert counters == {"units": 3, "numbers": 6}
    assert [item.path for item in store.objects("attempts")] == [f"attempts/{i}" for i in (1, 2, 3)]


@dataclass(frozen=True)
class Fail:
    """Raises what it is given the name of."""

    def __call__(self, unit, store):
        raise FAILURES[unit]


FAILURES = {
    "bad file": BadFileError("bee.npy:\n not a [[drawing]] in it"),
    "value": ValueError("no such column"),
    "missing": FileNotFoundError("bee.npy is gone"),
    "key": KeyError("wrong"),
    "disk": OSError("the disk\n is [[full]]"),
}
EXPECTED = [
    ("bad file", BadFileError, "bee.npy:\n not a [[drawing]] in it"),
    ("value", ValueError, "no such column"),
    ("missing", FileNotFoundError, "bee.npy is gone"),
    ("key", WorkError, "'wrong'"),
    ("disk", WorkError, "the disk\n is [[full]]"),
]


def assert_fails_alike(store, capfd, cases=EXPECTED, **run):
    for unit, kind, text in cases:
        with pytest.raises(kind) as caught:
            run_units([unit], Fail(), store, label="Fail", **run)
        assert (type(caught.value), str(caught.value)) == (kind, text)
        assert "in __call__" in caught.value.__notes__[0]  # where it happened, for --debug
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out


def test_a_failure_comes_with_its_own_message_and_no_traceback(tmp_path, capfd):
    assert_fails_alike(open_store(str(tmp_path)), capfd)


@pytest.mark.slow
def test_a_failure_in_another_process_is_the_same(tmp_path, capfd):
    assert_fails_alike(open_store(str(tmp_path)), capfd, EXPECTED[:1], workers=2)


def test_a_store_in_memory_serves_a_pipeline_in_this_process_only():
    store = open_store("memory://")
    run_units([7], Count(), store, label="Count")
    assert store.get("attempts/7") == b"done"
    with pytest.raises(ValueError, match="a memory:// store is in this process only"):
        run_units([7], Count(), store, label="Count", workers=2)


@pytest.mark.slow
def test_beam_leaves_root_logger_and_arguments_alone():
    code = (
        "import logging, sys; sys.argv = ['sketchmill', '--unknown-flag']; "
        "import pipelines.beam; print(logging.getLogger().handlers, sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] --unknown-flag\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("beam_args", "workers", "expected"),
    [
        ([], 1, ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]),
        (
            ["--runner=FlinkRunner", "--flink_master=x"],
            4,
            ["--runner=FlinkRunner", "--flink_master=x"],
        ),
        (["--runner", "PortableRunner"], 1, ["--runner", "PortableRunner"]),
    ],
)
def test_flags_are_passed_on_untouched(beam_args, workers, expected):
    assert runner_flags(beam_args, workers) == expected


def test_several_workers_are_processes():
    flags = runner_flags(["--project=p"], 3)
    assert flags[0] == "--runner=FnApiRunner"
    assert {"--direct_running_mode=multi_processing", "--direct_num_workers=3"} < set(flags)
    assert flags[-1] == "--project=p"


DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"
ADDRESS = "--dask_client_address=tcp://host:8786"


@pytest.mark.parametrize(
    ("flags", "cluster", "expected"),
    [
        ([], "tcp://host:8786", [DASK, ADDRESS, "--dask_partition_size=1"]),
        (["--runner=DaskRunner", ADDRESS], "", [DASK, ADDRESS, "--dask_partition_size=1"]),
        (["--dask_npartitions=4"], "tcp://host:8786", [DASK, ADDRESS, "--dask_npartitions=4"]),
        (
            ["--runner", "a.b.DaskRunner", "--dask_client_address", "tcp://[::1]:8786"],
            "",
            [DASK, "--dask_client_address", "tcp://[::1]:8786", "--dask_partition_size=1"],
        ),
    ],
)
def test_a_cluster_is_said_in_two_ways(flags, cluster, expected):
    assert runner_flags(flags, 1, cluster) == expected


@pytest.mark.parametrize(
    ("flags", "cluster", "message"),
    [
        (["--runner=DaskRunner"], "", "needs the address of a Dask scheduler"),
        (["--runner", "DaskRunner"], "tcp://host:8786", "name two engines"),
        (["--runner=FlinkRunner"], "tcp://host:8786", "name two engines"),
        ([], "host", "such as --cluster tcp://scheduler:8786, found 'host'"),
        ([], "tcp://host", "found 'tcp://host'"),
        ([], "tcp://me:secret@host:1", "needs the address"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused(flags, cluster, message):
    with pytest.raises(ValueError, match=message):
        runner_flags(flags, 1, cluster)


@pytest.mark.slow
def test_work_in_another_order_and_twice_gives_the_same_bytes(source_dir, monkeypatch):
    undisturbed = build(source_dir, "undisturbed")
    in_order = beam.run_units

    def backwards_and_twice(units, work, store, **options):
        return in_order([*reversed(units), *units], work, store, **options)

    monkeypatch.setattr("pipelines.beam.run_units", backwards_and_twice)
    assert contents(build(source_dir, "backwards")) == contents(undisturbed)


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(source_dir):
    one, two = build(source_dir, "one"), build(source_dir, "two", workers=2)
    assert contents(one) == contents(two)
    assert one.digest == two.digest


BUILD_SCRIPT = """
import sys, time
from pathlib import Path
from pipelines.dataset.shards import BuildWork
from pipelines.dataset.build import build_dataset
from pipelines.sources.registry import open_source
from pipelines.dataset.spec import DatasetSpec
from pipelines.store.artifacts import open_store

if __name__ == "__main__":
    root, pause = Path(sys.argv[1]), float(sys.argv[2])
    call = BuildWork.__call__
    def slow(self, unit, store):
        result = call(self, unit, store)
        time.sleep(pause)
        return result
    BuildWork.__call__ = slow
    source = open_source(str(root / "source"), ("bee", "sun"), root / "cache")
    spec = DatasetSpec(
        class_names=("bee", "sun"), rows_per_shard=100, formats=("parquet", "tfrecord")
    )
    build_dataset(spec, source, open_store(str(root / "killed")), "x")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def prism() -> str:
    """Return Beam's runner in Go; skip without it."""
    found = os.environ.get("PRISM") or shutil.which("prism")
    if found is None:
        version = metadata.version("apache-beam")
        pytest.skip(
            "no prism in PATH or PRISM: go install "
            f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{version}"
        )
    return found


@pytest.fixture(scope="module", params=["beam", "prism"])
def job_service(request, tmp_path_factory):
    """A real job service, Beam's own or Prism, and a worker pool: (job port, pool port)."""
    jobs, pool, web = free_port(), free_port(), free_port()
    python = [sys.executable, "-m"]
    services = {
        "beam": lambda: [*python, "apache_beam.runners.portability.local_job_service_main"],
        "prism": lambda: [prism(), f"--web_port={web}"],
    }
    commands = [
        [*services[request.param](), f"--job_port={jobs}"],
        [*python, "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"],
    ]
    root = str(Path(__file__).parents[2])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": root}
    processes = []
    with (tmp_path_factory.mktemp("beam") / "services.log").open("wb") as log:
        processes += [
            subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            for command in commands
        ]
    try:
        wait_for(jobs)
        wait_for(pool)
        yield jobs, pool
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_the_job_api_gives_the_bytes_of_the_local_runner(source_dir, job_service):
    jobs, pool = job_service
    flags = [
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{jobs}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{pool}",
    ]
    root = source_dir.parent
    script = root / "portable.py"
    script.write_text(
        BUILD_SCRIPT.replace('"killed"', '"portable"').replace(
            '"x")', f'"x", beam_args={json.dumps(flags)})'
        )
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(root), "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    local = build(source_dir, "local")
    portable = open_store(str(root / "portable")).latest("datasets", "x")
    assert contents(portable) == contents(local)
    assert portable.versions["runner"] == "PortableRunner"


@pytest.mark.slow
def test_a_failure_comes_through_the_job_api_in_its_own_words(source_dir, job_service):
    jobs, pool = job_service
    flags = [
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{jobs}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{pool}",
    ]
    script = source_dir.parent / "fails.py"
    script.write_text(
        "import sys\n"
        "from pipelines.beam import run_units\n"
        "from pipelines.dataset.scan import ScanWork\n"
        "from pipelines.store.artifacts import open_store\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        run_units(['x'], ScanWork(image_size=28), open_store(sys.argv[1]),"
        f" label='Scan', beam_args={flags})\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(source_dir.parent / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout == "WorkError 'str' object has no attribute 'file'\n"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_worker_pool_that_is_not_there_is_named(source_dir, job_service):
    jobs, _ = job_service
    pool = f"localhost:{free_port()}"
    flags = [
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{jobs}",
        "--environment_type=EXTERNAL",
        f"--environment_config={pool}",
    ]
    store = open_store(str(source_dir.parent / "store"))
    with pytest.raises(EngineError) as caught:
        run_units([1], Count(), store, label="Count", beam_args=flags)
    said = f"the job at localhost:{jobs} failed (its worker pool is to be at {pool}): "
    assert str(caught.value).startswith(said)
    assert "Traceback" not in str(caught.value)
