"""Train in processes of their own: torchrun under a parent that may die at any moment.

    parent (command line, Prefect task)
      `-- agent: torchrun, in a session of its own; SIGTERM when the parent dies
            `-- ranks: model.training.train; SIGTERM when the agent dies

A parent that is stopped sends SIGTERM to the agent, which passes it on; the ranks finish their
step, save and exit with 143. Whatever is left after that is killed.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import torch

from model.data import SPLITS, count_rows
from model.options import Device, RunOptions, options_to_json, run_folder, threads_per_rank
from model.ranks import Interrupted, device_kind, read_failure
from model.training.spec import TrainSpec, check_fit, check_splits, run_digest, spec_to_json
from pipelines.processes.parent import BAD_INPUT, PARENT_PID
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.leases import holding
from pipelines.store.manifest import Manifest

_LOG = logging.getLogger(__name__)

# What ranks get to finish a step and save before the agent kills them, and the parent the agent.
SHUTDOWN_SEC = 60
_AGENT_MARGIN_SEC = 15
# Fewer, and the work that does not depend on the number of images weighs more than theirs.
MIN_RANK_IMAGES = 4
# Lines of the ranks' errors that go along with one, for --debug.
_TAIL_LINES = 60


class LaunchError(RuntimeError):
    """The ranks ended without a model; the message is what the first to fail said."""


def train_in_processes(
    spec: TrainSpec,
    dataset: Manifest,
    store: Store,
    name: str,
    *,
    num_processes: int = 0,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    torchrun_options: Sequence[str] = (),
) -> Manifest:
    """Train with `num_processes` ranks on this machine and return the published model.

    num_processes 0 means one a GPU, or on a CPU as `default_processes` says.
    torchrun_options replace --standalone for several machines (--nnodes, --rdzv-endpoint, ...).
    Raises Interrupted if this process or the ranks were told to stop, ValueError if the spec does
    not fit the dataset, a split is missing or a file is damaged, FinalError if training
    diverges, LaunchError if the ranks failed of anything else. A memory:// store cannot be shared
    with other processes and is refused.
    """
    if store.url.startswith("memory://"):
        raise ValueError("a memory:// store cannot be shared with other processes")
    options = options or RunOptions()
    digest = run_digest(spec, dataset)
    if found := store.reuse("models", name, digest):
        return found
    num_processes = num_processes or default_processes(spec, device=options.device)
    # With several machines only the ranks know how many they are.
    _check(spec, dataset, num_ranks=1 if torchrun_options else num_processes)
    # Of a local store: what the ranks keep between runs, however old.
    kept = [f"attempts/{run_folder(options, store, digest).name}", "attempts/drawings"]
    with (
        holding(store, kept, "train"),
        tempfile.TemporaryDirectory(prefix="sketchmill-train-") as scratch,
    ):
        spec_path, failure_path = Path(scratch, "spec.json"), Path(scratch, "failure.json")
        spec_path.write_text(json.dumps(spec_to_json(spec)))
        command = _command(num_processes, torchrun_options)
        command += ["--store", store.url, "--dataset", f"{dataset.name}@{dataset.digest}"]
        command += ["--name", name, "--spec-json", str(spec_path), "--progress-json"]
        command += ["--failure-file", str(failure_path)]
        command += ["--options-json", options_to_json(options)]
        with (
            doing("train", f"waiting for {num_processes} processes"),
            Path(scratch, "stderr").open("w+b") as errors,
            _agent(command, errors) as agent,
        ):
            _follow(agent, progress)
            code = agent.wait()
            errors.seek(0)
            tail = errors.read().decode(errors="replace")
        failure = read_failure(failure_path, LaunchError)
    if found := store.reuse("models", name, digest):
        return found
    raise failure or _failure(code, tail)


def default_processes(spec: TrainSpec, *, device: Device = "auto") -> int:
    """Return how many ranks this machine should have for a spec.

    Raises ValueError if the device is "cuda" and there is no GPU.

    On a CPU ranks of one thread beat threads (measured: 2.2 times on two cores), as long as a
    rank has MIN_RANK_IMAGES of the batch.
    """
    if device_kind(device) == "cuda":
        most = torch.cuda.device_count()
    else:
        cores = threads_per_rank(RunOptions(), 1)
        most = min(cores, spec.batch_size // MIN_RANK_IMAGES)
    return max((n for n in range(1, most + 1) if spec.batch_size % n == 0), default=1)


def _check(spec: TrainSpec, dataset: Manifest, *, num_ranks: int) -> None:
    """Raise ValueError for what the ranks would fail of, before any is started."""
    check_fit(spec, dataset, num_ranks=num_ranks)
    check_splits(dataset)
    for split in SPLITS:
        count_rows(dataset, split)


def _command(num_processes: int, torchrun_options: Sequence[str]) -> list[str]:
    rendezvous = list(torchrun_options) or ["--standalone"]
    return [
        *(sys.executable, "-m", "pipelines.processes.parent", "model.training.agent"),
        *(f"--nproc-per-node={num_processes}", f"--shutdown-timeout={SHUTDOWN_SEC}"),
        *rendezvous,
        *("-m", "pipelines.processes.parent", "model.training.train"),
    ]


@contextlib.contextmanager
def _agent(command: Sequence[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """Run the agent; on any way out it ends, with its ranks, before the caller goes on."""
    # A rendezvous store shared by restarts fails at random (pytorch issue 135712).
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment[PARENT_PID] = str(os.getpid())
    agent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(SHUTDOWN_SEC + _AGENT_MARGIN_SEC)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
        if agent.stdout is not None:
            agent.stdout.close()


def _follow(agent: subprocess.Popen[str], progress: Progress) -> None:
    """Show progress and warnings until the agent and its ranks have closed their output."""
    assert agent.stdout is not None
    for line in agent.stdout:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "stage" in event:
                progress(event["stage"], event["done"], event["total"], event["message"])
            elif isinstance(event, dict) and "warning" in event:
                _LOG.warning("%s", event["warning"])


def _failure(code: int, errors: str) -> BaseException:
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return Interrupted(128 + signal.SIGTERM)
    tail = errors.strip().splitlines()[-_TAIL_LINES:]
    if code == BAD_INPUT:
        return ValueError(" ".join(tail[-1:]))
    error = LaunchError(f"training ended with exit code {code} and no model: {' '.join(tail[-1:])}")
    error.add_note("\n".join(tail))
    return error
