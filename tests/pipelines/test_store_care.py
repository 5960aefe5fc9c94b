"""Keeping a store: garbage, pins, copies between stores, relations, the backend's promises."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from store_cases import (
    FILES,
    Crash,
    check_whole,
    content_of,
    crashing,
    make,
    manifest_of,
    put_files,
)

from pipelines.objects import Objects
from pipelines.probe import probe
from pipelines.relations import dependents, dependents_text, diff, diff_text
from pipelines.retention import GRACE, Collector, needing, pin, pins, unpin
from pipelines.store import Store, StoreError
from pipelines.transfer import copy_artifact

NOW = datetime.now(UTC)
LATER = NOW + GRACE + timedelta(days=1)
MUCH_LATER = LATER + GRACE


def make_chain(store: Store, seed: int = 0) -> dict:
    """Return a dataset, a model of it and samples of that, all published."""
    dataset = make(store, spec={"seed": seed})
    model = make(store, kind="models", name="net", spec={"seed": seed}, inputs=(dataset,))
    samples = make(store, kind="samples", name="new", spec={"seed": seed}, inputs=(model, dataset))
    return {"datasets": dataset, "models": model, "samples": samples}


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


def test_new_ref_after_a_collection_is_the_latest(store):
    make(store)
    make(store, spec={"seed": 1})
    collector = Collector(store, grace=timedelta(0), keep_refs=1)
    collector.collect(LATER)
    third = make(store, spec={"seed": 2})
    assert store.latest("datasets", "cats") == third


def test_inputs_of_what_is_kept_are_kept(store):
    chain = make_chain(store)
    make(store, spec={"seed": 9})
    garbage = Collector(store, grace=timedelta(0), keep_refs=1).collect(LATER)
    assert garbage.artifacts == ()
    assert set(garbage.kept) >= {manifest.prefix for manifest in chain.values()}


@pytest.mark.parametrize("how", ["pin", "lease"])
def test_pins_and_running_work_keep_what_they_need(store, how):
    chain = make_chain(store)
    make_chain(store, seed=1)
    collector = Collector(store, grace=timedelta(hours=1), keep_refs=1)
    collector.collect(NOW + timedelta(minutes=30))
    later = NOW + timedelta(minutes=59)
    strict = dataclasses.replace(collector, grace=timedelta(0))
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


def test_lease_of_a_killed_run_ends_with_the_grace_period(store):
    old = make(store)
    make(store, spec={"seed": 1})
    with pytest.raises(Crash), needing(crashing(store, 1, is_done=False), [old], "train"):
        pass  # deleting the lease is the second operation
    assert len(list(store.objects("running"))) == 1
    collector = Collector(store, keep_refs=1)
    assert collector.plan(NOW).condemned == ()
    assert collector.collect(LATER).condemned == (old.prefix,)
    assert list(store.objects("running")) == []


def test_scratch_and_unfinished_artifacts_are_swept_by_age(store):
    kept = make(store)
    unfinished = manifest_of(spec={"seed": 5})
    put_files(store, unfinished)
    store.put(f"{kept.prefix}/leftover.part", b"x")
    store.put("attempts/train/job/checkpoint", b"x")
    assert Collector(store).plan(NOW).objects == ()
    swept = Collector(store).collect(LATER).objects
    assert len(swept) == 4
    assert [item.path for item in store.objects(kept.prefix)] == sorted(
        f"{kept.prefix}/{path}" for path in (*FILES, "manifest.json")
    )
    check_whole(store)


def test_partial_files_of_killed_writers_are_swept(local_store):
    manifest = make(local_store)
    partial = local_store.local_path(manifest.prefix) / "manifest.json#123"
    partial.write_bytes(b"{")
    assert partial.name not in str(list(local_store.objects()))
    Collector(local_store).collect(NOW)
    assert partial.exists()
    Collector(local_store).collect(LATER)
    assert not partial.exists()


def test_files_that_are_not_ours_are_left_alone(local_store):
    foreign = local_store.local_path() / "attempts" / "x" / "caf\u00e9 #"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"x")
    Collector(local_store).collect(MUCH_LATER)
    assert foreign.exists()


def test_artifact_needed_again_since_the_plan_is_kept(store):
    old = make(store)
    make(store, spec={"seed": 1})
    racing = _PinsWhenSwept(store.backend, store.url)
    racing.wanted = old
    Collector(racing, grace=timedelta(0), keep_refs=1).collect(LATER)
    assert store.find("datasets", "cats", old.digest) == old
    check_whole(store)


class _PinsWhenSwept(Store):
    """Somebody pins an artifact between the plan and the sweep."""

    def delete(self, path):
        if path.startswith("condemned/"):
            pin(self, self.wanted, "just in time")
        super().delete(path)


@pytest.mark.slow
def test_crash_at_any_operation_of_a_collection_breaks_nothing():
    from pipelines.store import open_store

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


def test_copy_brings_inputs_along_and_verifies_them(store, local_store):
    chain = make_chain(store)
    done = copy_artifact(chain["samples"], store, local_store)
    assert done.copied == tuple(chain[kind].prefix for kind in ("datasets", "models", "samples"))
    assert content_of(local_store) == content_of(store)
    again = copy_artifact(chain["samples"], store, local_store)
    assert (again.copied, again.bytes, len(again.present)) == ((), 0, 3)
    assert copy_artifact(chain["samples"], local_store, store).copied == ()


def test_copied_input_does_not_become_the_latest_of_its_name(store, local_store):
    chain = make_chain(store)
    newer = make(local_store, spec={"seed": 5})
    copy_artifact(chain["models"], store, local_store)
    assert local_store.latest("datasets", "cats") == newer
    assert local_store.latest("models", "net") == chain["models"]


@pytest.mark.parametrize("size", [1000, 17 << 20], ids=["small", "big"])
def test_damaged_artifact_is_not_copied(store, local_store, size):
    files = {"weights": b"w" * size}
    manifest = make(store, files=files)
    store.put(f"{manifest.prefix}/weights", b"v" * size)
    with pytest.raises(StoreError, match="damaged"):
        copy_artifact(manifest, store, local_store)
    assert list(local_store.objects()) == []


def test_copy_that_is_cut_off_goes_on_where_it_stopped(store):
    from pipelines.store import open_store

    chain = make_chain(store)
    number = 0
    while True:
        target = open_store("memory://")
        try:
            copy_artifact(chain["samples"], store, crashing(target, number, is_done=True))
            break
        except Crash:
            number += 7
        check_whole(target)
        copy_artifact(chain["samples"], store, target)
        assert content_of(target) == content_of(store)
    assert number > 28


def test_input_that_is_gone_is_named_and_the_rest_copied(store, local_store):
    chain = make_chain(store)
    store.delete(f"{chain['datasets'].prefix}/manifest.json")
    done = copy_artifact(chain["samples"], store, local_store)
    assert done.gone == (chain["datasets"].prefix,)
    assert len(done.copied) == 2


def test_dependents_lead_up_to_everything_made_of_an_artifact(local_store):
    chain = make_chain(local_store)
    text = dependents_text(dependents(chain["datasets"], local_store))
    short = {kind: manifest.digest[:12] for kind, manifest in chain.items()}
    assert text == (
        f"datasets/cats@{short['datasets']}\n"
        f"|-- models/net@{short['models']}\n"
        f"|   `-- samples/new@{short['samples']}\n"
        f"`-- samples/new@{short['samples']}\n"
    )


def test_diff_shows_specs_inputs_counts_and_files():
    left = manifest_of(spec={"seed": 0, "model": {"filters": 8}})
    right = manifest_of(
        spec={"seed": 0, "model": {"filters": 16}},
        files={**FILES, "README.md": b"other\n", "more": b"m"},
    )
    found = diff(left, right)
    assert found.spec == {"model.filters": (8, 16)}
    assert found.rows == {"all": (6, 9)}
    assert found.files == {"equal": 1, "changed": 1, "only left": 0, "only right": 1}
    assert "spec      model.filters: 8 -> 16\n" in diff_text(found)
    assert diff_text(diff(left, left)) == "no difference\nfiles     2 equal\n"


def test_probe_finds_every_sort_of_store_fit_and_leaves_nothing(store):
    answers = list(probe(store))
    assert [answer for answer in answers if not answer.is_ok] == []
    assert len(answers) == 5
    assert list(store.objects()) == []


def test_probe_finds_what_breaks_publishing(local_store):
    class Careless(Objects):
        def create(self, path, content):
            self.put(path, content)
            return True

        def objects(self, prefix=""):
            return (item for item in super().objects(prefix) if "list" not in item.path)

        def size(self, path):
            raise OSError("unplugged")

    found = {
        answer.question: answer.is_ok
        for answer in probe(Careless(local_store.backend, local_store.url), min_free_bytes=2**60)
    }
    assert found == {
        "create if absent": False,
        "read after write": False,
        "list after write": False,
        "clock": True,
        "free space": False,
    }
