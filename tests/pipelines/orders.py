"""Every order in which actors call one store: one runs at a time, each call may hand over.

An actor is a function of a store. It runs in a thread of its own, on a view of the store that asks
before each call who goes next: whoever ran, unless the order says that another does. An order is
who begins, and after how many calls of all together who takes over; who ends or waits for others
hands over for nothing. All orders with up to so many hand-overs are run, each from a fresh store.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pipelines.store.artifacts import Store
from pipelines.store.errors import BusyError
from pipelines.store.objects import ObjectInfo

# Of a store of memory and of files; `objects` and `list_dirs` count as one call each.
CALLS = (
    *("put", "put_chunks", "create", "delete"),
    *("get", "get_range", "view", "sha256", "size", "list_dirs"),
)
AGE = timedelta(days=30)
# Actors that only wait do so for ever.
_MAX_WAITS = 1000

Actor = Callable[[Store], Any]


@dataclass(frozen=True)
class Order:
    """Who begins, and who takes over before the call of which number."""

    first: int
    switches: Mapping[int, int]


@dataclass(frozen=True)
class Ran:
    """What came of one order.

    results  what each actor returned, None if it was refused as too busy
    calls    at each call who made it and who else was at work
    """

    order: Order
    store: Store
    results: list[Any]
    calls: list[tuple[int, tuple[int, ...]]]


class AgedStore(Store):
    """A store some of whose objects look as if they had been written long ago."""

    old: set[str]

    def objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List, with the age of the old ones."""
        for item in list(super().objects(prefix)):
            is_old = item.path in self.old
            yield replace(item, modified=item.modified - AGE) if is_old else item

    def put(self, path: str, content: bytes) -> None:
        """Write, which makes it new."""
        super().put(path, content)
        self.old.discard(path)


class OrderedStore(AgedStore):
    """An actor's view of a store: before each call another may go first."""

    def objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List at once, as one call."""
        _ask()
        return iter(list(super().objects(prefix)))


def _asking(name: str) -> Callable[..., Any]:
    def call(self: OrderedStore, *arguments: Any) -> Any:
        _ask()
        return getattr(super(OrderedStore, self), name)(*arguments)

    return call


for _name in CALLS:
    setattr(OrderedStore, _name, _asking(_name))

# The turns that the actor of this thread takes, and its number; threads that it starts have none.
_mine = threading.local()
_real_sleep = time.sleep


def _ask() -> None:
    if turns := getattr(_mine, "turns", None):
        turns.call(_mine.number)


def sleep(seconds: float) -> None:
    """Stand in for time.sleep: an actor that waits lets others go on, and no time passes."""
    if turns := getattr(_mine, "turns", None):
        turns.wait(_mine.number)
    else:
        _real_sleep(seconds)


def aged(store: Store) -> AgedStore:
    """Return the store; all that it holds now looks old."""
    made = AgedStore(store.backend, store.url)
    made.old = {item.path for item in store.objects()}
    return made


def all_orders(
    prepare: Callable[[], AgedStore], actors: Sequence[Actor], *, switches: int, step: int = 1
) -> Iterator[Ran]:
    """Run the actors on a store of `prepare` in every order with up to so many switches.

    step: where a run takes long, another takes over only before every so many-th call.
    """
    waiting = [Order(first, {}) for first in range(len(actors))]
    while waiting:
        order = waiting.pop()
        ran = run(prepare(), actors, order)
        yield ran
        if len(order.switches) == switches:
            continue
        for number in range(max(order.switches, default=0) + 1, len(ran.calls), step):
            waiting += [
                Order(order.first, {**order.switches, number: other})
                for other in ran.calls[number][1]
            ]


def run(store: AgedStore, actors: Sequence[Actor], order: Order) -> Ran:
    """Run the actors in one order; an actor's failure but BusyError is raised."""
    turns = _Turns(order, len(actors))
    view = OrderedStore(store.backend, store.url)
    view.old = store.old
    threads = [
        threading.Thread(target=turns.act, args=(number, actor, view), daemon=True)
        for number, actor in enumerate(actors)
    ]
    for thread in threads:
        thread.start()
    turns.gates[order.first].release()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), order
    for error in turns.errors:
        raise AssertionError(f"{order}: {error!r}") from error
    return Ran(order, store, turns.results, turns.calls)


class _Turns:
    """Whose turn it is."""

    def __init__(self, order: Order, num: int) -> None:
        self.gates = [threading.Semaphore(0) for _ in range(num)]
        self.results: list[Any] = [None] * num
        self.errors: list[BaseException] = []
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        self._order = order
        self._at_work = list(range(num))
        self._waits = 0

    def act(self, number: int, actor: Actor, store: Store) -> None:
        """Be an actor from its first turn to its end."""
        _mine.turns, _mine.number = self, number
        self.gates[number].acquire()
        try:
            self.results[number] = actor(store)
        except BusyError:
            pass
        except BaseException as error:
            self.errors.append(error)
        following = self._following(number)
        self._at_work.remove(number)
        if following is not None:
            self.gates[following].release()

    def call(self, number: int) -> None:
        """Let another go first if the order says so."""
        others = tuple(other for other in self._at_work if other != number)
        self.calls.append((number, others))
        other = self._order.switches.get(len(self.calls) - 1)
        if other in others:
            self._hand(number, other)

    def wait(self, number: int) -> None:
        """Let the others go on."""
        self._waits += 1
        assert self._waits < _MAX_WAITS, f"{self._order}: all wait"
        if (following := self._following(number)) is not None:
            self._hand(number, following)

    def _hand(self, number: int, other: int) -> None:
        self.gates[other].release()
        self.gates[number].acquire()

    def _following(self, number: int) -> int | None:
        later = [other for other in self._at_work if other > number]
        return min(later, default=min(set(self._at_work) - {number}, default=None))
