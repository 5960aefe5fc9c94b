"""In-memory state of a training run: network, weight average, optimizers and step.

A step is a function of the state and the step number alone: they determine the rows of the global
batch, dropout masks, learning rate and averaging weight. Ranks take equal parts of the batch, and
DistributedDataParallel averages their gradients.
"""

import contextlib
import logging
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.data import Drawings, WeightedOrder, batch_rows, order_key, rank_rows
from model.network.dropout import DropoutKey
from model.network.pixelcnn import PixelCNN, initialize_from_data
from model.network.precision import cpu_has_bfloat16
from model.network.weights import SavedModel, config_file, library_versions
from model.options import RunOptions
from model.ranks import Ranks, StopSignal
from model.training.checkpoint import Checkpoint, RunState
from model.training.optimizer import (
    WeightAverage,
    average_weight,
    clip_gradients,
    learning_rate,
    make_optimizers,
    set_learning_rate,
)
from model.training.spec import TrainSpec
from model.training.warm_start import matched_classes, warm_weights
from pipelines.processes.progress import doing
from pipelines.store.errors import FinalError

_LOG = logging.getLogger(__name__)
_CPU_MICRO_BATCH = 16


class NonFiniteError(FinalError):
    """A loss or gradient is not finite; the weights are those before this step."""

    def __init__(self, step: int, nats: float, norm: float, rows: npt.NDArray[np.int64]) -> None:
        """Describe the failed step; `rows` are the batch's rows of the training split."""
        super().__init__(
            f"loss {nats} nats with gradient norm {norm} at step {step}: lower learning_rate or "
            "set clip_norm"
        )
        self.step, self.nats, self.norm, self.rows = step, nats, norm, rows


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a step: mean loss in nats per drawing, gradient norm, stop and save requests."""

    nats: float
    grad_norm: float
    learning_rate: float
    num_stop: int
    num_save: int


class Run:
    """The state of a run; `advance` performs the next step."""

    def __init__(
        self,
        spec: TrainSpec,
        drawings: Drawings,
        *,
        dataset_digest: str,
        ranks: Ranks,
        options: RunOptions,
        init: SavedModel | None = None,
    ) -> None:
        """Build the spec's network, identical on every rank, and initialize it.

        init: the model whose weights it starts with; None: random ones, adjusted to data.
        """
        self.spec, self.ranks, self.options = spec, ranks, options
        self.drawings = drawings
        self.total_nimg = spec.total_nimg(len(drawings))
        self.num_dims = math.prod(spec.network.image_shape)
        self.step = 0
        self.elapsed_sec = 0.0
        self.pending_nats: list[float] = []
        _warn_of_emulation(spec, ranks.device)
        self._order = order_key(dataset_digest, split="train", seed=spec.seed)
        self.network = build_network(spec, ranks.device)
        self._weighted: WeightedOrder | None = None
        if init is None:
            self._initialize()
        else:
            self._start_from(init)
        self.average = WeightAverage(self.network)
        self._config = config_file(
            spec.network, class_names=drawings.class_names, dataset_digest=dataset_digest
        )
        self.optimizers = make_optimizers(spec, self.network)
        self._forward: nn.Module = self.network
        if options.compile:
            self._forward = self._compiled()
        self._forward = parallel(self._forward, ranks)

    @property
    def num_steps(self) -> int:
        """Return the number of steps of the whole run."""
        return self.total_nimg // self.spec.batch_size

    @property
    def nimg(self) -> int:
        """Return the number of drawings seen."""
        return self.step * self.spec.batch_size

    def next_rows(self) -> npt.NDArray[np.int64]:
        """Return the rows of the next global batch."""
        if self._weighted is not None:
            return self._weighted.rows(self.nimg, self.nimg + self.spec.batch_size)
        return batch_rows(len(self.drawings), self.spec.batch_size, key=self._order, step=self.step)

    def advance(self, *, signal: StopSignal | None = None, save: bool = False) -> StepResult:
        """Perform one step; `signal` and `save` are this rank's requests, combined over ranks.

        A signal is read when the ranks exchange their losses, not before the step: a step may be
        long and the time to stop short. Raises NonFiniteError, on all ranks, before any change of
        the state.
        """
        started = time.monotonic()
        rows = self.next_rows()
        nats = self._backward(rows)
        norm = clip_gradients(self.network.parameters(), max_norm=self.spec.clip_norm)
        stop = signal is not None and signal.number != 0
        nats, num_stop, num_save = self.ranks.sum([nats, float(stop), float(save)])
        nats /= self.spec.batch_size
        if not (math.isfinite(nats) and math.isfinite(norm)):
            raise NonFiniteError(self.step, nats, norm, rows)
        rate = learning_rate(self.spec, seen_nimg=self.nimg, total_nimg=self.total_nimg)
        set_learning_rate(self.spec, self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(average_weight(self.spec, seen_nimg=self.nimg))
        self.network.zero_grad(set_to_none=True)
        self.step += 1
        self.pending_nats.append(nats)
        self.elapsed_sec += time.monotonic() - started
        return StepResult(nats, norm, rate, round(num_stop), round(num_save))

    def checkpoint(self, run_digest: str) -> Checkpoint:
        """Return the current state."""
        state = RunState(
            step=self.step,
            run_digest=run_digest,
            elapsed_sec=self.elapsed_sec,
            pending_nats=list(self.pending_nats),
            versions=library_versions(),
        )
        return Checkpoint(
            state,
            self.network.state_dict(),
            self.average.network.state_dict(),
            {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]},
            self._config,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load the state of a checkpoint."""
        self.network.load_state_dict(checkpoint.weights)
        self.average.network.load_state_dict(checkpoint.average)
        for optimizer, state in zip(
            self.optimizers, checkpoint.optimizer["optimizers"], strict=True
        ):
            optimizer.load_state_dict(state)
        self.step = checkpoint.state.step
        self.elapsed_sec = checkpoint.state.elapsed_sec
        self.pending_nats = list(checkpoint.state.pending_nats)

    def _initialize(self) -> None:
        """Set scales and biases from the first drawings of the order, equally on every rank."""
        rows = batch_rows(len(self.drawings), self.spec.init_nimg, key=self._order, step=0)
        mine = np.array_split(rows, self.ranks.size)[self.ranks.rank]
        images, labels = self._tensors(mine)
        initialize_from_data(self.network, images, labels)

    def _start_from(self, init: SavedModel) -> None:
        """Copy the weights of a model, the classes' by name."""
        places = matched_classes(self.drawings.class_names, init.class_names)
        kind = self.spec.network.condition.kind
        self.network.load_state_dict(warm_weights(init.model.state_dict(), places, kind))
        is_new = np.array([place is None for place in places])[self.drawings.labels]
        if self.spec.new_class_weight != 1 and is_new.any() and not is_new.all():
            self._weighted = WeightedOrder(is_new, self.spec.new_class_weight, key=self._order)

    @doing("train", "compiling")
    def _compiled(self) -> nn.Module:
        """Return the compiled network; the eager one if compilation fails on any rank.

        A missing dependency (compiler, headers, Triton, an executable temporary directory) shows
        only during compilation, so this method compiles on one batch, without a step.
        """
        compiled = torch.compile(self.network)
        assert isinstance(compiled, nn.Module)
        problem = ""
        try:
            self._forward = compiled
            self._backward(self.next_rows())
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        self.network.zero_grad(set_to_none=True)
        (num_failed,) = self.ranks.sum([float(bool(problem))])
        if not num_failed:
            return compiled
        _LOG.warning("training runs without torch.compile: %s", problem or "another rank failed")
        return self.network

    def _backward(self, rows: npt.NDArray[np.int64]) -> float:
        """Accumulate the gradients of this rank's part of a batch; return its loss in nats."""
        mine = rank_rows(rows, rank=self.ranks.rank, num_ranks=self.ranks.size)
        first_image = self.ranks.rank * len(mine)
        size = micro_batch_size(
            len(mine), wanted=self.options.micro_batch_size, device=self.ranks.device
        )
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for start in range(0, len(mine), size):
            key = DropoutKey(seed=self.spec.seed, step=self.step, first_image=first_image + start)
            self.network.set_dropout_key(key)
            images, labels = self._tensors(mine[start : start + size])
            with self._synchronized(start + size >= len(mine)):
                with self._autocast():
                    nats = -self._forward(images, labels).sum()
                # DDP averages gradients over ranks, so each rank divides by its own share.
                (nats / len(mine)).backward()
            total += nats.detach()
        return total.item()

    def _tensors(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Return images and labels on the device; labels are None for an unconditional network."""
        images, labels = self.drawings.tensors(rows)
        images = images.to(self.ranks.device, non_blocking=True)
        if self.spec.network.condition.kind == "none":
            return images, None
        return images, labels.to(self.ranks.device, non_blocking=True)

    def _synchronized(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Synchronize gradients after the last micro-batch only."""
        if is_last or not isinstance(self._forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._forward.no_sync()

    def _autocast(self) -> torch.autocast:
        enabled = self.spec.precision == "bfloat16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)


def build_network(spec: TrainSpec, device: torch.device) -> PixelCNN:
    """Return the spec's network with random weights determined by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = PixelCNN(spec.network)
    kind = torch.float64 if spec.precision == "float64" else torch.float32
    return network.to(device=device, dtype=kind).train()


def parallel(forward: nn.Module, ranks: Ranks) -> nn.Module:
    """Wrap the network in DistributedDataParallel if there are several ranks."""
    if ranks.size == 1:
        return forward
    ids = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(forward, device_ids=ids, gradient_as_bucket_view=True)


def micro_batch_size(num_images: int, *, wanted: int, device: torch.device) -> int:
    """Return the micro-batch size of a rank: `wanted` unless 0.

    On a CPU 16 images are as fast as more (the `article` network, batch 32: 20.0 and 19.7 s a step)
    and take less memory (5.2 and 7.2 GB); a GPU is fastest with the whole batch.

    >>> micro_batch_size(24, wanted=0, device=torch.device("cpu"))
    12
    >>> micro_batch_size(24, wanted=0, device=torch.device("cuda"))
    24
    """
    if wanted:
        return wanted
    if device.type != "cpu":
        return num_images
    return math.ceil(num_images / math.ceil(num_images / _CPU_MICRO_BATCH))


def _warn_of_emulation(spec: TrainSpec, device: torch.device) -> None:
    if spec.precision == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        _LOG.warning(
            "this CPU only emulates bfloat16, so training computes in float32: the model keeps the "
            "digest of the bfloat16 spec, and its weights are slightly more accurate"
        )
