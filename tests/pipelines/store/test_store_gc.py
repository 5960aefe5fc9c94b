"""Garbage collection, pins and leases: what is needed stays, whoever acts when."""

import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from store_cases import (
    FILES,
    Crash,
    check_whole,
    content_of,
    crashing,
    make,
    make_chain,
    manifest_of,
    paused,
    pins,
    put_files,
)

from pipelines.store.artifacts import Store, open_store
from pipelines.store.collect import GRACE, Collector, needing, pin, unpin
from pipelines.store.errors import BusyError
from pipelines.store.leases import LEASE_TTL, renewed

# A day more than anything here lasts, hence from the import on.
LATER = datetime.now(UTC) + GRACE + timedelta(days=1)
MUCH_LATER = LATER + GRACE


# The collector decides the same on S3; the other tests show how it lists, dates and deletes there.
NEARBY = pytest.mark.parametrize("new_store", ["directory", "memory"], indirect=True)


@pytest.fixture
def now() -> datetime:
    """When the test begins: an hour after that a lease has ended."""
    return datetime.now(UTC)


@NEARBY
def test_plan_changes_nothing(store):
    make_chain(store)
    store.put("attempts/build/old/part", b"x")
    before = content_of(store)
    garbage = Collector(store, keep_refs=0).plan(LATER)
    assert garbage.objects == ("attempts/build/old/part",)
    assert len(garbage.condemned) == 3
    assert content_of(store) == before


def test_unneeded_artifact_is_swept_a_grace_period_after_it_was_condemned(store):
    old, new = make(store), make(store, spec={"seed": 1})
    collector = Collector(store, keep_refs=1)
    first = collector.collect(LATER)
    assert (first.condemned, first.artifacts) == ((old.prefix,), ())
    second = collector.collect(LATER)
    assert second.artifacts == (old.prefix,)
    assert second.bytes >= sum(entry.bytes for entry in old.files)
    assert list(store.manifests("datasets")) == [new]
    assert list(store.objects(old.prefix)) == []
    assert store.refs("datasets", "cats") == [new.digest]
    assert list(store.objects("condemned")) == []
    check_whole(store)


@NEARBY
def test_new_ref_after_a_collection_is_the_latest(store):
    make(store)
    make(store, spec={"seed": 1})
    collector = Collector(store, grace=timedelta(0), keep_refs=1)
    collector.collect(LATER)
    third = make(store, spec={"seed": 2})
    assert store.latest("datasets", "cats") == third


@NEARBY
def test_inputs_of_what_is_kept_are_kept(store):
    chain = make_chain(store)
    make(store, spec={"seed": 9})
    garbage = Collector(store, grace=timedelta(0), keep_refs=1).collect(LATER)
    assert garbage.artifacts == ()
    assert set(garbage.kept) >= {manifest.prefix for manifest in chain.values()}


@NEARBY
@pytest.mark.parametrize("how", ["pin", "lease"])
def test_pins_and_running_work_keep_what_they_need(store, how, now):
    chain = make_chain(store)
    make_chain(store, seed=1)
    collector = Collector(store, grace=timedelta(hours=1), keep_refs=1)
    collector.collect(now + timedelta(minutes=30))
    later = now + timedelta(minutes=59)
    strict = Collector(store, grace=timedelta(0), keep_refs=1)
    assert len(strict.plan(later).artifacts) == 3
    if how == "pin":
        pin(store, chain["samples"], "shown in a paper")
        assert pins(store) == {chain["samples"].prefix: "shown in a paper"}
        assert strict.collect(LATER).artifacts == ()
        unpin(store, chain["samples"])
    else:
        with needing(store, [chain["samples"]], "export"):
            assert collector.collect(later).artifacts == ()
    assert len(strict.collect(LATER).artifacts) == 3
    check_whole(store)


@NEARBY
def test_lease_of_a_killed_run_ends_within_the_hour(store, now):
    old = make(store)
    make(store, spec={"seed": 1})
    with pytest.raises(Crash), needing(crashing(store, 2, is_done=False), [old], "train"):
        pass  # after writing the lease and looking for sweeps it is deleted
    assert len(list(store.objects("running"))) == 1
    collector = Collector(store, keep_refs=1)
    assert collector.plan(now).condemned == ()
    assert collector.collect(now + LEASE_TTL * 1.1).condemned == (old.prefix,)
    assert list(store.objects("running")) == []


@NEARBY
def test_live_lease_is_never_ignored_whatever_the_grace_period(store, now):
    old = make(store)
    make(store, spec={"seed": 1})
    store.put("attempts/train/job/checkpoint", b"x")
    collector = Collector(store, grace=timedelta(0), keep_refs=1)
    soon = now + LEASE_TTL * 0.9
    with needing(store, [old], "train"):
        for _ in range(2):
            assert collector.collect(soon).artifacts == ()
        assert collector.collect(soon).objects == ()
    later = now + LEASE_TTL * 1.1
    collector.collect(later)
    assert store.find("datasets", "cats", old.digest) is None
    assert list(store.objects("attempts")) == []


def test_fresh_scratch_is_kept_whatever_the_grace_period(store, now):
    store.put("attempts/train/job/checkpoint", b"x")
    assert Collector(store, grace=timedelta(0)).collect(now).objects == ()


def test_lease_is_written_again_while_work_runs(store):
    with renewed(store, "running/one.json", b"{}", every_sec=0.01):
        store.delete("running/one.json")
        deadline = time.monotonic() + 60
        while store.size("running/one.json") is None:
            assert time.monotonic() < deadline
    assert list(store.objects("running")) == []


def test_scratch_and_unfinished_artifacts_are_swept_by_age(store, now):
    kept = make(store)
    unfinished = manifest_of(spec={"seed": 5})
    put_files(store, unfinished)
    store.put(f"{kept.prefix}/leftover.part", b"x")
    store.put("attempts/train/job/checkpoint", b"x")
    assert Collector(store).plan(now).objects == ()
    swept = Collector(store).collect(LATER).objects
    assert len(swept) == 4
    assert [item.path for item in store.objects(kept.prefix)] == sorted(
        f"{kept.prefix}/{path}" for path in (*FILES, "manifest.json")
    )
    check_whole(store)


def test_partial_files_of_killed_writers_are_swept(local_store, now):
    manifest = make(local_store)
    partial = local_store.local_path(manifest.prefix) / "manifest.json#123"
    partial.write_bytes(b"{")
    assert partial.name not in str(list(local_store.objects()))
    Collector(local_store).collect(now)
    assert partial.exists()
    Collector(local_store).collect(LATER)
    assert not partial.exists()


def test_files_that_are_not_ours_are_left_alone(local_store):
    foreign = local_store.local_path() / "attempts" / "x" / "caf\u00e9 #"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"x")
    draft = local_store.local_path() / "letters" / "draft#2"
    draft.parent.mkdir()
    draft.write_bytes(b"x")
    Collector(local_store).collect(MUCH_LATER)
    assert foreign.exists()
    assert draft.exists()


@NEARBY
def test_artifact_needed_again_since_the_plan_is_kept(store):
    old = make(store)
    make(store, spec={"seed": 1})
    racing = _PinsBeforeSweep(store.backend, store.url)
    racing.wanted = old
    Collector(racing, grace=timedelta(0), keep_refs=1).collect(LATER)
    assert store.find("datasets", "cats", old.digest) == old
    check_whole(store)


class _PinsBeforeSweep(Store):
    """Somebody pins an artifact between the plan and the sweep."""

    def put(self, path, content):
        if path.startswith("sweeping/"):
            pin(self, self.wanted, "just in time")
        super().put(path, content)


def collected_meanwhile(new_store, prepare, act):
    """Collect with somebody acting at each operation in turn; yield what it came to.

    prepare, act: called with the store; `act` returns a manifest, or raises BusyError or
    returns None if it came too late.
    """
    counting = crashing(prepare(new_store()), -1, is_done=False)
    strict = {"grace": timedelta(0), "keep_refs": 1}
    Collector(counting, **strict).collect(LATER)
    for operation in range(counting.count):
        store, acted = prepare(new_store()), []

        def meanwhile(store=store, acted=acted):
            with contextlib.suppress(BusyError):
                acted.append(act(store))

        Collector(paused(store, operation, meanwhile), **strict).collect(LATER)
        check_whole(store)
        yield store, acted[0] if acted else None


def test_artifact_reused_at_any_moment_of_a_collection_is_whole_or_refused(monkeypatch):
    monkeypatch.setattr("pipelines.store.leases._WAIT_SEC", 0)
    old = manifest_of()

    def prepare(store: Store) -> Store:
        make(store)
        make(store, spec={"seed": 1})
        Collector(store, keep_refs=1).collect(LATER)  # condemns
        return store

    reused = []
    for store, found in collected_meanwhile(
        lambda: open_store("memory://"), prepare, lambda store: store.reuse(*address(old))
    ):
        reused.append(found is not None)
        assert found == store.find(*address(old))
    assert set(reused) == {True, False}


def test_old_attempt_published_at_any_moment_of_a_collection_is_whole_or_refused(monkeypatch):
    monkeypatch.setattr("pipelines.store.leases._WAIT_SEC", 0)
    old = manifest_of()

    def prepare(store: Store) -> Store:
        put_files(store, old)
        return store

    published = []
    for store, found in collected_meanwhile(
        lambda: open_store("memory://"), prepare, lambda store: store.publish(old)
    ):
        published.append(found is not None)
        assert found == store.find(*address(old))
    assert set(published) == {True, False}


def address(manifest):
    return manifest.kind, manifest.name, manifest.digest


def test_collections_at_once_do_not_disturb_each_other(store):
    for seed in range(4):
        make(store, spec={"seed": seed})
    with ThreadPoolExecutor(4) as pool:
        strict = [Collector(store, grace=timedelta(0), keep_refs=1) for _ in range(4)]
        list(pool.map(lambda collector: collector.collect(LATER), strict))
    assert [m.spec["seed"] for m in store.manifests("datasets")] == [3]
    check_whole(store)


@NEARBY
def test_unreadable_manifest_that_nothing_needs_stops_no_collection_of_the_rest(store):
    chain = make_chain(store)
    make_chain(store, seed=1)
    path = f"{chain['models'].prefix}/manifest.json"
    store.put(path, store.get(path)[:-9])
    garbage = Collector(store, grace=timedelta(0), keep_refs=1).collect(LATER)
    assert set(garbage.artifacts) == {chain["datasets"].prefix, chain["samples"].prefix}
    assert (garbage.unreadable, garbage.is_blocked) == ((path,), False)
    assert store.size(path)


@NEARBY
def test_nothing_is_swept_while_a_manifest_that_is_needed_cannot_be_read(store):
    make_chain(store)
    chain = make_chain(store, seed=1)
    path = f"{chain['models'].prefix}/manifest.json"
    content = store.get(path)
    Collector(store, keep_refs=1).collect(LATER)
    store.put(path, content[:-9])
    garbage = Collector(store, grace=timedelta(0), keep_refs=1).collect(LATER)
    assert (garbage.artifacts, garbage.condemned, garbage.unreadable) == ((), (), (path,))
    assert garbage.objects == ()
    store.put(path, content)
    assert len(Collector(store, grace=timedelta(0), keep_refs=1).collect(LATER).artifacts) == 3


def test_sweep_reads_no_manifest_twice():
    store = open_store("memory://")
    for seed in range(8):
        make(store, spec={"seed": seed})
    counting = _CountsReads(store.backend, store.url)
    swept = Collector(counting, grace=timedelta(0), keep_refs=1).collect(LATER).artifacts
    assert len(swept) == 7
    assert max(counting.reads.values()) == 1


class _CountsReads(Store):
    """Counts how often each manifest is read."""

    def get(self, path):
        self.reads = getattr(self, "reads", Counter())
        self.reads[path] += path.endswith("manifest.json")
        return super().get(path)


@pytest.mark.slow
def test_crash_at_any_operation_of_a_collection_breaks_nothing():
    number = 0
    while True:
        store = open_store("memory://")
        make_chain(store)
        chain = make_chain(store, seed=1)
        store.put("attempts/a/b/c", b"x")
        fails = crashing(store, number, is_done=True)
        collect = Collector(fails, grace=timedelta(0), keep_refs=1)
        try:
            collect.collect(LATER)
            break
        except Crash:
            number += 1
        check_whole(store)
        Collector(store, grace=timedelta(0), keep_refs=1).collect(LATER)
        check_whole(store)
        assert [m for kind in chain for m in store.manifests(kind)] == list(chain.values())
        assert len(list(store.objects())) == 3 * 3 + 3
    assert number > 40
