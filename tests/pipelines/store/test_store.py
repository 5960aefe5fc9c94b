"""The store's promises, on a directory, in memory and on a real S3 server."""

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest
from s3_faults import BUSY, FAULTS
from store_cases import (
    FILES,
    Crash,
    check_whole,
    content_of,
    crash_step,
    crashing,
    make,
    manifest_of,
    put_files,
    with_file,
)

from pipelines.store.artifacts import Store, StoreError, open_store
from pipelines.store.backends import RETRY_CONFIG
from pipelines.store.errors import BusyError
from pipelines.store.manifest import MANIFEST_NAME, Manifest

BUCKET = "sketchmill"
BIG_BYTES = 19 << 20  # three parts of a multipart upload


def test_what_is_put_can_be_read_listed_and_deleted(store):
    store.put("a/b.txt", b"one")
    store.put("a/c/d.txt", b"two")
    store.put("a/b.txt", b"three")
    assert store.get("a/b.txt") == b"three"
    assert [(item.path, item.bytes) for item in store.objects("a")] == [
        ("a/b.txt", 5),
        ("a/c/d.txt", 3),
    ]
    assert (store.list_dirs(""), store.list_dirs("a")) == (["a"], ["c"])
    store.delete("a/c/d.txt")
    store.delete("a/c/d.txt")
    assert store.size("a/c/d.txt") is None
    assert store.list_dirs("a") == []
    with pytest.raises(FileNotFoundError):
        store.get("a/c/d.txt")


@pytest.mark.parametrize(
    "name", ["caf\u00e9", "a%2Fb%25", "\u30cd\u30b3 1", "%C3%A9", "\u00e9" * 120]
)
def test_name_of_any_letters_or_percent_signs_stays_as_it_is(store, name):
    store.put(f"a/{name}", b"one")
    store.put_chunks(f"b/{name}/c", [b"two"])
    assert store.get(f"a/{name}") == b"one"
    assert [item.path for item in store.objects()] == [f"a/{name}", f"b/{name}/c"]
    assert store.list_dirs("b") == [name]
    if (root := store.local_path()) is not None:
        assert [path.name for path in (root / "a").iterdir()] == [name]


def test_big_object_is_streamed_both_ways(store, tmp_path):
    chunk = bytes(range(256)) * (1 << 12)
    chunks = [chunk] * (BIG_BYTES // len(chunk))
    digest = hashlib.sha256(b"".join(chunks)).hexdigest()
    assert store.put_chunks("x/big", chunks) == (BIG_BYTES, digest)
    assert store.sha256("x/big") == digest
    if not store.url.startswith("memory://"):
        assert max(len(chunk) for chunk in store.chunks("x/big")) < BIG_BYTES
    assert store.put_chunks("x/empty", []) == (0, hashlib.sha256().hexdigest())
    assert store.get("x/empty") == b""


def test_put_that_fails_midway_leaves_the_former_object(store):
    def broken():
        yield b"x" * (9 << 20)
        raise RuntimeError("no more")

    store.put("x/big", b"former")
    with pytest.raises(RuntimeError, match="no more"):
        store.put_chunks("x/big", broken())
    assert store.get("x/big") == b"former"
    assert [item.path for item in store.objects()] == ["x/big"]


def test_create_has_exactly_one_winner_of_twenty(store):
    with ThreadPoolExecutor(20) as pool:
        wins = list(pool.map(lambda i: store.create("refs/one", b"%d" % i), range(20)))
    assert sum(wins) == 1
    assert store.get("refs/one") == b"%d" % wins.index(True)


def test_published_artifact_is_found_by_name_and_digest(store):
    first = make(store)
    second = make(store, spec={"seed": 1})
    assert store.latest("datasets", "cats") == second
    assert store.refs("datasets", "cats") == [first.digest, second.digest]
    for ref in ("cats", f"cats@{second.digest}", f"cats@{second.digest[:9]}", second.digest[:8]):
        assert store.resolve("datasets", ref) == second, ref
    assert store.read(first, "README.md") == FILES["README.md"]
    check_whole(store)


@pytest.mark.parametrize("ref", ["dogs", "cats@ffffffff", "fffffff", "cats@", "", "../cats"])
def test_ref_to_nothing_is_refused(store, ref):
    make(store, name="mice")
    with pytest.raises(StoreError, match="no complete artifact"):
        store.resolve("datasets", ref)


def test_making_an_artifact_again_makes_it_the_latest(store):
    first = make(store)
    second = make(store, spec={"seed": 1})
    assert make(store) == first
    assert store.refs("datasets", "cats") == [first.digest, second.digest, first.digest]


def test_artifact_without_all_its_files_is_not_published(store):
    manifest = manifest_of()
    put_files(store, manifest, {"README.md": FILES["README.md"]})
    with pytest.raises(BusyError, match=r"train-00000\.parquet is missing.* run it again"):
        store.publish(manifest)
    assert store.find("datasets", "cats", manifest.digest) is None
    assert store.list_dirs("refs") == []


def test_loser_of_a_race_gets_the_manifest_of_the_winner(store):
    winner = make(store)
    loser = manifest_of()
    object.__setattr__(loser, "versions", {"sketchmill": "other"})
    assert store.publish(loser) == winner
    assert store.refs("datasets", "cats") == [winner.digest]


def test_two_publishers_of_one_spec_at_once_agree(store):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make(store), range(8)))
    assert len(set(map(str, made))) == 1
    assert store.refs("datasets", "cats") == [made[0].digest]
    check_whole(store)


def test_many_publishers_of_one_name_all_get_a_ref(store):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda seed: make(store, spec={"seed": seed}), range(8)))
    assert sorted(store.refs("datasets", "cats")) == sorted(m.digest for m in made)
    check_whole(store)


@pytest.mark.parametrize(
    "new_store",
    ["memory", *(pytest.param(sort, marks=pytest.mark.slow) for sort in ("directory", "s3"))],
    indirect=True,
)
def test_crash_at_any_operation_leaves_a_whole_store_that_a_rerun_completes(new_store):
    whole = new_store()
    counting = crashing(whole, -1, is_done=False)
    make_pair(counting)
    assert counting.count > 15
    numbers = range(0, counting.count, crash_step(whole))
    crashes = [(number, is_done) for number in numbers for is_done in (False, True)]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda crash: check_crash(new_store(), whole, *crash), crashes):
            pass


def make_pair(store: Store) -> Manifest:
    """Make an artifact and another from it."""
    return make(store, inputs=(make(store, name="mice"),))


def check_crash(store: Store, whole: Store, number: int, is_done: bool) -> None:
    """Crash at one operation, look at what is left, run again and compare with `whole`."""
    with pytest.raises(Crash):
        make_pair(crashing(store, number, is_done=is_done))
    check_whole(store)
    make_pair(store)
    assert content_of(store) == content_of(whole), number


@pytest.mark.parametrize("change", ["truncated", "flipped", "missing"])
def test_damage_is_found_and_never_read(store, change):
    manifest = make(store)
    path = f"{manifest.prefix}/data/train-00000.parquet"
    content = store.get(path)
    if change == "missing":
        store.delete(path)
    else:
        store.put(path, content[:-1] if change == "truncated" else b"Q" + content[1:])
    assert len(store.damaged(manifest)) == 1
    with pytest.raises((StoreError, FileNotFoundError)):
        store.read(manifest, "data/train-00000.parquet")


def test_manifest_at_another_address_is_refused(store):
    manifest, other = make(store), manifest_of(spec={"seed": 2})
    content = store.get(f"{manifest.prefix}/{MANIFEST_NAME}")
    store.put(f"{other.prefix}/{MANIFEST_NAME}", content)
    with pytest.raises(StoreError, match="belongs to"):
        store.find("datasets", "cats", other.digest)


@pytest.mark.parametrize(
    "change", [(b'"seed": 0', b'"seed": 7'), (b'"train": 3', b'"train": 4'), (b"}", b"")]
)
def test_manifest_that_was_changed_is_refused_by_its_path(store, change):
    manifest = make(store)
    path = f"{manifest.prefix}/{MANIFEST_NAME}"
    store.put(path, store.get(path).replace(*change))
    with pytest.raises(StoreError, match=rf"{path}.*delete {manifest.prefix}"):
        store.find("datasets", "cats", manifest.digest)


def test_old_manifest_whose_spec_was_changed_is_found(store):
    manifest = dataclasses.replace(manifest_of(), schema_version=1)
    put_files(store, manifest)
    store.publish(manifest)
    path = f"{manifest.prefix}/{MANIFEST_NAME}"
    store.put(path, store.get(path).replace(b'"seed": 0', b'"seed": 7'))
    found = store.find("datasets", "cats", manifest.digest)
    assert store.damaged(found) == ["manifest.json: spec and inputs do not give its digest"]


def test_damaged_manifest_is_named_and_the_others_are_listed(store, caplog):
    bad, good = make(store), make(store, spec={"seed": 1})
    path = f"{bad.prefix}/{MANIFEST_NAME}"
    store.put(path, store.get(path)[:-20])
    assert list(store.manifests("datasets")) == [good]
    assert path in caplog.text
    assert [entry.path for entry in store.unreadable("datasets")] == [path]
    assert store.latest("datasets", "cats") == good
    assert store.resolve("datasets", good.digest[:8]) == good


@pytest.mark.parametrize("path", ["MANIFEST.json", "readme.MD", "Data/train-00000.parquet"])
def test_files_whose_names_differ_in_case_alone_are_refused(store: Store, path):
    manifest = manifest_of()
    put_files(store, manifest)
    store.put(f"{manifest.prefix}/{path}", b"x")
    with pytest.raises(StoreError, match="collides"):
        store.publish(with_file(manifest, path))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_s3_that_fails_now_and_then_is_asked_again(faults, fault):
    store = open_store(f"s3://{BUCKET}/faults-{fault}")
    whole = open_store("memory://")
    make(whole)
    for number in range(16):
        faults.next = [*[None] * number, fault, fault]
        make(store)
        check_whole(store)
    assert content_of(store) == content_of(whole)


@pytest.mark.slow
def test_s3_that_stays_down_is_given_up(faults, monkeypatch):
    monkeypatch.setitem(RETRY_CONFIG, "max_retries", 2)
    store = open_store(f"s3://{BUCKET}/down")
    faults.forever = BUSY
    with pytest.raises(obstore.exceptions.BaseError, match="503"):
        store.put("a", b"x")
    assert faults.requests == 3
