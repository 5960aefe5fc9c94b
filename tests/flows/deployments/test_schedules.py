"""Schedules as the file has them: when they come, what is refused."""

import json
from datetime import UTC, datetime

import pytest
import yaml

from flows.cli import run_command_line
from flows.deployments.schedules import next_time_of
from flows.deployments.serve import read_entries

ZURICH = {"timezone": "Europe/Zurich"}
DAILY = {"anchor_date": "2026-03-01T09:00+01:00", **ZURICH}
MONDAYS = "DTSTART:20260101T090000\nRRULE:FREQ=WEEKLY;BYDAY=MO"


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        (
            {"interval": 3600, "anchor_date": "2026-01-01T00:05Z"},
            "28T12:00Z",
            "28T12:05Z 28T13:05Z",
        ),
        ({"interval": "PT90M", "anchor_date": "2026-03-28T00:00Z"}, "28T12:00Z", "28T13:30Z"),
        # Summer time begins on the 29th: by the clock on the wall nine stays nine.
        ({"interval": 86400, **DAILY}, "28T07:00Z", "28T08:00Z 29T07:00Z 30T07:00Z"),
        ({"interval": "P1D", **DAILY}, "28T08:00Z", "29T07:00Z"),
        ({"interval": 3600, **DAILY}, "29T00:30Z", "29T01:00Z 29T02:00Z"),
        ({"cron": "0 9 * * *", **ZURICH}, "28T07:00Z", "28T08:00Z 29T07:00Z"),
        ({"cron": "0 9 30 * 1"}, "28T00:00Z", "30T09:00Z"),
        ({"cron": "0 9 31 * 1", "day_or": False}, "28T00:00Z", "none"),
        ({"rrule": MONDAYS, **ZURICH}, "28T00:00Z", "30T07:00Z"),
        (
            {"rrule": "FREQ=DAILY;BYHOUR=9;BYMINUTE=0;BYSECOND=0"},
            "28T00:00Z",
            "28T09:00Z 29T09:00Z",
        ),
        (
            {"rrule": "DTSTART:20260328T000000\nRRULE:FREQ=DAILY;COUNT=2"},
            "28T12:00Z",
            "29T00:00Z none",
        ),
    ],
)
def test_schedules_come_when_they_say(schedule, after, expected):
    next_time, moment = next_time_of(schedule, ""), datetime.fromisoformat(f"2026-03-{after}")
    for each in expected.split():
        moment = next_time(moment)
        if moment is None or moment.month != 3:
            assert each == "none"
        else:
            assert moment == datetime.fromisoformat(f"2026-03-{each}")


def test_an_interval_comes_once_when_an_hour_comes_twice():
    schedule = {"interval": "P1D", "anchor_date": "2026-10-01T02:30+02:00", **ZURICH}
    next_time, moment = next_time_of(schedule, ""), datetime(2026, 10, 24, tzinfo=UTC)
    times = [moment := next_time(moment) for _ in range(3)]
    assert [each.astimezone(UTC).strftime("%dT%H") for each in times] == ["24T00", "25T01", "26T01"]


@pytest.fixture
def scheduled(tmp_path, capsys):
    """Return a function that serves deployments for a moment: (exit code, output, error)."""

    def serve_once(*schedules, command: str = "serve", **others) -> tuple[int, str, str]:
        entry = {"name": "nightly", "entrypoint": "flows.deployments.flows.rebuild", **others}
        content = {"deployments": [entry | ({"schedules": list(schedules)} if schedules else {})]}
        (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(content))
        given = ["--file", str(tmp_path / "prefect.yaml"), "--dry-run", "--json"]
        code = run_command_line([command, *given])
        said = capsys.readouterr()
        return code, said.out, said.err

    return serve_once


NIGHTLY = {"cron": "17 2 * * *"}


@pytest.mark.parametrize(
    ("schedules", "others"),
    [([NIGHTLY | {"active": False}], {}), ([], {}), ([NIGHTLY], {"paused": True})],
    ids=["inactive", "none", "paused"],
)
def test_nothing_scheduled_is_said(scheduled, schedules, others):
    code, out, said = scheduled(*schedules, **others)
    assert (code, out) == (2, "")
    assert "prefect.yaml schedules nothing" in said


def test_each_schedule_that_is_active_is_shown(scheduled):
    never = {"rrule": "DTSTART:20200101T000000\nRRULE:FREQ=DAILY;COUNT=2"}
    hourly = {"interval": 3600}
    code, out, _ = scheduled(NIGHTLY, NIGHTLY | {"active": False}, hourly, never)
    assert code == 0
    assert len(json.loads(out)["nightly"].split(", ")) == 2
    assert json.loads(scheduled(never)[1]) == {"nightly": "never"}


@pytest.mark.parametrize("command", ["serve", "deploy"])
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (NIGHTLY | {"timezon": "UTC"}, "cron knows no timezon; it knows active, cron, day_or,"),
        ({"rrule": MONDAYS, "anchor_date": "2026-01-01"}, "rrule knows no anchor_date"),
        ({"crn": "* * * * *"}, "expected one of cron, interval and rrule, found ['crn']"),
        ({"cron": "* * * * *", "interval": 3}, "expected one of cron, interval and rrule"),
        ({"cron": "61 * * * *"}, "cron '61 * * * *': Invalid cron string"),
        ({"cron": 5}, "cron 5: Input should be a valid string"),
        ({"interval": -5}, "interval -5: interval must be positive"),
        ({"interval": "soon"}, "interval 'soon': Input should be a valid timedelta"),
        ({"rrule": "FREQ=NEVER"}, "Invalid RRule string"),
        (NIGHTLY | {"timezone": "Mars/Olympus"}, 'Invalid timezone: "Mars/Olympus"'),
        (NIGHTLY | {"active": "false"}, "active must be true or false, found 'false'"),
        ({"interval": 3, "anchor_date": "2026-01-01T09:00", **ZURICH}, "needs an offset"),
        ("17 2 * * *", "expected `schedules:` with a list of mappings"),
    ],
)
def test_a_schedule_that_would_be_ignored_or_misunderstood_is_refused(
    scheduled, command, schedule, message
):
    code, _, said = scheduled(schedule, command=command)
    assert code == 2
    assert message in said
    assert "prefect.yaml: deployment 'nightly'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"deployments: [", "prefect.yaml is not valid YAML: while parsing"),
        (b"", "expected `deployments:` with a list of mappings"),
        (b"deployments: nightly", "expected `deployments:` with a list of mappings"),
        (b"deployments: [{name: x}]", "deployment 'x' has no entrypoint"),
        (b"\x00\xff", "prefect.yaml: line 1 is not UTF-8 text"),
        (None, "prefect.yaml: No such file or directory"),
    ],
)
def test_a_file_that_is_no_deployments_is_refused(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "prefect.yaml").write_bytes(content)
    assert run_command_line(["serve", "--file", str(tmp_path / "prefect.yaml"), "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_a_schedule_may_change_parameters(tmp_path):
    entry = {"name": "x", "entrypoint": "y", "parameters": {"store": "/s", "keep": 3}}
    entry["schedules"] = [NIGHTLY | {"parameters": {"keep": 1}}, NIGHTLY]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [entry]}))
    found = [each.flow_parameters() for each in read_entries(tmp_path / "prefect.yaml", {})]
    assert found == [{"store": "/s", "keep": 1}, {"store": "/s", "keep": 3}]
