"""Progress looks at little, ends at everything, and never fails the work it tells of."""

import time

import pytest

from pipelines import watching
from pipelines.store import open_store
from pipelines.watching import Look, watch


def test_progress_counts_what_lies_in_the_store_and_ends_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_LOCAL_INTERVAL_SEC", 0.01)
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
    monkeypatch.setattr(watching, "_LOCAL_INTERVAL_SEC", 0.01)
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
