"""Train a model and publish it: `train_model`, and `main` for torchrun.

    torchrun --nproc-per-node 2 -m pipelines.processes.parent model.training.train --store URL \
        --dataset NAME@DIGEST --name NAME --spec-json FILE [--init NAME@DIGEST]

A second run resumes from the last checkpoint, or returns immediately if the model is already in
the store. On SIGTERM all ranks finish the step, save a checkpoint and exit with 143.

The first rank holds an flock on the run directory, so that one trainer at a time works on a run;
the kernel releases it when the process dies. The other ranks poll it with an all-reduce every
second, so that no collective exceeds its timeout. Machines that share the directory share the
lock if their file system supports flock (NFS does since version 4).
"""

import argparse
import contextlib
import fcntl
import importlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from model.data import SPLITS, open_split_on_ranks
from model.network.precision import denormals_as_zero
from model.network.weights import read_model
from model.options import (
    RunOptions,
    drawings_folder,
    options_from_json,
    run_folder,
    threads_per_rank,
)
from model.ranks import Interrupted, Ranks, StopSignal, join_ranks, telling_failure
from model.training.publish import publish_model
from model.training.run import Run
from model.training.session import Session
from model.training.spec import TrainSpec, check_fit, check_splits, run_digest, spec_from_json
from model.training.warm_start import check_network, check_splits_agree
from pipelines.processes.progress import (
    JsonProgress,
    JsonWarnings,
    Progress,
    doing,
    no_progress,
    telling,
)
from pipelines.store.artifacts import Store, open_store
from pipelines.store.collect import needing
from pipelines.store.local_files import naming_full
from pipelines.store.manifest import Manifest

_LOG = logging.getLogger(__name__)

LOCK_NAME = "lock"
_POLL_SEC = 1.0


def train_model(
    spec: TrainSpec,
    dataset: Manifest,
    store: Store,
    name: str,
    *,
    init: Manifest | None = None,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    ranks: Ranks | None = None,
) -> Manifest:
    """Return the model of `spec` and `dataset`; train it if it is not in the store.

    init: the model to start from (model.training.warm_start); None: random weights. All ranks call
    this function with the same arguments. If another process trains the same model in the same
    directory, wait for its model. Raises Interrupted after SIGTERM or SIGINT, with the
    state saved; NonFiniteError if training diverges; ValueError if the spec does not fit the
    dataset or the number of ranks.
    """
    options, ranks = options or RunOptions(), ranks or Ranks()
    check_fit(spec, dataset, num_ranks=ranks.size)
    check_splits(dataset)
    if init is not None:
        check_network(spec.network, init)
    digest = run_digest(spec, dataset, init)
    folder, cache = run_folder(options, store, digest), drawings_folder(options, store)
    with (
        torch_settings(options, ranks),
        StopSignal() as signal,
        naming_full(folder),
        only_trainer(folder, ranks=ranks, signal=signal, progress=progress),
    ):
        if found := _published(store, name, digest, ranks=ranks):
            return found
        if init is not None and ranks.is_first:
            check_splits_agree(dataset, init, store)
        with doing("train", "preparing the first step"):
            splits = {
                split: open_split_on_ranks(
                    store, dataset, split=split, cache_dir=cache, ranks=ranks
                )
                for split in SPLITS
            }
            run = Run(
                spec,
                splits["train"],
                dataset_digest=dataset.digest,
                ranks=ranks,
                options=options,
                init=read_model(store, init) if init else None,
            )
            session = Session(run, digest=digest, folder=folder, signal=signal, progress=progress)
        session.train(splits["validation"])
        return publish_model(
            run,
            dataset,
            store,
            name,
            init=init,
            folder=folder,
            splits=splits,
            progress=progress,
        )


@record
def main(arguments: Sequence[str] | None = None) -> int:
    """Train as one rank of a torchrun job, or as a single process."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    store = open_store(options.store)
    spec = spec_from_json(json.loads(options.spec_json.read_text()))
    run_options = options_from_json(options.options_json)
    with (
        join_ranks(run_options.device) as ranks,
        telling_failure(options.failure_file, rank=ranks.rank),
    ):
        shows = options.progress_json and ranks.is_first
        if shows:
            logging.getLogger("model").addHandler(JsonWarnings(sys.stdout))
        dataset = store.resolve("datasets", options.dataset)
        init = store.resolve("models", options.init) if options.init else None
        inputs = [dataset, *([init] if init else [])]
        # Ranks may also be started by hand; one lease covers all of them.
        need = needing(store, inputs, "train") if ranks.is_first else contextlib.nullcontext()
        display = JsonProgress(sys.stdout) if shows else no_progress
        with need, telling(display, "train") as progress:
            manifest = train_model(
                spec,
                dataset,
                store,
                options.name,
                init=init,
                options=run_options,
                progress=progress,
                ranks=ranks,
            )
        if shows:
            sys.stdout.write(json.dumps({"model": manifest.digest, "name": manifest.name}) + "\n")
    return 0


class FolderLock:
    """An exclusive lock on a directory; the lock file names the process that holds it."""

    def __init__(self, folder: Path) -> None:
        """Open the lock without taking it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOCK_NAME
        # Append mode does not truncate the owner's line; the lock ends with this process.
        self._file = self._path.open("a+")

    def take(self) -> bool:
        """Try to take the lock without blocking; return whether this process holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # object stores mounted as folders have no locks
            _LOG.warning("%s cannot be locked (%s): start one trainer at a time", self._path, error)
            return True
        self._file.truncate(0)
        self._file.write(f"{os.getpid()} on {platform.node()}")
        self._file.flush()
        return True

    def owner(self) -> str:
        """Return "process id on machine" of the last holder."""
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


@contextlib.contextmanager
def only_trainer(
    folder: Path, *, ranks: Ranks, signal: StopSignal, progress: Progress
) -> Iterator[None]:
    """Hold the lock on `folder` within the block; wait until it is free.

    All ranks call this function. Raises Interrupted if a rank receives a stop signal while waiting.
    """
    lock = FolderLock(folder) if ranks.is_first else None
    try:
        while True:
            has_lock = lock is not None and lock.take()
            num_locks, num_stop = ranks.sum([float(has_lock), float(bool(signal.number))])
            if num_stop:
                raise Interrupted(128 + (signal.number or 15))
            if num_locks:
                break
            if lock is not None:
                progress("train", 0, 0, f"waiting for process {lock.owner()}: it trains this model")
            time.sleep(_POLL_SEC)
        yield
    finally:
        if lock is not None:
            lock.close()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.training.train", description=__doc__)
    parser.add_argument("--store", required=True, help="URL of the artifact store")
    parser.add_argument("--dataset", required=True, help="name@digest of the dataset")
    parser.add_argument("--name", required=True, help="name of the model to publish")
    parser.add_argument("--spec-json", required=True, type=Path, help="file with the TrainSpec")
    parser.add_argument("--init", default="", help="name@digest of the model to start from")
    parser.add_argument("--options-json", default="{}", help="RunOptions as a JSON object")
    parser.add_argument("--failure-file", type=Path, help="where the first rank to fail says why")
    parser.add_argument("--progress-json", action="store_true", help="progress lines on stdout")
    return parser.parse_args(arguments)


def _published(store: Store, name: str, digest: str, *, ranks: Ranks) -> Manifest | None:
    """Return the model if it is in the store; the first rank's look-up decides for all ranks."""
    found = store.reuse("models", name, digest) if ranks.is_first else None
    (is_there,) = ranks.sum([float(found is not None)])
    return store.find("models", name, digest) if is_there else None


@contextlib.contextmanager
def torch_settings(options: RunOptions, ranks: Ranks) -> Iterator[None]:
    """Set torch's threads and, on a CPU, denormals and determinism; restore them on exit."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = _deterministic().fill_uninitialized_memory
    torch.set_num_threads(threads_per_rank(options, ranks.local_size))
    if ranks.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # Filling uninitialized memory is a debugging aid and costs a pass over it.
        _deterministic().fill_uninitialized_memory = False
    try:
        with denormals_as_zero():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        _deterministic().fill_uninitialized_memory = fill


def _deterministic() -> Any:
    """Return torch's settings module, whose attributes exist only after its import."""
    return importlib.import_module("torch.utils.deterministic")


if __name__ == "__main__":
    sys.exit(main())
