"""Engines that lose units, do them twice or in two places, do not answer, or lose a process."""

import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import pytest

from flows.cli import run_command_line
from pipelines.beam import run_units
from pipelines.engines import job_service
from pipelines.engines.graph import check_one_branch
from pipelines.processes.guard import descendants
from pipelines.store.artifacts import open_store
from pipelines.store.errors import EngineError, FinalError

# Runners of Beam that are not to be trusted: units are dropped, done twice, done side by side.
CARELESS = """
import os
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState


class Graph(PipelineVisitor):
    def enter_composite_transform(self, node):
        if isinstance(node.transform, beam.Create):
            self.units = list(node.transform.values)

    def visit_transform(self, node):
        if isinstance(node.transform, beam.ParDo):
            self.work = node.transform.fn


class Careless(PipelineRunner):
    def run(self, pipeline, options=None):
        graph = Graph()
        pipeline.visit(graph)
        graph.work.setup()
        self.do(graph.units, graph.work.process)
        return Done(PipelineState.DONE)

    run_pipeline = run


class Done(PipelineResult):
    def wait_until_finish(self, duration=None):
        return PipelineState.DONE

    def metrics(self):
        raise NotImplementedError


class Drops(Careless):
    def do(self, units, process):
        kinds = [type(unit).__name__ for unit in units]
        print("units", len(units), kinds[0])
        for unit in units:
            if os.environ["DROPS"] not in (kinds[0], kinds[0] + str(units.index(unit))):
                process(unit)


class Doubles(Careless):
    def do(self, units, process):
        for unit in [*units, *reversed(units)]:
            process(unit)


class TwoPlaces(Careless):
    def do(self, units, process):
        with ThreadPoolExecutor(2) as places:
            list(places.map(lambda unit: process(unit), [u for unit in units for u in (unit, unit)]))
"""


@pytest.fixture
def careless(tmp_path, monkeypatch):
    folder = tmp_path / "runners"
    folder.mkdir()
    (folder / "careless.py").write_text(CARELESS)
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("careless", None)


def build(capsys, store: str, *options: str) -> tuple[int, str, str]:
    command = ["build", "--source", "source", "--classes", "all", "--rows-per-shard", "100"]
    code = run_command_line([*command, "--store", store, "--quiet", "--json", *options])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def source(write_npy_files, monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    return write_npy_files(("bee", "sun"), 200)


def contents(store: str) -> dict[str, str]:
    manifest = open_store(store).latest("datasets", "source")
    return {entry.path: entry.sha256 for entry in manifest.files}


@pytest.mark.parametrize(
    ("drops", "stage", "lost", "again"),
    [
        ("ScanUnit1", "scan", "1 of 2", "units 1 ScanUnit"),
        ("ShardUnit", "build", "6 of 6", "units 7 ShardUnit"),  # and one that only counts
    ],
    ids=["one", "all"],
)
def test_units_that_an_engine_drops_are_named_and_made_by_the_same_command(
    drops, stage, lost, again, source, careless, capsys, monkeypatch
):
    runner = "--beam=--runner=careless.Drops"
    monkeypatch.setenv("DROPS", drops)
    code, out, err = build(capsys, "store", runner)
    assert code == 1
    assert f"careless.Drops said that all is done and dropped {lost} units of {stage} (" in err
    assert "the same command makes only these" in err
    assert open_store("store").latest("datasets", "source") is None
    monkeypatch.setenv("DROPS", "nothing")
    code, out, err = build(capsys, "store", runner)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == again
    assert build(capsys, "local")[0] == 0
    assert contents("store") == contents("local")


@pytest.mark.parametrize("runner", ["Doubles", "TwoPlaces"])
def test_units_that_are_done_twice_or_in_two_places_at_once_are_the_same(
    runner, source, careless, capsys
):
    code, _, err = build(capsys, "store", f"--beam=--runner=careless.{runner}")
    assert (code, err) == (0, "")
    assert build(capsys, "local")[0] == 0
    assert contents("store") == contents("local")


def test_export_whose_engine_drops_a_file_publishes_nothing(source, careless, capsys, monkeypatch):
    assert build(capsys, "store")[0] == 0
    export = ["export", "source", "--format", "hf,idx", "--store", "store", "--quiet", "--json"]
    runner = "--beam=--runner=careless.Drops"
    monkeypatch.setenv("DROPS", "Unit1")
    assert run_command_line([*export, runner]) == 1
    assert "dropped 1 of " in capsys.readouterr().err
    assert open_store("store").latest("exports", "source") is None
    monkeypatch.setenv("DROPS", "nothing")
    assert run_command_line([*export, runner]) == 0
    assert run_command_line([*export, "--name", "local"]) == 0
    ours, local = (open_store("store").latest("exports", each) for each in ("source", "local"))
    assert drawn(ours) == drawn(local)


def drawn(manifest) -> dict[str, str]:
    """Return the hashes of an export's files of drawings; the others have its name in them."""
    found = {entry.path: entry.sha256 for entry in manifest.files}
    return {path: digest for path, digest in found.items() if path.endswith((".parquet", "ubyte"))}


class Last(beam.DoFn):
    def process(self, element):
        yield element

    def finish_bundle(self):
        yield 1


def twice(begun):
    begun | "one" >> beam.Map(str)
    begun | "two" >> beam.Map(str)


def beside(begun):
    begun | beam.Map(lambda x, y: x, beam.pvalue.AsList(begun))


def two_beginnings(begun):
    begun | beam.Map(str)
    begun.pipeline | "other" >> beam.Create([1])


GRAPHS = {
    "read twice": twice,
    "side inputs": beside,
    "2 ends": two_beginnings,
    "tagged outputs": lambda begun: begun | beam.Map(str).with_outputs("odd"),
    "when a bundle ends": lambda begun: begun | beam.ParDo(Last()),
    "2 inputs": lambda begun: (begun, begun.pipeline | "x" >> beam.Create([2])) | beam.Flatten(),
}


def graph(add) -> beam.Pipeline:
    pipeline = beam.Pipeline()
    add(pipeline | beam.Create([1, 2], reshuffle=False) | beam.Reshuffle())
    return pipeline


@pytest.mark.parametrize("problem", GRAPHS)
def test_a_graph_of_which_dask_would_lose_some_is_refused(problem):
    with pytest.raises(FinalError, match=f"would lose some of it: .*{problem}"):
        check_one_branch(graph(GRAPHS[problem]))


def test_a_graph_of_one_branch_is_not_refused():
    check_one_branch(graph(lambda begun: begun | beam.ParDo(beam.DoFn())))


def test_a_job_endpoint_where_nobody_listens_is_named(source, capsys, monkeypatch):
    monkeypatch.setattr(job_service, "ENDPOINT_SEC", 1.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"localhost:{probe.getsockname()[1]}"
    began = time.monotonic()
    flags = ["--beam=--runner=PortableRunner", f"--beam=--job_endpoint={endpoint}"]
    code, _, err = build(capsys, "store", *flags)
    assert code == 1
    assert f"no job service answers at {endpoint} (--job_endpoint) within 1 s: start one" in err
    assert time.monotonic() - began < 20


@dataclass(frozen=True)
class Wait:
    """Says where it is done, and takes its time."""

    def __call__(self, unit, store):
        store.put(f"attempts/{unit}", str(os.getpid()).encode())
        time.sleep(1.0)
        return {}


@pytest.mark.slow
def test_a_worker_process_that_is_killed_is_told_of(tmp_path):
    store = open_store(str(tmp_path))

    def kill() -> None:
        while not (found := list(store.objects("attempts"))):
            time.sleep(0.05)
        pid = int(store.get(found[0].path))
        assert pid in descendants(os.getpid())
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    with pytest.raises(EngineError, match=r"a worker process was killed.* goes on"):
        run_units(range(8), Wait(), store, label="Wait", workers=2)


def test_a_worker_of_another_version_is_told_of(tmp_path, monkeypatch):
    from pipelines import beam as ours

    work = ours.DoWork(Wait(), str(tmp_path), {"python": "3.11", "sketchmill": "0.0.9"})
    with pytest.raises(ours.UnitError) as caught:
        work.setup()
    failure = ours.unpack_failure(caught.value)
    assert "a worker has " in str(failure)
    assert "this machine python 3.11, sketchmill 0.0.9" in str(failure)
