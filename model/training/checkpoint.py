"""Atomic training checkpoints, verified by checksum when read.

    <folder>/step-00001200/
        weights.safetensors    the network as it trains
        average.safetensors    the average of its weights
        config.json            config, class names, dataset digest (model.network.weights)
        optimizer.pt           the optimizers' moments; read with weights_only
        state.json             step, identity of the run, counters, versions
        COMPLETE               SHA-256 of the five files, written last; required for reading

Data order, dropout and schedule are functions of the step, so no generator state is saved. An
incomplete or damaged checkpoint is skipped in favor of the previous one.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.network.weights import CONFIG_NAME
from pipelines.store.local_files import fsync

_LOG = logging.getLogger(__name__)

COMPLETE_NAME = "COMPLETE"
NUM_KEPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The progress and the identity of a run.

    step          optimizer steps done
    run_digest    digest of the model artifact, from spec and dataset
    elapsed_sec   training time of all sessions so far, informational
    pending_nats  losses of the steps since the curve's last row
    """

    step: int
    run_digest: str
    elapsed_sec: float = 0.0
    pending_nats: Sequence[float] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The complete state that a run needs to resume exactly."""

    state: RunState
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    config: bytes


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint durably, keep the newest NUM_KEPT complete ones and return its path."""
    target = folder / f"step-{checkpoint.state.step:08d}"
    if is_complete(target):
        return target
    scratch = folder / f".{target.name}.partial"
    for leftover in (scratch, target):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    _write_files(scratch, checkpoint)
    scratch.replace(target)
    fsync(folder)
    _delete_old(folder, target)
    return target


def latest_checkpoint(folder: Path, *, run_digest: str) -> Checkpoint | None:
    """Return the newest complete checkpoint, or None.

    Raises ValueError if it belongs to another spec or dataset.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if not is_complete(path):
            _LOG.warning("checkpoint %s is damaged or incomplete; using the previous one", path)
            continue
        checkpoint = _read_files(path)
        if checkpoint.state.run_digest != run_digest:
            raise ValueError(
                f"checkpoint {path} belongs to run {checkpoint.state.run_digest[:12]}, but this "
                f"spec and dataset are run {run_digest[:12]}: use another work directory, or "
                "delete the checkpoint"
            )
        return checkpoint
    return None


def is_complete(path: Path) -> bool:
    """Return whether every file of a checkpoint exists and matches its checksum."""
    try:
        expected = json.loads((path / COMPLETE_NAME).read_text())
        return bool(expected) and all(
            _sha256(path / name) == digest for name, digest in expected.items()
        )
    except (OSError, ValueError, RecursionError, AttributeError):
        return False


def _write_files(scratch: Path, checkpoint: Checkpoint) -> None:
    save_file(_contiguous(checkpoint.weights), scratch / "weights.safetensors")
    save_file(_contiguous(checkpoint.average), scratch / "average.safetensors")
    (scratch / CONFIG_NAME).write_bytes(checkpoint.config)
    with (scratch / "optimizer.pt").open("wb") as file:  # torch.save(path) hides errors
        torch.save(checkpoint.optimizer, file)
    (scratch / "state.json").write_text(json.dumps(asdict(checkpoint.state), indent=1))
    digests = {path.name: _sha256(path) for path in sorted(scratch.iterdir())}
    for name in digests:
        fsync(scratch / name)
    (scratch / COMPLETE_NAME).write_text(json.dumps(digests, indent=1))
    fsync(scratch / COMPLETE_NAME)
    fsync(scratch)


def _read_files(path: Path) -> Checkpoint:
    state = RunState(**json.loads((path / "state.json").read_text()))
    return Checkpoint(
        state,
        load_file(path / "weights.safetensors"),
        load_file(path / "average.safetensors"),
        torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
        (path / CONFIG_NAME).read_bytes(),
    )


def _delete_old(folder: Path, newest: Path) -> None:
    """Delete all but the newest complete checkpoints, and partial ones of killed processes."""
    kept = [newest]
    for path in sorted(folder.glob("step-*"), reverse=True):
        if path == newest:
            continue
        if len(kept) < NUM_KEPT and is_complete(path):
            kept.append(path)
        else:
            shutil.rmtree(path)
    for leftover in folder.glob(".step-*.partial"):
        shutil.rmtree(leftover)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies: safetensors does not store strides."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
