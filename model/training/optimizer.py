"""Optimizers (Adam and Muon), learning rate schedule, clipping and weight averaging.

    lr(n)     = peak * min(1, n / warmup) * decay(n)            n = drawings seen so far
    decay(n)  = 1, or final + (1 - final) * (1 + cos(pi * n / total)) / 2
    average  <- w * average + (1 - w) * weights, w = 2 ** (-batch / halflife)

The schedule is a function of the drawings seen, independent of the batch size and the number of
ranks. The average's half-life ramps up early in training as in Karras et al. 2022 (EDM,
ema_rampup_ratio): half-life <= ratio * n.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) is momentum with an
orthogonalized step, for the weight matrices of inner layers:

    m <- momentum * m + (1 - momentum) * gradient
    u  = momentum * m + (1 - momentum) * gradient                  Nesterov momentum
    W <- W - lr * sqrt(max(1, rows / columns)) * orthogonal(u)

orthogonal(u) approximates U V' of the singular value decomposition U S V' of u by five steps of a
Newton-Schulz iteration, which converges to singular values within 0.7 and 1.2. A convolution's
weights [out, in, height, width] are the matrix [out, in * height * width].

torch.optim.Muon takes matrices only, one at a time and in bfloat16. A small network has dozens of
the same shape, so this implementation batches all matrices of a shape, in the weights' precision.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from model.network.pixelcnn import PixelCNN
from model.training.spec import TrainSpec

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Steps of spectral norm near `lr` for parameters of two or more dimensions."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        """Take the parameters; the caller may set `lr` in param_groups before each step."""
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyrefly: ignore
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon does not support a closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._step_shape(parameters, group["lr"], group["momentum"])

    def _step_shape(self, parameters: list[Tensor], lr: float, momentum: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        averages = [self._average(parameter) for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)
        matrices = orthogonal(torch.stack([each.flatten(1) for each in ahead]))
        rows, columns = matrices.shape[1:]
        scale = -lr * max(1.0, rows / columns) ** 0.5
        changes = [each.view(parameters[0].shape) for each in matrices]
        torch._foreach_add_(parameters, changes, alpha=scale)

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonal(matrices: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch rows cols"]:
    """Return matrices with the same singular vectors and all singular values near 1."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).contiguous()


def make_optimizers(spec: TrainSpec, model: PixelCNN) -> list[torch.optim.Optimizer]:
    """Return Adam, and Muon for the directions of inner layers if the spec has a Muon rate.

    `set_learning_rate` sets the rate of every step.
    """
    inner = list(model.network.inner_directions()) if spec.muon_learning_rate else []
    chosen = {id(parameter) for parameter in inner}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    betas = (spec.beta1, spec.beta2)
    table = model.encoder.table if spec.table_learning_rate else None
    groups: list[dict[str, Any]] = [{"params": [p for p in rest if p is not table]}]
    if table is not None:
        groups.append({"params": [table], "is_table": True})
    adam = torch.optim.Adam(
        groups, lr=spec.learning_rate, betas=betas, eps=spec.adam_eps, fused=True
    )
    return [adam, Muon(inner, lr=spec.muon_learning_rate)] if inner else [adam]


def set_learning_rate(
    spec: TrainSpec, optimizers: Iterable[torch.optim.Optimizer], rate: float
) -> None:
    """Set Adam's rate, and Muon's and that of the table to the same fraction of their peaks."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            peak = spec.learning_rate
            if isinstance(optimizer, Muon):
                peak = spec.muon_learning_rate
            elif group.get("is_table"):
                peak = spec.table_learning_rate
            group["lr"] = rate * (peak / spec.learning_rate)


def learning_rate(spec: TrainSpec, *, seen_nimg: int, total_nimg: int) -> float:
    """Return the learning rate of the step that follows `seen_nimg` drawings."""
    warmup = min(1.0, (seen_nimg + spec.batch_size) / max(spec.warmup_nimg, 1))
    if spec.decay == "constant":
        return spec.learning_rate * warmup
    progress = min(1.0, seen_nimg / max(total_nimg, 1))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return spec.learning_rate * warmup * (spec.final_ratio + (1 - spec.final_ratio) * cosine)


def average_weight(spec: TrainSpec, *, seen_nimg: int) -> float:
    """Return w, the weight of the old average in the step that follows `seen_nimg`."""
    halflife = min(float(spec.ema_halflife_nimg), spec.ema_rampup_ratio * seen_nimg)
    return 0.5 ** (spec.batch_size / halflife) if halflife > 0 else 0.0


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], *, max_norm: float) -> float:
    """Scale all gradients to a joint Euclidean norm of at most `max_norm`; return the norm.

    If the norm is not finite, return it without scaling; the caller must stop.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    norm = torch.linalg.vector_norm(torch.stack(norms).double()).item()
    if math.isfinite(norm) and norm > max_norm > 0:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


class WeightAverage:
    """A copy of a network that holds the exponential moving average of its parameters."""

    def __init__(self, network: PixelCNN) -> None:
        """Initialize the average with the network's current weights."""
        self.network: PixelCNN = copy.deepcopy(network).eval().requires_grad_(False)
        self._values: list[Tensor] = list(self.network.parameters())
        self._sources: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self, weight: float) -> None:
        """Blend in the network's current weights, keeping `weight` of the old average."""
        torch._foreach_lerp_(self._values, self._sources, 1 - weight)
