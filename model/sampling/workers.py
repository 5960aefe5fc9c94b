"""Worker processes that sample batches for a parent, with one thread each.

    parent --stdin-->  "64 128\n"            rows start and stop; end of file ends the worker
    worker --stdout--> images, then nats     h * w bytes and a float64 for each row

A worker is `python -m model.sampling.workers` with the store, the model and the spec; it shares
no state with the parent, so it runs under any parent and ends with it. Threads slow small matrix
products down, so a CPU runs one process per core. Each of several GPUs has its own process,
which sees no other GPU (CUDA_VISIBLE_DEVICES).
"""

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, BinaryIO

import numpy as np
import torch

from model.sampling.drawer import Drawer, Drawn, open_drawer
from model.sampling.spec import SampleSpec, spec_from_json, spec_to_json
from pipelines.processes.guard import end_with_parent
from pipelines.store.artifacts import Store, open_store
from pipelines.store.failures import failure_from_json, failure_to_json
from pipelines.store.manifest import Manifest

_ERROR_LINES = 20
# A worker whose last line is its failure (pipelines.store.failures) ends so.
_TOLD_CODE = 71
# Prefetched batches per process: a worker does not wait while a shard is
# written, and memory does not grow with the number of drawings.
_AHEAD = 4
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerError(RuntimeError):
    """A worker exited before it finished, not because of bad input."""


class Worker:
    """One process, as its parent sees it."""

    def __init__(
        self, spec: SampleSpec, model: Manifest, store: Store, *, gpu: str | None = None
    ) -> None:
        """Start the process; `gpu` is the one it may use, as CUDA_VISIBLE_DEVICES names it."""
        height, width = model.summary["image_shape"][:2]
        self._shape = (height, width)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in stop)
        command = [sys.executable, "-m", "model.sampling.workers", "--store", store.url]
        command += ["--model", f"{model.name}@{model.digest}", "--parent", str(os.getpid())]
        command += ["--spec-json", json.dumps(spec_to_json(spec))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | _ONE_THREAD | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
        )

    def draw(self, batch: slice) -> Drawn:
        """Request one batch and wait for it; raise the worker's failure."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        num, (height, width) = batch.stop - batch.start, self._shape
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{batch.start} {batch.stop}\n".encode())
            stdin.flush()
        images = np.frombuffer(self._read(stdout, num * height * width), np.uint8)
        nats = np.frombuffer(self._read(stdout, 8 * num), np.float64)
        return Drawn(images.reshape(num, height, width), nats)

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read(self, stream: IO[bytes], num_bytes: int) -> bytes:
        content = stream.read(num_bytes)
        if len(content) < num_bytes:
            code = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            if code == _TOLD_CODE:
                raise failure_from_json(lines[-1], WorkerError)
            tail = "\n".join(lines[-_ERROR_LINES:])
            raise WorkerError(f"a sampling process ended with exit code {code}:\n{tail}")
        return content


@contextlib.contextmanager
def drawing_processes(
    spec: SampleSpec,
    model: Manifest,
    store: Store,
    batches: Sequence[slice],
    *,
    num: int,
    gpus: Sequence[str] = (),
) -> Iterator[Iterator[Drawn]]:
    """Yield the drawings of each batch, in order, drawn by `num` processes.

    gpus: the names of the GPUs, which the processes take in turn. On any way out the processes
    are ended. Raises WorkerError if one fails, and what bad input raises in one process.
    """
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    workers: list[Worker] = []
    pool = ThreadPoolExecutor(num)

    def draw(batch: slice) -> Drawn:
        worker = idle.get()
        try:
            return worker.draw(batch)
        finally:
            idle.put(worker)

    try:
        # The kernel ends them when the thread that started them ends: that is this one.
        for index in range(num):
            gpu = gpus[index % len(gpus)] if gpus else None
            workers.append(Worker(spec, model, store, gpu=gpu))
            idle.put(workers[-1])
        yield _in_order(pool, draw, batches, ahead=_AHEAD * num)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()


def _in_order(
    pool: ThreadPoolExecutor,
    draw: Callable[[slice], Drawn],
    batches: Sequence[slice],
    *,
    ahead: int,
) -> Iterator[Drawn]:
    """Yield the drawings of each batch in order; the number of batches in flight is bounded."""
    begun: deque[Future[Drawn]] = deque()
    for batch in batches:
        begun.append(pool.submit(draw, batch))
        if len(begun) > ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(index) for index in range(count)]
    return [name.strip() for name in names[:count]]


def serve(drawer: Drawer, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    for line in requests:
        start, stop = line.split()
        drawn = drawer.draw(slice(int(start), int(stop)))
        answers.write(drawn.images.tobytes())
        answers.write(drawn.nats.astype(np.float64).tobytes())
        answers.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker on standard input and output."""
    parser = argparse.ArgumentParser(prog="python -m model.sampling.workers")
    for name in ("--store", "--model", "--spec-json", "--parent"):
        parser.add_argument(name, required=True)
    given = parser.parse_args(arguments)
    end_with_parent(int(given.parent))
    torch.set_num_threads(1)
    try:
        store = open_store(given.store)
        spec = spec_from_json(json.loads(given.spec_json))
        drawer = open_drawer(store, store.resolve("models", given.model), spec)
        serve(drawer, sys.stdin.buffer, sys.stdout.buffer)
    except Exception as error:
        sys.stderr.write(f"\n{failure_to_json(error)}\n")
        return _TOLD_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
