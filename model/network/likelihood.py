"""Likelihood of integer pixels: a discretized mixture of logistics, or a softmax over levels.

Discretized logistic mixture, Salimans et al. 2017, section 2.1, in units where low..high is
[-1, 1]. With h half a bin, x the pixel and

    a = (x - loc + h) / scale,  b = (x - loc - h) / scale

a level's probability is sigmoid(a) - sigmoid(b), sigmoid(a) at the lowest, sigmoid(-b) at the
highest. Its logarithm is computed by the identity

    log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))

whose last term does not depend on x, so there is no cancellation. The error in float32 is at most
5e-4 nats per pixel for the narrowest scales and 2e-6 for wide ones, where tfd.PixelCNN's difference
of two log-cdfs has an error of 7e-2. Values and gradients are finite for any finite float32
parameters. Half precision is converted to float32.

Guidance makes drawings more typical of their class. It is classifier-free guidance (Ho and
Salimans 2022, section 3.2), exact in a model whose pixels have a finite number of levels:

    P'(level) ~ P(level | class) * min(P(level | class) / P(level), e)^guidance

each conditional on the previous pixels and normalized over the levels; P(level) is the model's
distribution with the condition withheld. Guidance 0 is the class's distribution. Above 0, samples
no longer follow p(drawing | class): they have fewer outliers and less variety.

The minimum is an addition to the paper. Without it a level that is unlikely under both
distributions (1e-4 and 1e-7, say) becomes likely by their ratio alone, where both are least exact:
the samples get specks of ink in empty corners.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model.network.config import PixelCNNConfig

# The smallest scale, e^-7 of the half range: openai/pixel-cnn cuts log scales there, TFP adds
# it to a softplus.
MIN_SCALE = math.exp(-7.0)
# exp(-2h/scale) is 1 in float32 below this; its logarithm of 0 would be infinite.
_MIN_WIDTH = 1e-30


# Bound of the log ratio in nats: 2 still leaves specks, 1 leaves none that was seen, and a
# classifier recognizes as many drawings as without a bound (model/EXPERIMENTS.md).
MAX_EVIDENCE = 1.0


class LogisticMixture(NamedTuple):
    """Each pixel's discretized logistic mixture; pixel values are low..high.

    logits  of the components
    locs    in [-1, 1] units, as the scales
    coeffs  of the pairs of channels (1, 0), (2, 0), (2, 1), ...: channel i's loc is shifted by
            its coefficient times channel j of the same pixel; None for one channel
    """

    logits: Float[Tensor, "batch mixtures height width"]
    locs: Float[Tensor, "batch mixtures channels height width"]
    scales: Float[Tensor, "batch mixtures channels height width"]
    coeffs: Float[Tensor, "batch mixtures pairs height width"] | None
    low: int
    high: int

    def log_prob(
        self, value: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch height width"]:
        """Return log P of each pixel; a value between two levels counts as the lower one."""
        locs = conditional_locs(self.locs, self.coeffs, to_unit(value, self.low, self.high))
        level = to_unit(value.floor(), self.low, self.high)
        half_bin = 1.0 / (self.high - self.low)
        each = logistic_log_prob(level[:, None], locs, self.scales, half_bin=half_bin)
        weights = F.log_softmax(self.logits, dim=1)
        return torch.logsumexp(each.sum(dim=2) + weights, dim=1)

    def draw(
        self, uniforms: Float[Tensor, "batch draws height width"], *, temperature: float = 1.0
    ) -> Float[Tensor, "batch channels height width"]:
        """Sample each pixel's integer value: a component, then each channel by its inverse cdf.

        uniforms: in (0, 1), one for the component and one for each channel
        temperature: divides logits and multiplies scales

        Later channels depend on the rounded earlier ones, as in log_prob.
        """
        chosen = pick_option(self.logits / temperature, uniforms[:, 0])
        locs, scales = _take(self.locs, chosen), _take(self.scales, chosen) * temperature
        coeffs = None if self.coeffs is None else _take(self.coeffs, chosen)
        noise = torch.logit(uniforms[:, 1:].double()).to(locs.dtype)
        drawn: list[Tensor] = []
        for i in range(locs.shape[1]):
            loc, first = locs[:, i], i * (i - 1) // 2
            for j in range(i):
                assert coeffs is not None
                loc = loc + coeffs[:, first + j] * to_unit(drawn[j], self.low, self.high)
            x = loc + scales[:, i] * noise[:, i]
            value = torch.ceil(self.low + (self.high - self.low) / 2 * (x + 1) - 0.5)
            drawn.append(value.clamp(self.low, self.high))
        return torch.stack(drawn, dim=1)

    def level_log_probs(
        self, *, temperature: float = 1.0
    ) -> Float[Tensor, "batch levels height width"]:
        """Return log P of each level low..high of each pixel of one channel.

        Uses products of sigmoids, which lose no digits and are faster than sums of logarithms (five
        times on a CPU); a P below the smallest float is clamped to it.
        """
        scales, dtype = self.scales * temperature, self.locs.dtype
        edges = torch.arange(self.low, self.high, dtype=dtype, device=self.locs.device) + 0.5
        z = (to_unit(edges, self.low, self.high)[:, None, None] - self.locs) / scales
        one = torch.ones_like(self.locs)
        inside = -torch.expm1(-2.0 / (self.high - self.low) / scales)
        each = torch.cat([z.sigmoid(), one], dim=2) * torch.cat([one, (-z).sigmoid()], dim=2)
        each[:, :, 1:-1] *= inside
        weights = torch.softmax(self.logits / temperature, dim=1)
        total = (each * weights[:, :, None]).sum(dim=1)
        return total.clamp_min(torch.finfo(dtype).tiny).log()

    def at(self, rows: slice, columns: slice) -> "LogisticMixture":
        """Return the parameters of a rectangle of pixels."""
        coeffs = None if self.coeffs is None else self.coeffs[..., rows, columns]
        locs, scales = self.locs[..., rows, columns], self.scales[..., rows, columns]
        return self._replace(
            logits=self.logits[..., rows, columns], locs=locs, scales=scales, coeffs=coeffs
        )


class LevelLogits(NamedTuple):
    """A categorical distribution over the levels low, low + 1, ... of single-channel pixels."""

    logits: Float[Tensor, "batch levels height width"]
    low: int

    def log_prob(
        self, value: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch height width"]:
        """Return log P of each pixel; a value between two levels counts as the lower one."""
        level = (value[:, 0].floor() - self.low).long()
        return -F.cross_entropy(self.logits, level, reduction="none")

    def draw(
        self, uniforms: Float[Tensor, "batch draws height width"], *, temperature: float = 1.0
    ) -> Float[Tensor, "batch channels height width"]:
        """Sample each pixel's value with one uniform number; temperature divides the logits."""
        level = pick_option(self.logits / temperature, uniforms[:, 0])
        return (level + self.low).to(self.logits.dtype)[:, None]

    def level_log_probs(
        self, *, temperature: float = 1.0
    ) -> Float[Tensor, "batch levels height width"]:
        """Return log P of each level low, low + 1, ... of each pixel."""
        return F.log_softmax(self.logits / temperature, dim=1)

    def at(self, rows: slice, columns: slice) -> "LevelLogits":
        """Return the parameters of a rectangle of pixels."""
        return self._replace(logits=self.logits[..., rows, columns])


Params = LogisticMixture | LevelLogits


def num_params(config: PixelCNNConfig) -> int:
    """Return the number of channels of the network's output.

    A mixture has 1 logit, C locs, C scales and C(C-1)/2 coefficients per component.
    """
    if config.head == "softmax":
        return config.num_levels
    channels = config.num_channels
    return config.num_logistic_mix * (1 + 2 * channels + channels * (channels - 1) // 2)


def num_draws(config: PixelCNNConfig) -> int:
    """Return the number of uniform numbers needed to sample a pixel."""
    return 1 if config.head == "softmax" else 1 + config.num_channels


def read_params(raw: Float[Tensor, "batch params height width"], config: PixelCNNConfig) -> Params:
    """Split the network's output into parameters, mixture-major; scales are softplus(.) + e^-7."""
    if raw.dtype in (torch.bfloat16, torch.float16):
        raw = raw.float()
    if config.head == "softmax":
        return LevelLogits(raw, config.low)
    channels = config.num_channels
    parts = raw.unflatten(1, (config.num_logistic_mix, -1))
    return LogisticMixture(
        logits=parts[:, :, 0],
        locs=parts[:, :, 1 : 1 + channels],
        scales=softplus(parts[:, :, 1 + channels : 1 + 2 * channels]) + MIN_SCALE,
        coeffs=parts[:, :, 1 + 2 * channels :] if channels > 1 else None,
        low=config.low,
        high=config.high,
    )


def to_unit(value: Tensor, low: int, high: int) -> Tensor:
    """Scale low..high to [-1, 1].

    >>> to_unit(torch.tensor([0.0, 255.0]), 0, 255)
    tensor([-1.,  1.])
    """
    return 2.0 * (value - low) / (high - low) - 1.0


def conditional_locs(
    locs: Float[Tensor, "batch mixtures channels height width"],
    coeffs: Float[Tensor, "batch mixtures pairs height width"] | None,
    scaled: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch mixtures channels height width"]:
    """Return loc_i + sum over j < i of coeff_ij * x_j."""
    if coeffs is None:
        return locs
    shifted, pair = [locs[:, :, 0]], 0
    for i in range(1, scaled.shape[1]):
        loc = locs[:, :, i]
        for j in range(i):
            loc = loc + coeffs[:, :, pair] * scaled[:, None, j]
            pair += 1
        shifted.append(loc)
    return torch.stack(shifted, dim=2)


def logistic_log_prob(
    level: Float[Tensor, "..."],
    loc: Float[Tensor, "..."],
    scale: Float[Tensor, "..."],
    *,
    half_bin: float,
) -> Float[Tensor, "..."]:
    """Return log P(level) of one discretized logistic; all in [-1, 1] units, broadcast."""
    off = level - loc
    log_cdf = F.logsigmoid((off + half_bin) / scale)
    log_survival = F.logsigmoid((half_bin - off) / scale)
    width = (2 * half_bin / scale).clamp_min(_MIN_WIDTH)
    # A level within half a bin of an edge counts as the edge, to tolerate rounding.
    is_low, is_high = level < half_bin - 1, level > 1 - half_bin
    inside = log_cdf + log_survival + torch.log(-torch.expm1(-width))
    return torch.where(is_low, log_cdf, torch.where(is_high, log_survival, inside))


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)); torch's has an error of 2e-9 above 20, which 784 pixels add up."""
    return -F.logsigmoid(-x)


def pick_option(
    logits: Float[Tensor, "batch options height width"],
    uniform: Float[Tensor, "batch height width"],
) -> Tensor:
    """Return the option whose cumulative probability first exceeds the uniform number."""
    cumulative = torch.softmax(logits, dim=1).cumsum(dim=1)
    return (uniform[:, None] >= cumulative[:, :-1]).sum(dim=1)


def _take(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen component's entries of [batch, mixtures, n, height, width]."""
    index = chosen[:, None, None].expand(-1, 1, values.shape[2], -1, -1)
    return values.gather(1, index)[:, 0]


def guide(
    given: Params, withheld: Params, *, guidance: float, temperature: float = 1.0
) -> LevelLogits:
    """Return the guided distribution of each pixel of one channel.

    given, withheld: the model's parameters with the condition and without it
    temperature: sharpens both first, as it does without guidance
    """
    own = given.level_log_probs(temperature=temperature)
    evidence = own - withheld.level_log_probs(temperature=temperature)
    return LevelLogits(own + guidance * evidence.clamp_max(MAX_EVIDENCE), given.low)
