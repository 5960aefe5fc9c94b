"""Publishers of the same spec whose bytes differ: one set of files wins, whatever happens when."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_cases import Crash, check_whole, content_of, crash_step, crashing, manifest_of, paused

from pipelines.store.artifacts import Store, open_store
from pipelines.store.errors import BusyError
from pipelines.store.manifest import Manifest

OURS = {"weights": b"ours" * 9, "card.md": b"# ours\n"}
THEIRS = {"weights": b"them" * 9, "card.md": b"# them\n"}

# Where every object is fsynced or a request, these take long.
EVERY_SORT = pytest.mark.parametrize(
    "new_store",
    ["memory", *(pytest.param(sort, marks=pytest.mark.slow) for sort in ("directory", "s3"))],
    indirect=True,
)


def publish(store: Store, files: dict[str, bytes] = OURS) -> Manifest:
    """Publish a model of these bytes; the spec is always the same."""
    manifest = manifest_of(kind="models", name="net", files=files)
    return store.publish_files(manifest, files)


def check_published(store: Store, manifest: Manifest) -> None:
    """Assert that this artifact is the one in the store, whole, and that nothing else is left."""
    check_whole(store)
    assert list(store.manifests("models")) == [manifest]
    kept = {path.split("/")[0] for path in content_of(store)}
    assert kept == {"models", "refs"}
    assert store.refs("models", "net") == [manifest.digest]


def test_files_are_published_as_they_are(store):
    manifest = publish(store)
    assert {path: store.read(manifest, path) for path in OURS} == OURS
    check_published(store, manifest)
    assert publish(store, THEIRS) == manifest
    check_published(store, manifest)


def count_operations() -> int:
    """Return how many operations of a store one publication takes."""
    counting = crashing(open_store("memory://"), -1, is_done=False)
    publish(counting)
    return counting.count


@EVERY_SORT
def test_another_publisher_in_between_any_two_operations_mixes_nothing(new_store):
    number = count_operations()
    assert number > 20
    for operation in range(0, number, crash_step(new_store())):
        store = new_store()
        theirs = []

        def meanwhile(store=store, theirs=theirs):
            theirs.append(publish(store, THEIRS))

        ours = publish(paused(store, operation, meanwhile))
        assert [ours] == theirs, operation
        check_published(store, ours)


@EVERY_SORT
@pytest.mark.parametrize("is_done", [False, True])
def test_rerun_with_other_bytes_completes_whatever_a_crash_left(new_store, is_done):
    for operation in range(0, count_operations(), crash_step(new_store())):
        store = new_store()
        with pytest.raises(Crash):
            publish(crashing(store, operation, is_done=is_done))
        check_whole(store)
        check_published(store, publish(store, THEIRS))


@pytest.mark.slow
def test_crash_within_another_publication_mixes_nothing():
    number = count_operations()
    for operation in range(0, number, 3):
        for fatal in range(1, number, 2):
            store = open_store("memory://")

            def die(store=store, fatal=fatal):
                with contextlib.suppress(Crash):
                    publish(crashing(store, fatal, is_done=True), THEIRS)

            check_published(store, publish(paused(store, operation, die)))


def test_many_publishers_of_different_bytes_at_once_agree(store):
    def make(number: int) -> Manifest:
        return publish(store, {"weights": b"%d" % number * 1000, "card.md": b"%d" % number})

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert len(set(map(str, made))) == 1
    check_published(store, made[0])


def test_choice_whose_files_are_damaged_does_not_block_a_rerun(store):
    with pytest.raises(Crash):
        publish(crashing(store, first_put_of(store, "models/"), is_done=False))
    staged = [item.path for item in store.objects("attempts") if "/files/" in item.path]
    store.put(staged[0], b"rotten")
    manifest = publish(store, THEIRS)
    assert store.read(manifest, "weights") == THEIRS["weights"]
    check_published(store, manifest)


def first_put_of(store: Store, prefix: str) -> int:
    """Return the number of the operation that first puts something under `prefix`."""
    counting = crashing(open_store("memory://"), -1, is_done=False)
    found = []
    put = counting.put

    def noting(path: str, content: bytes) -> None:
        if path.startswith(prefix):
            found.append(counting.count)
        put(path, content)

    counting.put = noting
    publish(counting)
    return found[0]


def test_files_that_the_manifest_does_not_name_are_refused(store):
    with pytest.raises(ValueError, match="are not the files given"):
        store.publish_files(manifest_of(files=OURS), {"weights": OURS["weights"]})


def test_files_of_the_right_size_and_wrong_bytes_are_not_published(store):
    manifest = manifest_of(files=OURS)
    for path, content in THEIRS.items():
        store.put(f"{manifest.prefix}/{path}", content)
    with pytest.raises(BusyError, match=r"cannot publish .*SHA-256.*run it again"):
        store.publish(manifest)
    assert list(store.manifests("datasets")) == []
