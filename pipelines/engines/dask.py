"""A Dask cluster: ask its workers before work begins, wait for the work, and say what went wrong.

    ask_workers   versions, then the store and the files, of every worker -> what each lacks
    run_on        Beam's DaskRunner, with an end to every wait and errors that name the address

The scheduler hands out tasks, gives those of a lost worker to others, and forgets what a client
that is gone has asked for. Units are idempotent, so nothing of that changes a byte. Scheduler,
workers and client exchange pickles: whoever reaches one of them runs code there.
"""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipelines.engines.quiet import quiet_dask
from pipelines.processes.progress import doing
from pipelines.sources.files import file_size
from pipelines.store.artifacts import Store, existing_store
from pipelines.store.backends import one_line
from pipelines.store.errors import EngineError
from pipelines.store.versions import versions_of

# Together with what TCP needs to notice that a host is gone (30 s in Dask) less than a minute.
CONNECT_SEC = 20.0
# All workers have answered by then; a store without credentials takes its time to say so.
ANSWER_SEC = 60.0
# Workers may be started anew meanwhile.
LONELY_SEC = 60.0
_LOOK_SEC = 2.0
_CLOSE_SEC = 3.0
_FOLDER = "attempts/cluster"
# What is not done when the connection to the scheduler breaks.
_CANCELLED = (asyncio.CancelledError, CancelledError)
_COMPARED = "apache-beam"
Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker has, and what it lacks to do our work: nothing, if it can."""

    address: str
    has: str
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a worker is asked.

    read     stores to read from, and the names that are in each
    write    the store to write to
    marker   what is there
    sizes    bytes of files, by path or URL
    """

    read: Mapping[str, Sequence[str]] = field(default_factory=dict)
    write: str
    marker: str
    sizes: Mapping[str, int]


def check_workers(
    address: str, stores: Sequence[Store], place: Store, files: Sequence[str]
) -> None:
    """Raise EngineError unless every worker has our versions, the stores and the files.

    stores  what is read
    place   where the work's results go
    files   paths and URLs of the source's
    """
    with doing("cluster", f"asking the workers of {address}"):
        reports = ask_workers(address, stores, place, files)
    if not reports:
        raise EngineError(
            f"the scheduler at {address} has no worker: start some (dask worker {address})"
        )
    lacking = [f"{each.address} {'; '.join(each.lacks)}" for each in reports if each.lacks]
    if lacking:
        raise EngineError(
            f"{len(lacking)} of {len(reports)} workers of {address} cannot do this work: "
            f"{' | '.join(lacking)}"
        )


def ask_workers(
    address: str, stores: Sequence[Store], place: Store | None, files: Sequence[str]
) -> list[WorkerReport]:
    """Return what each worker of a cluster has and lacks; as `check_workers`.

    place: None asks for versions alone. Raises EngineError if the scheduler does not answer.
    """
    with connected(address) as client:
        workers = _workers(client, address)
        found = {each: _has(info) for each, info in workers.items()}
        answers = _of_all(client, address, versions_of, _COMPARED)
        lacks = {each: _other_versions(answers.get(each)) for each in workers}
        fit = [each for each in workers if not lacks[each]]
        if fit and place is not None:
            with _asked(stores, place, files) as question:
                said = _of_all(client, address, answer, question, workers=fit)
                for each in fit:
                    lacks[each] = _lacks(said.get(each), place)
    return [WorkerReport(each, found[each], tuple(lacks[each])) for each in sorted(found)]


def _has(info: Mapping[str, Any]) -> str:
    threads = f"{info['nthreads']} thread{'s' * (info['nthreads'] > 1)}"
    return f"{threads}, {(info['memory_limit'] or 0) / 2**30:.1f} GiB"


def _workers(client: Any, address: str) -> Mapping[str, Any]:
    return _in_time(CONNECT_SEC, address, lambda: client.scheduler_info()["workers"])


def _of_all(client: Any, address: str, ask: Callable, *given: Any, **named: Any) -> dict[str, Any]:
    """Return what each worker answers, or the exception with which it failed."""
    return _in_time(
        ANSWER_SEC, address, lambda: client.run(ask, *given, on_error="return", **named)
    )


def _other_versions(found: Any) -> list[str]:
    """Return how the versions of a worker differ from ours."""
    if ModuleNotFoundError.__name__ in repr(found):  # Dask may make another type of it
        return [f"has no sketchmill ({one_line(found)})"]
    if not isinstance(found, dict):
        return [f"did not say which versions it has: {one_line(found) if found else 'it is gone'}"]
    ours = versions_of(_COMPARED)
    ours["python"], found["python"] = (_minor(each["python"]) for each in (ours, found))
    return [
        f"has {name} {found[name]}, here it is {version}"
        for name, version in ours.items()
        if found[name] != version
    ]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


@contextlib.contextmanager
def _asked(stores: Sequence[Store], place: Store, files: Sequence[str]) -> Iterator[Question]:
    """Yield a question whose marker lies in `place` for as long as the block."""
    marker = f"{_FOLDER}/{uuid.uuid4().hex}"
    sizes = {file: size for file in files if (size := file_size(file)) is not None}
    read = {store.url: store.list_dirs("refs") for store in stores if store.url != place.url}
    place.put(marker, b"sketchmill")
    try:
        yield Question(read=read, write=place.url, marker=marker, sizes=sizes)
    finally:
        with contextlib.suppress(OSError):
            for item in list(place.objects(_FOLDER)):
                if item.path.startswith(marker):
                    place.delete(item.path)


def _lacks(said: Any, place: Store) -> list[str]:
    """Return what a worker lacks by its answer: a path that it wrote, and what it missed."""
    if not isinstance(said, tuple):
        return [f"failed to answer: {one_line(said) if said else 'it is gone'}"]
    written, lacks = said
    if not lacks and place.size(written) is None:
        lacks = [_other_place(place.url)]
    return list(lacks)


async def answer(question: Question) -> tuple[str, list[str]]:
    """Answer on a worker, in a thread, so that it goes on meanwhile."""
    return await asyncio.to_thread(_answered, question)


def _answered(question: Question) -> tuple[str, list[str]]:
    written = f"{question.marker}-{uuid.uuid4().hex}"
    lacks: list[str] = []
    try:
        _try_place(question, written)
        for url, names in question.read.items():
            if existing_store(url).list_dirs("refs") != list(names):
                lacks.append(_other_place(url))
    except Exception as error:
        lacks.append(f"does not reach the store: {one_line(error) or type(error).__name__}")
    for file, size in question.sizes.items():
        if (found := _size(file)) != size:
            is_there = f"has {found} bytes there" if isinstance(found, int) else found
            lacks.append(f"lacks a source file of {size} bytes, {file}: {is_there}")
            break  # where one is missing, mostly all are
    return written, lacks


def _try_place(question: Question, written: str) -> None:
    store = existing_store(question.write)
    if store.size(question.marker) is None:
        raise OSError(_other_place(question.write))
    store.put(written, b"sketchmill")


def _other_place(url: str) -> str:
    return f"{url} is not the store of that name here: it must be one that all machines reach"


def _size(file: str) -> int | str:
    try:
        found = file_size(file)
    except Exception as error:
        return one_line(error) or type(error).__name__
    return "it is not there" if found is None else found


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler; raise EngineError if none answers in time."""
    with quiet_dask():
        from distributed import Client

        with doing("cluster", f"waiting for the scheduler at {address}"):
            try:
                client = Client(address, timeout=CONNECT_SEC, set_as_default=False)
            except OSError as error:
                raise _no_scheduler(address) from error
        try:
            yield client
        finally:
            _closed(client)


@contextlib.contextmanager
def sent_once(address: str, work: Any) -> Iterator[Any]:
    """Yield what stands for `work` in a task, after sending the work itself to every worker."""
    with connected(address) as client:
        from pipelines.engines.kept_work import KeepWork, KeptWork

        name = f"sketchmill-{uuid.uuid4().hex}"
        _in_time(ANSWER_SEC, address, lambda: client.register_plugin(KeepWork(name, work)))
        try:
            yield KeptWork(name)
        finally:
            with contextlib.suppress(Exception):
                _in_time(_CLOSE_SEC, address, lambda: client.unregister_worker_plugin(name))


def run_on(address: str, run: Callable[[], Any]) -> Any:
    """Start Beam's job on a cluster and wait for its end; return Beam's result.

    Whatever ends the wait, an exception or Ctrl-C, cancels what is not done. Raises EngineError for
    what is the cluster's, and the runner's own exception for what a unit raised.
    """
    try:
        result = run()
    except OSError as error:
        raise _no_scheduler(address) from error
    try:
        _wait(result, address)
        result.wait_until_finish()  # raises what a task has raised
    except (*_CANCELLED, OSError) as error:
        raise _lost(address) from error
    except BaseException:
        with contextlib.suppress(Exception):
            _in_time(_CLOSE_SEC, address, result.cancel)
        raise
    finally:
        _closed(result.client)
    return result


def _wait(result: Any, address: str) -> None:
    """Wait for the tasks as long as the cluster has workers."""
    from distributed import wait

    seen = time.monotonic()
    while True:
        try:
            wait(result.futures, timeout=_LOOK_SEC)
        except TimeoutError:
            pass
        else:
            return
        if _workers(result.client, address):
            seen = time.monotonic()
        elif time.monotonic() - seen > LONELY_SEC:
            raise EngineError(
                f"the scheduler at {address} has had no worker for {LONELY_SEC:.0f} s: start some "
                f"(dask worker {address}); the same command goes on"
            )


def _no_scheduler(address: str) -> EngineError:
    return EngineError(
        f"no Dask scheduler answers at {address} within {CONNECT_SEC:.0f} s: start one (dask "
        "scheduler), or give the address that it prints; the same command then goes on"
    )


def _lost(address: str) -> EngineError:
    return EngineError(
        f"the Dask scheduler at {address} was lost: start it and its workers again, or take another "
        "one; the same command goes on with what is left"
    )


def _closed(client: Any) -> None:
    with contextlib.suppress(Exception):
        _in_time(_CLOSE_SEC, "", client.close)


def _in_time(limit_sec: float, address: str, call: Callable[[], Returned]) -> Returned:
    """Return what `call` returns, in another thread.

    Raises EngineError if the scheduler is lost, or takes longer than this.
    """
    done: Future[Returned] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="dask", daemon=True).start()
    try:
        return done.result(limit_sec)
    except TimeoutError as error:
        raise EngineError(
            f"the Dask cluster at {address} did not answer within {limit_sec:.0f} s: run it again"
        ) from error
    except (*_CANCELLED, OSError) as error:
        raise _lost(address) from error
