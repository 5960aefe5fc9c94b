"""Progress looks at little, ends at everything, and never fails the work it tells of."""

import time

import pytest

from pipelines.processes import progress
from pipelines.processes.progress import Look, advance, doing, watch
from pipelines.store.artifacts import open_store


def test_progress_counts_what_lies_in_the_store_and_ends_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_LOCAL_INTERVAL_SEC", 0.01)
    store = open_store(str(tmp_path))
    seen = []
    with watch(store, {"attempts/a/1": 10, "attempts/b/2": 5}, seen.append):
        store.put("attempts/a/1", b"")
        while 10 not in seen:
            time.sleep(0.01)
    assert seen[-1] == 15
    assert set(seen) <= {0, 10, 15}


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("a link out of the store")])
def test_what_goes_wrong_with_progress_does_not_fail_the_work(tmp_path, monkeypatch, error):
    monkeypatch.setattr(progress, "_LOCAL_INTERVAL_SEC", 0.01)
    calls = []

    def report(rows):
        calls.append(rows)
        raise error

    with watch(open_store(str(tmp_path)), {"attempts/a/1": 10}, report):
        while len(calls) < 3:
            time.sleep(0.01)
    assert calls[-1] == 10


def test_only_directories_that_lack_something_are_listed(tmp_path):
    store = open_store(str(tmp_path))
    pending = {f"attempts/attributes/{i:03d}/x": 1 for i in range(40)}
    for path in list(pending)[:-1]:
        store.put(path, b"")
    look = Look(store, pending)
    listed = []
    objects = store.objects
    store.objects = lambda prefix: listed.append(prefix) or objects(prefix)
    assert [look(), look(), look(), look()] == [16, 32, 39, 39]
    assert listed[-1] == "attempts/attributes/039"
    assert len(listed) == 41  # each once, and the one that is not there yet twice


@pytest.fixture
def teller(monkeypatch):
    """A teller whose clock is its own: what it said, and how to let seconds pass."""
    clock, said = [0.0], []
    monkeypatch.setattr(progress, "TELL_SEC", 1.7)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    told = progress.Teller(lambda *event: said.append((clock[0], event)), ("ls", 0, 0, "at work"))

    def sleep(seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            clock[0] = round(clock[0] + 0.1, 1)
            told.tick()

    return told, said, sleep


def test_what_is_over_in_two_seconds_is_not_said(teller):
    _, said, sleep = teller
    with doing("store", "waiting"):
        sleep(1.6)
    assert said == []


def test_a_wait_is_said_within_two_seconds_and_again_every_second(teller):
    _, said, sleep = teller
    with doing("store", "waiting"):
        sleep(4)
    assert said == [(at, ("store", 0, 0, "waiting")) for at in (1.7, 2.7, 3.7)]


def test_what_has_no_name_is_said_as_well(teller):
    _, said, sleep = teller
    sleep(2)
    assert said == [(1.7, ("ls", 0, 0, "at work"))]


def test_counted_work_says_how_far_it_is_and_when_it_has_ended(teller):
    _, said, sleep = teller
    with doing("hash", "files", total=10):
        advance(4)
        sleep(2)
        advance(6)
        sleep(1)
    sleep(0.1)
    assert [event[1:3] for _, event in said] == [(4, 10), (9, 10), (10, 10)]


def test_progress_is_said_again_until_a_later_wait_begins(teller):
    told, said, sleep = teller
    told("build", 1, 2, "fast")
    sleep(2)
    with doing("publish", "checking"):
        sleep(2)
    assert [event[0] for _, event in said] == ["build", "build", "publish"]


def test_the_innermost_wait_is_said_but_a_detail_only_alone(teller):
    _, said, sleep = teller
    with doing("gc", "deleting"), doing("store", "asking", is_detail=True):
        sleep(2)
    with doing("store", "asking", is_detail=True):
        sleep(2)
    assert [event[0] for _, event in said] == ["gc", "store"]


def test_what_may_take_all_night_is_said_once(teller):
    _, said, sleep = teller
    with doing("serve", "waiting for 03:00", is_once=True):
        sleep(60)
    assert len(said) == 1
