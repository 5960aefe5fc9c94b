"""The schedules on one machine: their times, what fails, what is missed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from flows.cli import run_command_line
from flows.commands.deployments import FILE, _environment
from flows.deployments.schedules import next_time_of
from flows.deployments.serve import read_entries, serve
from pipelines.store.artifacts import open_store

VALUES = {
    "SKETCHMILL_STORE": "/s",
    "SKETCHMILL_SOURCE": "doodles",
    "SKETCHMILL_PRESET": "tiny",
    "SKETCHMILL_NIGHTLY": "17 2 * * *",
    "SKETCHMILL_HOUSEKEEPING": "47 5 * * *",
    "SKETCHMILL_TIMEZONE": "Europe/Zurich",
}
START = datetime(2026, 3, 28, 12, tzinfo=UTC)


class Stop(BaseException):
    pass


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self, hours: float) -> None:
        self.time, self.end = START, START + timedelta(hours=hours)

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 60
        self.time += timedelta(seconds=seconds)
        if self.time > self.end:
            raise Stop


def run(entries, hours: float) -> None:
    clock = Clock(hours)
    for entry in entries:
        entry.clock = clock
    with pytest.raises(Stop):
        serve(entries, now=clock.now, sleep=clock.sleep)


class Recorded:
    """An entry that notes when it runs, and takes its time."""

    def __init__(self, name: str, cron: str, *, takes_hours: float = 0, fails: bool = False):
        self.name, self.fails = name, fails
        self.takes = timedelta(hours=takes_hours)
        self.next_time = next_time_of({"cron": cron}, name)
        self.runs = []

    def run(self) -> None:
        self.runs.append(self.clock.now())
        self.clock.time += self.takes
        if self.fails:
            raise RuntimeError("no")


def test_file_schedules_the_chain_at_night_and_housekeeping_in_the_morning():
    entries = {entry.name: entry for entry in read_entries(FILE, VALUES)}
    assert sorted(entries) == ["housekeeping", "nightly"]
    assert entries["nightly"].parameters["chain"] == {
        "store": "/s",
        "source": "doodles",
        "preset": "tiny",
    }
    # The night in which summer time begins in Zurich: 02:17 does not exist.
    assert entries["nightly"].next_time(START) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert entries["housekeeping"].next_time(START).astimezone(UTC).hour == 3


def test_serving_ends_when_no_time_comes_any_more():
    once = Recorded("once", "0 13 * * *")
    clock = once.clock = Clock(hours=5)
    once.next_time = next_time_of(
        {"rrule": "DTSTART:20260328T130000\nRRULE:FREQ=DAILY;COUNT=1"}, ""
    )
    serve([once], now=clock.now, sleep=clock.sleep)
    assert [each.strftime("%H:%M") for each in once.runs] == ["13:00"]


def test_variable_that_is_not_set_is_named():
    with pytest.raises(ValueError, match="SKETCHMILL_STORE"):
        read_entries(FILE, {})


def test_entries_run_at_their_times_even_after_one_that_fails():
    often = Recorded("often", "30 * * * *", fails=True)
    seldom = Recorded("seldom", "0 15 * * *")
    run([often, seldom], hours=5)
    assert [each.strftime("%H:%M") for each in often.runs] == [
        "12:30",
        "13:30",
        "14:30",
        "15:30",
        "16:30",
    ]
    assert [each.strftime("%H:%M") for each in seldom.runs] == ["15:00"]


def test_deployments_of_the_same_name_all_run():
    early, late = Recorded("gpu", "0 13 * * *"), Recorded("gpu", "0 14 * * *")
    run([early, late], hours=5)
    assert [len(early.runs), len(late.runs)] == [1, 1]


def test_times_that_were_missed_are_made_up_for_once():
    slow = Recorded("slow", "30 12 * * *", takes_hours=3.2)
    often = Recorded("often", "0 * * * *")
    run([slow, often], hours=5)
    assert [each.strftime("%H:%M") for each in often.runs] == ["15:42", "16:00", "17:00"]


def test_commands_refuse_what_cannot_work(capsys):
    assert run_command_line(["deploy", "--cpu", "2"]) == 2
    assert "wait there" in capsys.readouterr().err
    assert run_command_line(["deploy", "--class-list", "cats"]) == 2
    assert "NAME=FILE" in capsys.readouterr().err


def test_workers_get_places_that_do_not_depend_on_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = _environment("store", "data/numpy_bitmap", "tiny")
    assert values["SKETCHMILL_STORE"] == str(tmp_path / "store")
    assert values["SKETCHMILL_SOURCE"] == str(tmp_path / "data" / "numpy_bitmap")
    values = _environment("s3://bucket/store", "quickdraw", "tiny")
    assert values["SKETCHMILL_STORE"] == "s3://bucket/store"
    assert values["SKETCHMILL_SOURCE"] == "quickdraw"


def test_serve_says_what_comes_next(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["serve", "--dry-run", "--json"]) == 0
    assert "nightly" in capsys.readouterr().out


def test_chains_run_for_the_class_lists_and_nothing_else_does(tmp_path):
    file = tmp_path / "pair.txt"
    file.write_text("sun\nbee\n")
    entries = {entry.name: entry for entry in read_entries(FILE, VALUES, {"pair": file})}
    assert entries["nightly"].flow_parameters()["class_lists"] == {"pair": ["sun", "bee"]}
    assert entries["housekeeping"].flow_parameters() == {"store": "/s"}
    file.write_text("sun\n")
    assert entries["nightly"].flow_parameters()["class_lists"] == {"pair": ["sun"]}
    file.write_text("sunn\n")
    with pytest.raises(ValueError, match="sunn"):
        read_entries(FILE, VALUES, {"pair": file})
    own = VALUES | {"SKETCHMILL_SOURCE": "/data/fashion"}  # which has classes of its own
    entries = {entry.name: entry for entry in read_entries(FILE, own, {"pair": file})}
    assert entries["nightly"].flow_parameters()["class_lists"] == {"pair": ["sunn"]}


MARK = "SKETCHMILL_TEST_SERVE"
PROGRAM = str(Path(sys.executable).with_name("sketchmill"))


class Service:
    """`sketchmill serve` in a process: the chain for one list of classes, every few seconds."""

    def __init__(self, folder: Path, budget_nimg: int) -> None:
        self.folder, self.mark = folder, f"{MARK}={folder}"
        small = ["num_filters=4", "num_hierarchies=1", "num_resnet=1", "batch_size=8"]
        chain = {
            "store": "{{ $SKETCHMILL_STORE }}",
            "max_per_class": 100,
            "samples_per_class": 2,
            "settings": [*small, f"budget_nimg={budget_nimg}"],
        }
        nightly = {
            "name": "nightly",
            "entrypoint": "flows.deployments.flows.rebuild",
            "schedules": [{"cron": "* * * * * */5"}],
            "parameters": {"chain": chain, "places": {"build": "build/cpu"}},
        }
        (folder / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [nightly]}))
        self.set_classes("sun", "lightning")

    def set_classes(self, *names: str) -> None:
        (self.folder / "pair.txt").write_text("".join(f"{name}\n" for name in names))

    @contextlib.contextmanager
    def running(self):
        command = [PROGRAM, "serve", "--store", str(self.folder / "store")]
        command += ["--file", str(self.folder / "prefect.yaml"), "--quiet"]
        command += ["--class-list", f"pair={self.folder / 'pair.txt'}"]
        environment = os.environ | {
            MARK: str(self.folder),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "SKETCHMILL_CACHE": str(self.folder / "cache"),
        }
        with (self.folder / "log").open("wb") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                yield started
            finally:
                for pid in self.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                started.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def processes(self, text: str = "") -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if self.mark.encode() in (entry / "environ").read_bytes() and text in line:
                    found.append(int(entry.name))
        return found

    def wait_for(self, condition, limit_sec: float) -> None:
        limit = time.monotonic() + limit_sec
        while not condition():
            assert time.monotonic() < limit, self.log()
            time.sleep(0.2)

    def stop(self, started: subprocess.Popen) -> None:
        os.kill(started.pid, signal.SIGTERM)
        assert started.wait(10) == 128 + signal.SIGTERM
        assert self.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_serve_runs_the_chain_says_so_and_leaves_no_process_while_it_trains(tmp_path):
    """It trains on a list of classes that has changed since."""
    service = Service(tmp_path, budget_nimg=8)
    with service.running() as started:
        service.wait_for(lambda: "nightly has completed" in service.log(), 400)
        report = open_store(str(tmp_path / "store")).latest("reports", "pair")
        service.set_classes("sun", "bee")
        service.wait_for(lambda: service.processes("model.training.train"), 400)
        service.stop(started)
    assert report.summary["class_names"] == ["sun", "lightning"]
    assert "nightly begins" in service.log()
    assert "Traceback" not in service.log()
