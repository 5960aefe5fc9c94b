"""Work beside garbage collection, in every order of their calls: see pipelines/store/leases.py.

Whatever an actor reported as made, kept or pinned is there and whole, with all it was made of; no
ref or pin leads to nothing; nothing is left of leases and sweeps; and a collection takes nothing
that is needed at its end. An actor may be refused (BusyError), but not in every order.
"""

import contextlib
import itertools
import os
import types
from collections.abc import Callable, Sequence
from datetime import timedelta

import obstore
import pytest
from orders import Actor, AgedStore, OrderedStore, aged, all_orders, sleep
from store_cases import FILES, check_whole, content_of, make, manifest_of, pins, put_files

from pipelines.dataset.build import build_dataset
from pipelines.dataset.spec import DatasetSpec
from pipelines.dataset.verify import verify_dataset
from pipelines.sources.base import Source
from pipelines.sources.registry import open_source
from pipelines.store.artifacts import Store, open_store
from pipelines.store.collect import GRACE, Collector, needing, pin, unpin
from pipelines.store.errors import AbsentError, BusyError, FullError
from pipelines.store.held import HeldStore, check_held
from pipelines.store.leases import LEASE_TTL, holding
from pipelines.store.manifest import Manifest
from pipelines.store.transfer import copy_artifact

# Minutes of orders, commands and servers: for the whole run.
pytestmark = pytest.mark.slow

OLD = manifest_of(spec={"seed": 0})
NEW = manifest_of(spec={"seed": 1})
NET = {"kind": "models", "name": "net"}
OLD_NET = manifest_of(**NET, spec={"seed": 0}, inputs=(OLD,))
WEIGHTS = {"weights": b"w" * 50}


class _Serial:
    """Stands in for a pool of threads: what they would do is part of the order."""

    def __init__(self, _size: int) -> None:
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    """No time passes while an actor waits for others, and none does two things at once."""
    monkeypatch.setattr("time.sleep", sleep)
    for module in ("contents", "transfer"):
        monkeypatch.setattr(f"pipelines.store.{module}.ThreadPoolExecutor", _Serial)


def address(manifest: Manifest):
    return manifest.kind, manifest.name, manifest.digest


def superseded() -> AgedStore:
    """Return a store with a dataset, a model of it, and newer ones of both names."""
    store = open_store("memory://")
    for seed in range(2):
        dataset = make(store, spec={"seed": seed})
        make(store, **NET, spec={"seed": seed}, inputs=(dataset,))
    return aged(store)


def unfinished() -> AgedStore:
    """Return a store with the files of an attempt that was killed long ago."""
    store = open_store("memory://")
    put_files(store, OLD)
    store.put("attempts/shards/cats/record.json", b"{}")
    return aged(store)


def empty() -> AgedStore:
    return aged(open_store("memory://"))


def gc(store: Store) -> list[Manifest]:
    """Collect whatever is unneeded at this moment."""
    Collector(store, grace=timedelta(0), keep_refs=1).collect()
    return []


class FullStore(OrderedStore):
    """A store on a disk that has no room for what a collection announces."""

    def put(self, path: str, content: bytes) -> None:
        """Write only what takes no room."""
        if path.startswith("sweeping/") and content:
            raise FullError(f"{self.url} is full")
        super().put(path, content)


def gc_without_room(store: Store) -> list[Manifest]:
    full = FullStore(store.backend, store.url)
    full.old = store.old
    return gc(full)


def reuse(store: Store) -> list[Manifest]:
    found = store.reuse(*address(OLD_NET))
    return [found] if found else []


def build(store: Store) -> list[Manifest]:
    """Make an artifact as a stage does, on top of what a killed attempt left."""
    with holding(store, [OLD.prefix], "build"):
        return [make(store, spec={"seed": 0})]


def go_on(store: Store) -> list[Manifest]:
    """Make an artifact of files that are there already, and of scratch that tells of them."""
    record = "attempts/shards/cats/record.json"
    with holding(store, [OLD.prefix, "attempts/shards/cats"], "build"):
        there = [store.size(f"{OLD.prefix}/{path}") for path in FILES]
        if None in (*there, store.size(record)):
            put_files(store, OLD)
            store.put(record, b"{}")
        assert store.get(record) == b"{}"
        return [store.publish(OLD)]


def publish_newer(store: Store) -> list[Manifest]:
    return [make(store, spec={"seed": 2})]


def train(store: Store) -> list[Manifest]:
    """Make a model of a dataset that nothing else needs."""
    manifest = manifest_of(**NET, spec={"seed": 7}, files=WEIGHTS, inputs=(OLD,))
    with needing(store, [OLD], "train"):
        assert store.damages(OLD) == []
        return [store.publish_files(manifest, WEIGHTS), OLD]


def read(store: Store) -> list[Manifest]:
    """Read an artifact under a lease, as a command does."""
    with needing(store, [OLD_NET], "evaluate"):
        for manifest in (OLD_NET, OLD):
            assert store.find(*address(manifest))
            assert store.damages(manifest) == []
    return []


class OrderedHeldStore(HeldStore, OrderedStore):
    """What a command works with, whose calls are ordered too."""


def command(store: Store) -> list[Manifest]:
    """Resolve what is named, and read it."""
    held = OrderedHeldStore(store, "evaluate")
    held.old = store.old
    with held.leases:
        try:
            model = held.resolve("models", OLD_NET.digest)
        except AbsentError:  # a collection was earlier
            raise BusyError from None
        assert held.damages(model) == held.damages(OLD) == []
    return []


def verify(store: Store) -> list[Manifest]:
    """Check all there is: nothing is damaged."""
    for manifest in list(store.manifests("models")):
        with contextlib.suppress(BusyError):
            assert check_held(manifest, store, store.damaged) == []
    return []


def pin_old(store: Store) -> list[Manifest]:
    pin(store, OLD_NET, "shown in a paper")
    return [OLD_NET, OLD]


def unpin_old(store: Store) -> list[Manifest]:
    unpin(store, OLD_NET)
    return []


def pull(store: Store) -> list[Manifest]:
    """Copy an artifact here from a store that has it."""
    copy_artifact(OLD_NET, superseded(), store)
    return [OLD_NET, OLD]


def push(store: Store) -> list[Manifest]:
    """Copy an artifact from here to a store that has nothing."""
    target = empty()
    copy_artifact(OLD_NET, store, target)
    assert target.find(*address(OLD_NET))
    assert target.find(*address(OLD))
    check_whole(target)
    return []


def check(store: Store, claimed: Sequence[Manifest]) -> None:
    """Assert what must hold once all have ended."""
    check_whole(store)
    for prefix in pins(store):
        assert store.find(*prefix.split("/")), f"pin of nothing: {prefix}"
    for manifest in claimed:
        assert store.find(*address(manifest)), f"reported, and gone: {manifest.prefix}"
    flags = [*store.objects("running"), *store.objects("sweeping")]
    assert flags == []
    before = needed(store)
    gc(store)
    gc(store)
    left = {m.prefix for kind in ("datasets", "models") for m in store.manifests(kind)}
    assert left == before
    assert [item.path for item in store.objects("condemned")] == []


def needed(store: Store) -> set[str]:
    """Return what must stay under keep_refs=1, found without the code under test."""
    waiting = list(pins(store))
    for kind in ("datasets", "models"):
        for name in store.list_dirs(f"refs/{kind}"):
            waiting += [f"{kind}/{name}/{digest}" for digest in store.refs(kind, name)[-1:]]
    found = set()
    while waiting:
        prefix = waiting.pop()
        manifest = store.find(*prefix.split("/"))
        assert manifest, f"needed, and gone: {prefix}"
        found.add(prefix)
        waiting += [f"{ref.kind}/{ref.name}/{ref.digest}" for ref in manifest.inputs]
    return found


def check_all(
    prepare: Callable[[], AgedStore], *actors: Actor, may_undo: bool = False, **bounds: int
) -> None:
    """Check all orders; may_undo: what one actor has reported may be undone by another."""
    refused, number = [0] * len(actors), 0
    for ran in all_orders(prepare, actors, **bounds):
        number += 1
        claimed = [] if may_undo else itertools.chain(*filter(None, ran.results))
        try:
            check(ran.store, list(claimed))
        except AssertionError as error:
            raise AssertionError(f"{error}: {ran.order} of {len(ran.calls)} calls") from error
        refused = [
            count + (result is None) for count, result in zip(refused, ran.results, strict=True)
        ]
    assert number > 30
    assert all(count < number for count in refused)


# Every order, which takes minutes: SKETCHMILL_ORDERS=all pytest ...
IS_WHOLE = os.environ.get("SKETCHMILL_ORDERS") == "all"
# One takes over from another at any call, or at some of them and is interrupted itself.
BOUNDS = pytest.mark.parametrize(("switches", "step"), [(1, 1), (2, 3 if IS_WHOLE else 5)])
# With three at work, at every fourth call where time is short.
STEPS = pytest.mark.parametrize("step", [4, 1] if IS_WHOLE else [4])
PAIRS = [
    (superseded, reuse),
    (superseded, build),
    (superseded, train),
    (superseded, read),
    (superseded, command),
    (superseded, verify),
    (superseded, pin_old),
    (superseded, push),
    (superseded, pull),
    (unfinished, build),
    (unfinished, go_on),
    (empty, pull),
    (empty, publish_newer),
]


@BOUNDS
@pytest.mark.parametrize(("prepare", "actor"), PAIRS, ids=lambda each: each.__name__)
def test_work_beside_a_collection_in_every_order(prepare, actor, switches, step):
    check_all(prepare, actor, gc, switches=switches, step=step)


@pytest.mark.parametrize(
    ("prepare", "actor"),
    [(superseded, read), (superseded, pin_old), (superseded, train), (unfinished, go_on)],
    ids=lambda each: each.__name__,
)
def test_work_beside_a_collection_on_a_full_disk_in_every_order(prepare, actor):
    check_all(prepare, actor, gc_without_room, switches=1, step=1)


@STEPS
@pytest.mark.parametrize("actor", [reuse, build, pin_old, train], ids=lambda each: each.__name__)
def test_work_beside_two_collections_in_every_order(actor, step):
    check_all(superseded, gc, gc, actor, switches=1, step=step)


@STEPS
@pytest.mark.parametrize(
    ("prepare", "one", "other"),
    [
        (superseded, pin_old, unpin_old),
        (superseded, pin_old, publish_newer),
        (superseded, train, publish_newer),
        (superseded, reuse, publish_newer),
        (superseded, read, unpin_old),
        (unfinished, build, go_on),
        (empty, pull, publish_newer),
    ],
    ids=lambda each: each.__name__,
)
def test_two_at_work_beside_a_collection_in_every_order(prepare, one, other, step):
    check_all(prepare, one, other, gc, switches=1, step=step, may_undo=True)


@pytest.fixture
def source(write_npy_files, tmp_path) -> Source:
    return open_source(str(write_npy_files(("bee", "sun"), 20)), ("bee", "sun"), tmp_path)


@pytest.fixture
def without_beam(monkeypatch, source):
    """Units are done here, one after another; what is linked has the age of what it links to."""

    def run_units(units, work, store, **_):
        for unit in units:
            work(unit, store)
        return {}

    monkeypatch.setattr("pipelines.beam.run_units", run_units)
    monkeypatch.setattr("pipelines.beam.watch", lambda *_: contextlib.nullcontext())


@pytest.fixture
def earlier(monkeypatch, source) -> Callable[[str], Callable[[], AgedStore]]:
    """Return what prepares stores where a dataset of a layout was built long ago."""

    def prepared(layout: str) -> Callable[[], AgedStore]:
        store = open_store("memory://")
        build_dataset(DatasetSpec(class_names=("bee", "sun"), layout=layout), source, store, "one")
        content = content_of(store)
        old: set[str] = set()

        def copy(backend, path: str, target: str) -> None:
            obstore.copy(backend, path, target)
            old.add(target)

        def prepare() -> AgedStore:
            store = open_store("memory://")
            for path in content:
                store.put(path, content[path])
            made = aged(store)
            old.clear()
            old.update(made.old)
            made.old = old
            return made

        monkeypatch.setattr(
            "pipelines.dataset.class_shards.obstore", types.SimpleNamespace(copy=copy)
        )
        return prepare

    return prepared


def building(source: Source, layout: str) -> Actor:
    """Return what builds another dataset of the same drawings."""
    spec = DatasetSpec(class_names=("sun", "bee"), layout=layout, seed=int(layout == "packed"))

    def build_other(store: Store) -> list[Manifest]:
        return [build_dataset(spec, source, store, "two")]

    return build_other


@pytest.mark.parametrize(
    ("grace", "step"),
    [(GRACE, 3), (timedelta(0), 3), (GRACE, 1)] if IS_WHOLE else [(GRACE, 5), (timedelta(0), 7)],
)
@pytest.mark.parametrize("layout", ["packed", "linked"])
@pytest.mark.usefixtures("without_beam")
def test_build_beside_a_collection_in_every_order(source, earlier, layout, grace, step):
    """What a build finds of earlier ones, however old, stays while it is at work."""

    def collect(store: Store) -> list[Manifest]:
        Collector(store, grace=grace, keep_refs=1).collect()
        return []

    actors = [building(source, layout), collect]
    for ran in all_orders(earlier(layout), actors, switches=1, step=step):
        assert ran.results[0], f"{ran.order} of {len(ran.calls)} calls"
        check_whole(ran.store)
        assert verify_dataset(ran.results[0][0], ran.store) == []


@pytest.mark.parametrize("layout", ["packed", "linked"])
@pytest.mark.usefixtures("without_beam")
def test_build_that_was_stopped_for_longer_than_its_lease_is_told_to_run_again(
    monkeypatch, source, earlier, layout
):
    monkeypatch.setattr("pipelines.store.leases.LEASE_TTL", -LEASE_TTL)
    actors = [building(source, layout), gc]
    refused = [
        ran.results[0] is None for ran in all_orders(earlier(layout), actors, switches=1, step=2)
    ]
    assert set(refused) == {True, False}
