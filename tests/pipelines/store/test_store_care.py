"""Keeping a store: copies between stores, relations, the backend's promises."""

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
)

from pipelines.store.artifacts import StoreError, open_store
from pipelines.store.lineage import dependents, dependents_text, diff, diff_text
from pipelines.store.objects import Objects
from pipelines.store.probe import probe
from pipelines.store.transfer import copy_artifact


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


@pytest.mark.slow
def test_copy_that_is_cut_off_goes_on_where_it_stopped(store):
    chain = make_chain(store)
    number = 0
    while True:
        target = open_store("memory://")
        try:
            copy_artifact(chain["samples"], store, crashing(target, number, is_done=True))
            break
        except Crash:
            number += 7 if store.url.startswith("s3://") else 1  # each is a request
        check_whole(target)
        copy_artifact(chain["samples"], store, target)
        found = content_of(target).items()
        found = {path: content for path, content in found if not path.startswith("attempts/")}
        assert found == content_of(store)
    assert number > 40


def test_copy_of_a_model_does_not_touch_the_one_that_is_made_meanwhile(store):
    files = {"weights": b"made here"}
    theirs = make(store, kind="models", files={"weights": b"made there"})
    target = open_store("memory://")
    counting = crashing(open_store("memory://"), -1, is_done=False)
    copy_artifact(theirs, store, counting)
    for operation in range(counting.count):
        target = open_store("memory://")

        def meanwhile(target=target):
            target.publish_files(manifest_of(kind="models", files=files), files)

        copy_artifact(theirs, store, paused(target, operation, meanwhile))
        check_whole(target)


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
