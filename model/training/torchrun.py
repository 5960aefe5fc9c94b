"""Train in processes of their own: torchrun under a parent that may die at any moment.

    parent (command line, Prefect task)
      `-- guard (pipelines.processes.supervise), in a session of its own
            `-- agent: torchrun; SIGTERM when the guard dies
                  `-- ranks: model.training.train; SIGTERM when the agent dies

A parent that is stopped has the guard send SIGTERM to the agent, which passes it on; the ranks
finish their step, save and exit with 143. Processes that remain after that are killed.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.data import SPLITS, check_map_room, count_rows
from model.options import (
    Device,
    RunOptions,
    drawings_folder,
    options_to_json,
    run_folder,
    threads_per_rank,
)
from model.ranks import Interrupted, device_kind, read_failure
from model.training.spec import TrainSpec, check_fit, check_splits, run_digest, spec_to_json
from pipelines.processes.parent import BAD_INPUT
from pipelines.processes.progress import JsonReader, Progress, doing, no_progress
from pipelines.processes.supervise import STOPPED_CODE, ChildError, launch
from pipelines.store.artifacts import Store
from pipelines.store.leases import holding
from pipelines.store.manifest import Manifest

# What ranks get to finish a step and save before the agent kills them, and the guard the agent.
SHUTDOWN_SEC = 60
_MARGIN_SEC = 15
# A rendezvous store shared by restarts fails at random (pytorch issue 135712).
_ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
# Fewer, and the work that does not depend on the number of images weighs more than theirs.
MIN_RANK_IMAGES = 4


class LaunchError(RuntimeError):
    """The ranks ended without a model; the message is what the first to fail said."""


def train_in_processes(
    spec: TrainSpec,
    dataset: Manifest,
    store: Store,
    name: str,
    *,
    init: Manifest | None = None,
    num_processes: int = 0,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    torchrun_options: Sequence[str] = (),
) -> Manifest:
    """Train with `num_processes` ranks on this machine and return the published model.

    init: the model to start from. num_processes 0 means one a GPU, or on a CPU as
    `default_processes` says. torchrun_options replace --standalone for several machines (--nnodes,
    --rdzv-endpoint, ...). Raises Interrupted if this process or the ranks were told to stop,
    ValueError if the spec does not fit the dataset, a split is missing or a file is damaged,
    FullError if the disk has no room for the memory map of the drawings, FinalError if training
    diverges, LaunchError if the ranks failed of anything else. A memory:// store cannot be shared
    with other processes and is refused.
    """
    if store.url.startswith("memory://"):
        raise ValueError("a memory:// store cannot be shared with other processes")
    options = options or RunOptions()
    digest = run_digest(spec, dataset, init)
    if found := store.reuse("models", name, digest):
        return found
    num_processes = num_processes or default_processes(spec, device=options.device)
    # With several machines only the ranks know how many they are.
    _check(spec, dataset, num_ranks=1 if torchrun_options else num_processes)
    check_map_room(dataset, SPLITS, drawings_folder(options, store))
    # Of a local store: what the ranks keep between runs, however old.
    kept = [f"attempts/{run_folder(options, store, digest).name}", "attempts/drawings"]
    with (
        holding(store, kept, "train"),
        tempfile.TemporaryDirectory(prefix="sketchmill-train-") as scratch,
    ):
        spec_path, failure_path = Path(scratch, "spec.json"), Path(scratch, "failure.json")
        spec_path.write_text(json.dumps(spec_to_json(spec)))
        arguments = ["--store", store.url, "--dataset", f"{dataset.name}@{dataset.digest}"]
        arguments += ["--init", f"{init.name}@{init.digest}"] if init else []
        arguments += ["--name", name, "--spec-json", str(spec_path), "--progress-json"]
        arguments += ["--failure-file", str(failure_path)]
        arguments += ["--options-json", options_to_json(options)]
        code, tail = 0, ""
        try:
            run_ranks(
                "model.training.train",
                arguments,
                num_processes=num_processes,
                progress=progress,
                torchrun_options=torchrun_options,
            )
        except ChildError as error:
            code, tail = error.code, error.tail
        failure = read_failure(failure_path, LaunchError)
    if found := store.reuse("models", name, digest):
        return found
    raise failure or _failure(code, tail)


def run_ranks(
    module: str,
    arguments: Sequence[str],
    *,
    num_processes: int,
    progress: Progress,
    torchrun_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `python -m module` as ranks that end when this process does; return what they print.

    Raises ChildError with the last words of the first rank that failed.
    """
    command = [sys.executable, "-m", "pipelines.processes.parent", "model.training.agent"]
    command += [f"--nproc-per-node={num_processes}", f"--shutdown-timeout={SHUTDOWN_SEC}"]
    command += torchrun_options or ["--standalone"]
    command += ["-m", "pipelines.processes.parent", module, *arguments]
    reader = JsonReader(progress)
    with doing(module.rpartition(".")[2], f"waiting for {num_processes} processes"):
        launch(command, on_line=reader, env=_ENVIRONMENT, grace_sec=SHUTDOWN_SEC + _MARGIN_SEC)
    return reader.said


def default_processes(spec: TrainSpec, *, device: Device = "auto") -> int:
    """Return how many ranks this machine should have for a spec.

    Raises ValueError if the device is a GPU that is not here.

    On a CPU ranks of one thread beat threads (measured: 2.2 times on two cores), as long as a
    rank has MIN_RANK_IMAGES of the batch.
    """
    kind = device_kind(device)
    if kind != "cpu":
        most = torch.cuda.device_count() if kind == "cuda" else 1
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


def _failure(code: int, tail: str) -> BaseException:
    if code == STOPPED_CODE:
        return Interrupted(code)
    last = " ".join(tail.splitlines()[-1:])
    if code == BAD_INPUT:
        return ValueError(last)
    error = LaunchError(f"training ended with exit code {code} and no model: {last}")
    error.add_note(tail)
    return error
