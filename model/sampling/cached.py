"""Exact cached sampler, at the cost of one forward pass per image.

model.sampling.evaluator computes a pixel's parameters from the previous pixels; this module samples
the pixel and passes it back. The next pixel sees a quantized level, so at temperature 1 the samples
follow exactly the model's p(x), and the parameters along the way give log_prob of the result. In
float64 the images equal those of one forward pass per pixel for the same numbers; in float32 sums
are in another order, so a drawing may differ once rounding crosses the edge of a level.

A CUDA device replays each row as one graph (model.sampling.evaluator), captured once.
"""

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from model.network.conditioning import check_condition
from model.network.config import check_guidance
from model.network.likelihood import guide, num_draws, num_params, read_params, to_unit
from model.network.pixelcnn import PixelCNN
from model.network.precision import sum_in_float32, warn_if_emulated
from model.sampling.evaluator import Evaluator, RowGraphs
from model.sampling.rows import Place

# Default batch size: large enough for efficient products on a CPU.
BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Given:
    """Pixels that are given instead of sampled: `value` where `mask`, for all channels."""

    value: Num[Tensor, "batch channels height width"]
    mask: Bool[Tensor, "batch height width"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Images, uint8 where low..high fits, else int64, and log P of each pixel in nats.

    The likelihoods are the model's, at temperature 1, of given pixels too.
    """

    images: Num[Tensor, "batch channels height width"]
    log_prob_map: Float[Tensor, "batch height width"]


class CachedSampler:
    """Samples batches of a fixed size from a model; memory is allocated once.

    Weights are copied at construction, with weight norm folded in; later changes of the model have
    no effect. A sampler is not thread-safe.

    batch  the number of images of a batch
    """

    def __init__(
        self,
        model: PixelCNN,
        *,
        batch: int,
        dtype: torch.dtype | None = None,
        guidance: float = 0.0,
        poison: bool = False,
    ) -> None:
        """Allocate memory for batches of `batch` images on the model's device.

        dtype: of the arithmetic, the model's own by default. With bfloat16 (or float16) the
        products within blocks are of that dtype: each tap's product is summed in float32, but
        a convolution's running sum over taps, skips and bias is rounded to 8 bits after each
        of them (a dozen at most), and so are activations. The sums over blocks, strided and
        transposed layers, the first and the last layer and the head are float32.
        guidance: as in model.network.likelihood; a value other than 0 doubles time and memory, as
        each image is evaluated with and without its condition. Raises ValueError if the model
        does not support guidance.
        poison: fill memory that must not be read with NaN; for tests.
        """
        check_guidance(guidance, model.config)
        model = copy.deepcopy(model)
        weight = model.network.output.bias
        warn_if_emulated(dtype or weight.dtype, weight.device)
        sum_in_float32(weight.device)
        narrow = dtype or weight.dtype
        wide = torch.float32 if narrow in (torch.bfloat16, torch.float16) else narrow
        self._place = place = Place(
            batch=2 * batch if guidance else batch,
            narrow=narrow,
            wide=wide,
            device=weight.device,
            activation=model.config.resnet_activation,
            poison=poison,
        )
        self.config, self._encoder = model.config, model.encoder
        self.batch, self._guidance = batch, guidance
        self._evaluator = Evaluator(model.network, place)
        _, width, channels = model.config.image_shape
        self._uniforms = place.empty(width, batch, num_draws(model.config), dtype=torch.float64)
        self._given = place.empty(width, batch, channels, dtype=wide)
        self._mask = torch.zeros(width, batch, 1, dtype=torch.bool, device=place.device)
        self._drawn = place.empty(width, batch, channels, dtype=wide)
        self._raw = place.empty(width, place.batch, num_params(model.config), dtype=wide)
        self._code_rows: list[Tensor | None] = []
        self._temperature = 1.0
        self._graphs: RowGraphs | None = None

    @torch.no_grad()
    def sample(
        self,
        uniforms: Float[Tensor, "batch draws height width"],
        condition: Tensor | None = None,
        *,
        temperature: float = 1.0,
        given: Given | None = None,
    ) -> Sampled:
        """Draw one image for each row of `uniforms`, in (0, 1).

        Raises ValueError for another batch size, a condition that does not fit, or a
        temperature that is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        if len(uniforms) != self.batch:
            raise ValueError(f"expected {self.batch} images, found numbers for {len(uniforms)}")
        device, config = self._place.device, self.config
        inputs = _Inputs(
            uniforms=uniforms.to(device).permute(2, 3, 0, 1),
            codes=self._encode(condition),
            given=None if given is None else given.value.to(device).permute(2, 3, 0, 1),
            mask=None if given is None else given.mask.to(device).permute(1, 2, 0)[..., None],
        )
        if given is None:
            self._mask.zero_()
        self._prepare_graphs(temperature)
        height = config.image_shape[0]
        own = self._raw[:, : self.batch]
        images, raw = (_stack_of(row, height) for row in (self._drawn, own))
        for row in range(height):
            self._load(row, inputs)
            if self._graphs is None:
                self._run_row(row)
            else:
                self._graphs.run(row, self._run_row)
            images[row], raw[row] = self._drawn, own
        value = images.permute(2, 3, 0, 1)
        log_prob = read_params(raw.permute(2, 3, 0, 1), config).log_prob(value)
        is_byte = config.low >= 0 and config.high <= 255
        return Sampled(value.to(torch.uint8 if is_byte else torch.int64), log_prob)

    def _encode(self, condition: Tensor | None) -> list[Tensor | None]:
        """Project a condition for all blocks; return spatial codes by rows.

        With guidance the batch contains each image twice, the second time without its code.
        """
        place = self._place
        if condition is not None:
            if self.config.condition.kind != "none":
                # Labels are still on the CPU, where checking them does not synchronize.
                check_condition(self.config.condition, condition, batch=self.batch)
            condition = condition.to(place.device)
        code = self._encoder.code(
            condition, batch=self.batch, dtype=place.wide, device=place.device
        )
        if code is not None:
            code = code.to(place.wide)
        if code is not None and self._guidance:
            code = torch.cat([code, torch.zeros_like(code)])
        codes = self._encoder.pyramid(code)
        self._evaluator.project(codes)
        spatial = [
            code.permute(2, 3, 0, 1).flatten(1, 2) if code is not None and code.ndim == 4 else None
            for code in codes
        ]
        if not self._code_rows:
            empty = [None if code is None else torch.empty_like(code[0]) for code in spatial]
            self._code_rows = empty
        return spatial

    def _load(self, row: int, inputs: "_Inputs") -> None:
        """Copy a row's inputs to the static memory that its operations read."""
        self._uniforms.copy_(inputs.uniforms[row])
        if inputs.given is not None and inputs.mask is not None:
            self._given.copy_(inputs.given[row])
            self._mask.copy_(inputs.mask[row])
        for level in range(self._evaluator.depth(row) + 1):
            code, here = inputs.codes[level], self._code_rows[level]
            if code is not None and here is not None:
                here.copy_(code[row >> level])

    def _prepare_graphs(self, temperature: float) -> None:
        """Discard graphs captured for another temperature."""
        if temperature != self._temperature:
            self._temperature, self._graphs = temperature, None
        if self._place.device.type == "cuda" and self._graphs is None:
            self._graphs = RowGraphs(period=self._evaluator.period)

    def _run_row(self, row: int) -> None:
        """Sample a row; after the first rows, operations depend on `row` modulo the period only."""
        self._evaluator.begin(row, self._code_rows)
        for column in range(len(self._drawn)):
            self._evaluator.step(row, column, out=self._raw[column])
            self._draw(row, column)

    def _draw(self, row: int, column: int) -> None:
        config = self.config
        drawn = self._choose(column)[:, :, 0, 0]
        drawn = torch.where(self._mask[column], self._given[column], drawn)
        self._drawn[column] = drawn
        pixel = self._evaluator.pixels.cols(row)[column]
        pixel.unflatten(0, (-1, self.batch)).copy_(to_unit(drawn, config.low, config.high))

    def _choose(self, column: int) -> Tensor:
        """Return a pixel's values [batch, channels, 1, 1]."""
        uniforms = self._uniforms[column][:, :, None, None]
        parts = self._raw[column][:, :, None, None].split(self.batch)
        params = [read_params(part, self.config) for part in parts]
        if not self._guidance:
            return params[0].draw(uniforms, temperature=self._temperature)
        guided = guide(*params, guidance=self._guidance, temperature=self._temperature)
        return guided.draw(uniforms)


def sample_in_batches(
    model: PixelCNN,
    uniforms: Float[Tensor, "batch draws height width"],
    condition: Tensor | None = None,
    *,
    given: Given | None = None,
    temperature: float = 1.0,
    guidance: float = 0.0,
    dtype: torch.dtype | None = None,
    batch_size: int = BATCH_SIZE,
) -> Sampled:
    """Sample any number of images, at most `batch_size` at a time, with one sampler.

    Batches have equal sizes: the last one is padded and the surplus discarded, because memory and
    CUDA graphs of another size would cost more. Other arguments are as for CachedSampler.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    if not (num := len(uniforms)):
        raise ValueError("expected numbers for at least one image, found none")
    batch = math.ceil(num / math.ceil(num / batch_size))
    sampler, parts = CachedSampler(model, batch=batch, dtype=dtype, guidance=guidance), []
    for start in range(0, num, batch):
        rows = torch.arange(start, start + batch).clamp_max(num - 1)
        sampled = sampler.sample(
            uniforms[rows],
            None if condition is None else condition[rows.to(condition.device)],
            temperature=temperature,
            given=None if given is None else _part(given, rows),
        )
        kept = slice(0, min(batch, num - start))
        parts.append(Sampled(sampled.images[kept], sampled.log_prob_map[kept]))
    return Sampled(
        torch.cat([part.images for part in parts]),
        torch.cat([part.log_prob_map for part in parts]),
    )


def _part(given: Given, rows: Tensor) -> Given:
    return Given(given.value[rows.to(given.value.device)], given.mask[rows.to(given.mask.device)])


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of a batch, by rows: [height, width, batch, ...]."""

    uniforms: Tensor
    codes: list[Tensor | None]
    given: Tensor | None
    mask: Tensor | None


def _stack_of(row: Tensor, height: int) -> Tensor:
    return torch.empty(height, *row.shape, dtype=row.dtype, device=row.device)
