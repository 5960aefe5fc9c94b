"""Muon: momentum whose step is orthogonal, for the weight matrices inside a network.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/:

    m <- momentum * m + (1 - momentum) * gradient
    u  = momentum * m + (1 - momentum) * gradient                  Nesterov's look ahead
    W <- W - lr * sqrt(max(1, rows / columns)) * orthogonal(u)

orthogonal(u) is near U V' of the singular value decomposition U S V' of u, by five steps of a
Newton-Schulz iteration whose limit has singular values within 0.7 and 1.2. A convolution's
weights [out, in, height, width] are the matrix [out, in * height * width].

torch.optim.Muon takes matrices only, one at a time and in bfloat16; a small network has dozens
of one shape, so here all of a shape are one batched product, in the weights' own precision.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Steps of spectral norm near `lr` for parameters of two or more dimensions."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        """Take the parameters; `lr` may be set anew in param_groups before each step."""
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyrefly: ignore
        """Change every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon evaluates no closure")
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
    """Return matrices of the same singular vectors with all singular values near 1."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).contiguous()
