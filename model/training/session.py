"""The training loop of one process: steps, curve, checkpoints, new or resumed.

At intervals it samples a grid of two drawings of each of the first classes, one class per column.
The noise has a fixed seed, so the grids of a run show how each drawing changes with training.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.data import Drawings, batch_rows
from model.evaluation.evaluate import split_nats
from model.network.conditioning import label_condition
from model.network.config import LABEL_KINDS, default_guidance
from model.network.likelihood import num_draws
from model.network.pixelcnn import PixelCNN
from model.ranks import Interrupted, StopSignal
from model.sampling.cached import CachedSampler
from model.sampling.drawer import class_uniforms
from model.training.checkpoint import latest_checkpoint, save_checkpoint
from model.training.run import NonFiniteError, Run, StepResult
from model.training.telemetry import CLASS_PREFIX, LiveLine, Telemetry
from pipelines.drawings.stored_png import encode_pngs
from pipelines.processes.progress import Progress, doing
from pipelines.store.local_files import durable_write

MAX_COLUMNS = 16
NUM_ROWS = 2


# Number of curve rows and of validations in a whole run.
CURVE_POINTS = 200
VALIDATION_POINTS = 10
# Validation rows, balanced over classes: 50 of each of 20 classes have a
# standard error of 0.06 bits/dim a class, 0.015 together (real drawings) ...
VALIDATION_ROWS = 1_024
# ... but all validations together see at most this fraction of the training drawings.
VALIDATION_SHARE = 1 / 8
NON_FINITE_NAME = "non-finite.json"


def sample_grid(
    network: PixelCNN, *, guidance: float | None = None, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Return a picture (rows * height, columns * width) uint8 of NUM_ROWS drawings per class.

    guidance: None means the default of the network's condition. The network must be conditioned on
    a class label or unconditional.
    """
    config = network.config
    height, width, _ = config.image_shape
    columns = min(config.condition.num_classes or MAX_COLUMNS, MAX_COLUMNS)
    # An unconditional model has a single class.
    labels = np.tile(np.arange(columns) * (config.condition.kind != "none"), NUM_ROWS)
    indices = np.arange(len(labels))
    uniforms = class_uniforms(labels, indices, (num_draws(config), height, width), seed=seed)
    device = network.network.output.bias.device
    condition = label_condition(config, labels)
    strength = default_guidance(config, own=guidance)
    sampler = CachedSampler(network, batch=len(labels), guidance=strength)
    with torch.no_grad():
        drawn = sampler.sample(uniforms, None if condition is None else condition.to(device))
    images = drawn.images[:, 0].cpu().numpy().astype(np.uint8)
    rows = images.reshape(NUM_ROWS, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows.reshape(NUM_ROWS * height, columns * width))


def grid_png(grid: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG with dark ink on white paper."""
    return encode_pngs((255 - grid)[None])[0].tobytes()


class Session:
    """Runs training from the current state to the end."""

    def __init__(
        self, run: Run, *, digest: str, folder: Path, signal: StopSignal, progress: Progress
    ) -> None:
        """Resume from the newest checkpoint in `folder`, if any."""
        self.run, self.digest, self.folder, self.signal = run, digest, folder, signal
        checkpoint = latest_checkpoint(folder / "checkpoints", run_digest=digest)
        if checkpoint is not None:
            run.restore(checkpoint)
        _check_agreement(run)
        self._first = run.ranks.is_first
        self._telemetry = None
        if self._first:
            tensorboard = run.options.tensorboard
            self._telemetry = Telemetry(folder, step=run.step, tensorboard=tensorboard)
        self._line = LiveLine(progress, total_nimg=run.total_nimg, start_nimg=run.nimg)
        self._saved_at = time.monotonic()

    def train(self, validation: Drawings) -> None:
        """Perform all remaining steps and save.

        Raises Interrupted, after saving, if any rank received a stop signal; NonFiniteError if
        training diverges.
        """
        run = self.run
        rows = validation_rows(validation, total_nimg=run.total_nimg)
        while run.step < run.num_steps:
            result = self._advance()
            self._report(result)
            if self._is_due(VALIDATION_POINTS):
                self._validate(validation, rows)
            if result.num_stop:
                self.save()
                raise Interrupted(128 + (self.signal.number or 15))
            if self._is_due(run.options.num_grids):
                self._show_grid()
            if result.num_save:
                self.save()
        self.save()
        if self._telemetry is not None:
            self._telemetry.close()

    @doing("train", "saving a checkpoint", is_detail=True)
    def save(self) -> None:
        """Write a checkpoint on the first rank; the others wait."""
        if self._first:
            save_checkpoint(self.folder / "checkpoints", self.run.checkpoint(self.digest))
        self._saved_at = time.monotonic()
        self.run.ranks.barrier()

    def _advance(self) -> StepResult:
        waited = time.monotonic() - self._saved_at
        due = self._first and waited > self.run.options.checkpoint_interval_sec
        try:
            with doing("train", "a training step", is_detail=True):
                return self.run.advance(signal=self.signal, save=due)
        except NonFiniteError as error:
            if self._first:
                found = {"step": error.step, "nats": str(error.nats), "norm": str(error.norm)}
                found |= {"split": "train", "rows": error.rows.tolist()}
                durable_write(self.folder / NON_FINITE_NAME, json.dumps(found).encode())
            raise

    def _report(self, result: StepResult) -> None:
        if self._first:
            self._line.show(self.run.nimg, bits_per_dim(result.nats, self.run.num_dims))
        if self._is_due(CURVE_POINTS):
            self._write_row(result)

    def _is_due(self, num_times: int) -> bool:
        """Return whether the last step is one of `num_times` evenly spaced steps."""
        step, num_steps = self.run.step, self.run.num_steps
        return step * num_times // num_steps > (step - 1) * num_times // num_steps

    def _write_row(self, result: StepResult) -> None:
        run = self.run
        nats = math.fsum(run.pending_nats) / len(run.pending_nats)
        run.pending_nats.clear()
        if self._telemetry is None:
            return
        row = {
            "step": run.step,
            "nimg": run.nimg,
            "loss_bpd": bits_per_dim(nats, run.num_dims),
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
        }
        self._telemetry.write(row, images_per_sec=self._line.rate(run.nimg))

    def _show_grid(self) -> None:
        """Sample a grid with the averaged weights on the first rank."""
        kind = self.run.spec.network.condition.kind
        if self._telemetry is not None and kind in ("none", *LABEL_KINDS):
            grid = sample_grid(self.run.average.network, guidance=self.run.spec.guidance)
            self._telemetry.show_grid(grid_png(grid), grid.shape, nimg=self.run.nimg)

    def _validate(self, validation: Drawings, rows: npt.NDArray[np.int64]) -> None:
        run = self.run
        nats = split_nats(run.average.network, validation, ranks=run.ranks, rows=rows)
        if self._telemetry is None:
            return
        row: dict[str, float] = {"step": run.step, "nimg": run.nimg}
        row["validation_bpd"] = bits_per_dim(float(nats.mean()), run.num_dims)
        labels = validation.labels[rows]
        for label, name in enumerate(validation.class_names):
            if (mine := nats[labels == label]).size:
                bpd = bits_per_dim(float(mine.mean()), run.num_dims)
                row[f"{CLASS_PREFIX}{name}"] = bpd
        self._telemetry.write(row)


def validation_rows(validation: Drawings, *, total_nimg: int) -> npt.NDArray[np.int64]:
    """Return the rows of each validation, in order, with equally many of each class."""
    affordable = int(total_nimg * VALIDATION_SHARE / VALIDATION_POINTS)
    num_classes = len(validation.class_names)
    per_class = max(1, min(VALIDATION_ROWS, affordable) // num_classes)
    parts = []
    for label in range(num_classes):
        rows = np.flatnonzero(validation.labels == label)
        if len(rows):
            count = min(per_class, len(rows))
            parts.append(rows[batch_rows(len(rows), count, key="validation", step=0)])
    return np.sort(np.concatenate(parts))


def _check_agreement(run: Run) -> None:
    """Raise ValueError unless all ranks are at the same step; a collective."""
    (total,) = run.ranks.sum([float(run.step)])
    if total != run.step * run.ranks.size:
        raise ValueError(
            f"rank {run.ranks.rank} resumes at step {run.step}, other ranks at another step: use "
            "a work_dir that all machines share"
        )


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Convert nats per drawing to bits per dimension."""
    return nats / (num_dims * math.log(2))
