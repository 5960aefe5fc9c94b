"""A Dask cluster on loopback: a scheduler and workers, each a process of its own, with its nanny."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ceph import free_ports

from pipelines.processes.guard import descendants

ROOT = Path(__file__).parents[2]
START_SEC = 90
# A worker takes this long for a shard, so that a test can kill something meanwhile.
SLOW = """
import os, time
from pipelines.dataset.shards import BuildWork

gather = BuildWork.__dict__.get("gather", BuildWork._gather)  # this may be executed twice
BuildWork.gather = gather

def slow(self, unit, store):
    time.sleep(float(os.environ["SLOW_SEC"]))
    return self.gather(unit, store)

BuildWork._gather = slow
"""


class Cluster:
    """A scheduler at `address`; every process dies with the tests."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{port}"
        self.workers: list[subprocess.Popen] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.scheduler = self._start("dask_scheduler", ["--host=127.0.0.1", f"--port={port}"], {})

    def add_worker(self, *, slow_sec: float = 0.0, **environment: str | None) -> None:
        """Start a worker; None takes a variable out of its environment."""
        number = len(self.workers)
        options = [self.address, "--host=127.0.0.1", "--nworkers=1", "--nthreads=1"]
        options.append(f"--local-directory={self.folder / f'worker-{number}'}")
        if slow_sec:
            preload = self.folder / "slow.py"
            preload.write_text(SLOW)
            options.append(f"--preload={preload}")
            environment["SLOW_SEC"] = str(slow_sec)
        self.workers.append(self._start("dask_worker", options, environment))

    def wait(self, number: int) -> None:
        """Wait until this many workers are there."""
        from distributed import Client

        deadline = time.monotonic() + START_SEC
        with Client(self.address, timeout=START_SEC, set_as_default=False) as client:
            while len(client.scheduler_info()["workers"]) != number:
                assert time.monotonic() < deadline, f"not {number} workers; logs in {self.folder}"
                time.sleep(0.1)

    def tasks(self) -> int:
        """Return how many tasks the scheduler knows."""
        from distributed import Client

        with Client(self.address, timeout=START_SEC, set_as_default=False) as client:
            return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))

    def stop(self) -> None:
        """Kill all that is left."""
        for process in [*self.workers, self.scheduler]:
            kill(process)

    def _start(
        self, module: str, options: list[str], environment: Mapping[str, str | None]
    ) -> subprocess.Popen:
        own = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable]
        command += ["-m", f"distributed.cli.{module}", "--no-dashboard", *options]
        with (self.folder / f"{module}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={name: value for name, value in own.items() if value is not None},
                cwd=self.folder,
                start_new_session=True,
            )


def kill(process: subprocess.Popen) -> None:
    """Kill a process (SIGKILL) and all below it: a nanny and its worker."""
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    process.wait()


@contextmanager
def cluster(folder: Path, *, workers: int = 2, slow_sec: float = 0.0) -> Iterator[Cluster]:
    """Run a cluster for as long as the block."""
    made = Cluster(folder)
    try:
        for _ in range(workers):
            made.add_worker(slow_sec=slow_sec)
        made.wait(workers)
        yield made
    finally:
        made.stop()
