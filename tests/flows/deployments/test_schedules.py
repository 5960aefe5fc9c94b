"""Schedules as the file has them: when they come, what is refused."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from flows.cli import run_command_line
from flows.deployments import schedules
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
        ({"cron": "* * * * * */20"}, "28T00:00:30Z", "28T00:00:40Z 28T00:01:00Z"),
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


@pytest.mark.parametrize(
    ("cron", "spring", "autumn"),
    [
        # Minute and hour are fixed: once a day, at the end of the gap or the first time.
        ("17 2 * * *", "28T01:17 29T01:00 30T00:17", "24T00:17 25T00:17 26T01:17"),
        # By hours elapsed: none or all of the hour that is left out or shown twice.
        ("30 * * * *", "29T00:30 29T01:30", "25T00:30 25T01:30 25T02:30"),
        ("*/30 2 * * *", "28T01:30 30T00:00", "25T00:00 25T00:30 25T01:00 25T01:30 26T01:00"),
    ],
)
def test_cron_on_days_when_clocks_change(cron, spring, autumn):
    """In Zurich 02:00 becomes 03:00 on March 29, and 03:00 becomes 02:00 on October 25, 2026."""
    next_time = next_time_of({"cron": cron, **ZURICH}, "")
    for month, times in (("2026-03", spring), ("2026-10", autumn)):
        first, *_ = expected = [datetime.fromisoformat(f"{month}-{t}Z") for t in times.split()]
        moment = first - timedelta(minutes=1)
        assert [moment := next_time(moment) for _ in expected] == expected


@pytest.mark.parametrize("month", ["2026-03", "2026-10"])
def test_a_server_runs_what_is_nightly_once_a_day_when_clocks_change(month):
    """Prefect's server has a cron of its own: in spring it is an hour early."""
    start = datetime.fromisoformat(f"{month}-24T00:00Z")
    schedule = CronSchedule(cron=NIGHTLY["cron"], timezone="Europe/Zurich")
    times = asyncio.run(schedule.get_dates(n=7, start=start))
    days = [each.astimezone(ZoneInfo("Europe/Zurich")).day for each in times]
    assert days == list(range(24, 31))


@pytest.mark.parametrize(
    ("variable", "link", "text", "expected"),
    [
        (":Asia/Tokyo", "Europe/Zurich", "Europe/Paris", "Asia/Tokyo"),
        ("CET-1CEST", "Europe/Zurich", "", ""),
        (None, "Europe/Zurich", "Europe/Paris", "Europe/Zurich"),
        (None, None, "Europe/Paris\n", "Europe/Paris"),
        (None, None, "Local time\n", ""),
        (None, None, None, ""),
    ],
)
def test_time_zone_of_a_machine(variable, link, text, expected, tmp_path, monkeypatch, capsys):
    localtime, timezone = tmp_path / "localtime", tmp_path / "timezone"
    if link:
        localtime.symlink_to(f"/usr/share/zoneinfo/{link}")
    if text is not None:
        timezone.write_text(text)
    monkeypatch.setattr(schedules, "_LOCALTIME", localtime)
    monkeypatch.setattr(schedules, "_TIMEZONE", timezone)
    monkeypatch.delenv("TZ", raising=False)
    if variable is not None:
        monkeypatch.setenv("TZ", variable)
    assert schedules.machine_timezone() == expected
    assert run_command_line(["deploy", "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["timezone"] == expected or "UTC"
    assert ("this machine names no time zone" in said.err) == (not expected)


@pytest.mark.parametrize("command", ["serve", "deploy"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--nightly", "17 25 * * *"], "--nightly: cron '17 25 * * *': bad hour: expected"),
        (["--housekeeping", "@daily"], "--housekeeping: cron '@daily': wrong number of fields"),
        (["--timezone", "Mars/Olympus"], "--timezone: unknown time zone 'Mars/Olympus': expected"),
        (["--timezone", "Europe"], "--timezone: unknown time zone 'Europe'"),
    ],
)
def test_times_that_cannot_be_are_refused(command, given, message, capsys):
    assert run_command_line([command, *given, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_times_are_options_where_no_file_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    times = ["--nightly", "0 3 * * *", "--housekeeping", "30 6 * * *", "--timezone", "Asia/Tokyo"]
    assert run_command_line(["serve", *times, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nightly"].endswith("T03:00:00+09:00")
    assert found["housekeeping"].endswith("T06:30:00+09:00")
    assert list(tmp_path.iterdir()) == []


def test_times_that_a_file_of_ones_own_ignores_are_refused(scheduled, tmp_path, capsys):
    assert scheduled(NIGHTLY)[0] == 0
    given = ["--file", str(tmp_path / "prefect.yaml"), "--nightly", "0 3 * * *", "--dry-run"]
    assert run_command_line(["serve", *given]) == 2
    assert "prefect.yaml has times of its own: name {{ $SKETCHMILL_NIGHTLY }} there" in (
        capsys.readouterr().err
    )
    assert scheduled({"cron": "{{ $SKETCHMILL_NIGHTLY }}"})[0] == 0
    assert run_command_line(["serve", *given]) == 0


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
        ({"cron": "61 * * * *"}, "cron '61 * * * *': bad minute: expected minute, hour, day,"),
        ({"cron": "17 2 * *"}, "cron '17 2 * *': wrong number of fields: expected minute, hour,"),
        ({"cron": 5}, 'cron 5: expected text such as "17 2 * * *"'),
        ({"cron": ""}, "cron '': wrong number of fields"),
        ({"interval": -5}, "interval -5: interval must be positive"),
        ({"interval": "soon"}, "interval 'soon': Input should be a valid timedelta"),
        ({"rrule": "FREQ=NEVER"}, "Invalid RRule string"),
        (NIGHTLY | {"timezone": "Mars/Olympus"}, "unknown time zone 'Mars/Olympus'"),
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
