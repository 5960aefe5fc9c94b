"""The schedules on one machine: their times, what fails, what is missed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.cli import run_command_line
from flows.serve import Entry, read_entries, serve

FILE = Path(__file__).parents[2] / "infra" / "prefect.yaml"
VALUES = {"SKETCHMILL_STORE": "/s", "SKETCHMILL_SOURCE": "doodles", "SKETCHMILL_PRESET": "tiny"}
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
        self.next_time = Entry(name=name, entrypoint="", cron=cron, timezone="UTC").next_time
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
    assert entries["nightly"].next_time(START).astimezone(UTC).date() == START.date() + timedelta(1)
    assert entries["housekeeping"].next_time(START).astimezone(UTC).hour == 3


def test_every_time_of_a_year_is_later_than_the_last():
    entry = Entry(name="", entrypoint="", cron="30 * * * *", timezone="Europe/Zurich")
    moment, steps = datetime(2026, 1, 1, tzinfo=UTC), set()
    for _ in range(24 * 364):
        following = entry.next_time(moment).astimezone(UTC)
        steps.add((following - moment).total_seconds())
        moment = following
    assert min(steps) > 0
    assert max(steps) <= 7200


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


def test_times_that_were_missed_are_made_up_for_once():
    slow = Recorded("slow", "30 12 * * *", takes_hours=3.2)
    often = Recorded("often", "0 * * * *")
    run([slow, often], hours=5)
    assert [each.strftime("%H:%M") for each in often.runs] == ["15:42", "16:00", "17:00"]


def test_commands_refuse_what_cannot_work(capsys):
    assert run_command_line(["deploy", "--cpu", "1"]) == 2
    assert "waits there" in capsys.readouterr().err
    assert run_command_line(["deploy", "--class-list", "cats"]) == 2
    assert "NAME=FILE" in capsys.readouterr().err


def test_serve_says_what_comes_next(capsys, monkeypatch):
    monkeypatch.chdir(FILE.parents[1])
    assert run_command_line(["serve", "--dry-run", "--json"]) == 0
    assert "nightly" in capsys.readouterr().out
