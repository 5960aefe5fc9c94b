"""Sampling of a spec's rows with a published model, and the random numbers of each image.

Image n of a seed has its own Philox stream (Salmon et al. 2011, counter-based): its numbers depend
neither on the batch, nor on the device, nor on previous images, nor on the sampler. Images of a
class are numbered within it: the class is the highest word of the counter, which the numbers of an
image never reach.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from model.network.conditioning import label_condition
from model.network.config import PixelCNNConfig, check_guidance
from model.network.likelihood import num_draws
from model.network.pixelcnn import PixelCNN
from model.network.precision import default_device
from model.network.weights import CONFIG_NAME, WEIGHTS_NAME, load_model, read_config
from model.sampling.cached import CachedSampler
from model.sampling.portable import Integers, Nats, Pixels, PortableSampler
from model.sampling.spec import (
    Rows,
    SampleSpec,
    lack_of_portable,
    model_labels,
    shard_size,
    spec_rows,
)
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

_UINT64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """Drawings (n, h, w) uint8 and their log-likelihoods (n,) in nats under the model."""

    images: npt.NDArray[np.uint8]
    nats: npt.NDArray[np.float64]


class Drawer:
    """Samples the rows of one spec with one model."""

    def __init__(self, model: PixelCNN, labels: npt.NDArray[np.int64], spec: SampleSpec) -> None:
        """Take the model's label of each of the spec's classes."""
        check_drawable(model.config)
        check_guidance(spec.guidance, model.config)
        self.spec, self.labels, self.model = spec, labels, model
        self._samplers: dict[int, CachedSampler] = {}
        self._portable: PortableSampler | None = None

    def draw(self, batch: slice) -> Drawn:
        """Sample one batch of the spec's rows; raise ValueError if a likelihood is not finite."""
        rows = spec_rows(self.spec, batch)
        draw = self._draw_portable if self.spec.arithmetic == "portable" else self._draw
        images, nats = draw(self.labels[rows.labels], rows.indices)
        if not np.isfinite(nats).all():
            raise ValueError(
                f"the model gives {int((~np.isfinite(nats)).sum())} of {len(nats)} drawings a "
                "likelihood that is not finite: its weights are broken (NaN or far too large); "
                "evaluate it, and train it again with a lower learning rate"
            )
        return Drawn(images, nats)

    def _draw(self, labels: Integers, indices: Integers) -> tuple[Pixels, Nats]:
        num, sampler = len(labels), self._sampler_of(len(labels))
        indices, labels = _padded(indices, sampler.batch), _padded(labels, sampler.batch)
        sampled = sampler.sample(
            self._uniforms(labels, indices),
            label_condition(self.model.config, labels),
            temperature=self.spec.temperature,
        )
        nats = sampled.log_prob_map[:num].double().sum((1, 2)).cpu().numpy()
        return sampled.images[:num, 0].cpu().numpy(), nats

    def _draw_portable(self, labels: Integers, indices: Integers) -> tuple[Pixels, Nats]:
        if self._portable is None:
            spec = self.spec
            self._portable = PortableSampler(
                self.model, guidance=spec.guidance, temperature=spec.temperature
            )
        return self._portable.draw(labels, self._uniforms(labels, indices).numpy())

    def _uniforms(self, labels: Integers, indices: Integers) -> Tensor:
        height, width, _ = self.model.config.image_shape
        shape = (num_draws(self.model.config), height, width)
        return class_uniforms(labels, indices, shape, seed=self.spec.seed)

    def _sampler_of(self, batch: int) -> CachedSampler:
        """Return a sampler for a batch of this size or a larger one.

        On a GPU one sampler of the largest size is used for all batches, and a shard's last batch
        is padded: memory and graphs are expensive. On a CPU each of the at most three sizes of a
        spec has its own sampler.
        """
        if self.model.network.output.bias.device.type == "cuda":
            batch = min(self.spec.batch_size, self.spec.rows_per_shard, self.spec.num_rows)
        if batch not in self._samplers:
            dtype = getattr(torch, self.spec.dtype)
            self._samplers[batch] = CachedSampler(
                self.model, batch=batch, dtype=dtype, guidance=self.spec.guidance
            )
        return self._samplers[batch]


def draw_uniforms(
    num: int, draws: int, height: int, width: int, *, seed: int, first_index: int = 0
) -> Float[Tensor, "batch draws height width"]:
    """Return float64 numbers in (0, 1), never 0 or 1, for images first_index ... of a seed."""
    noise = np.empty((num, draws, height, width))
    for i in range(num):
        noise[i] = _stream(seed, first_index + i, noise[i].size).reshape(noise[i].shape)
    return torch.from_numpy(noise)


def class_uniforms(
    labels: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int64],
    shape: tuple[int, int, int],
    *,
    seed: int,
) -> Float[Tensor, "batch draws height width"]:
    """Return float64 numbers in (0, 1) for images `indices` of classes `labels` of a seed.

    shape: (draws, height, width). Labels are the model's, from 0.
    """
    noise = np.empty((len(labels), *shape))
    for i, (label, index) in enumerate(zip(labels, indices, strict=True)):
        stream = _stream(seed, int(index), noise[i].size, word=int(label) + 1)
        noise[i] = stream.reshape(shape)
    return torch.from_numpy(noise)


def draw_choices(num: int, *, seed: int, first_index: int = 0) -> Float[Tensor, " batch"]:
    """Return one more number for each image, from a stream separate from the images' streams."""
    last = _UINT64
    numbers = [_stream(seed, first_index + i, 1, word=last)[0] for i in range(num)]
    return torch.tensor(numbers, dtype=torch.float64)


def _padded(values: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return `size` values, the last one repeated."""
    return np.pad(values, (0, size - len(values)), mode="edge")


def open_drawer(store: Store, manifest: Manifest, spec: SampleSpec) -> Drawer:
    """Load a model and check that it can draw the spec.

    Raises ValueError for a class that the model does not know, or if the files are not a model.
    """
    saved = load_model({name: store.read(manifest, name) for name in (WEIGHTS_NAME, CONFIG_NAME)})
    labels = spec_labels(spec, saved.class_names, saved.model.config)
    dtype = torch.float64 if spec.dtype == "float64" else torch.float32
    device = torch.device("cpu") if spec.arithmetic == "portable" else default_device()
    return Drawer(saved.model.to(device, dtype), labels, spec)


def check_model(store: Store, manifest: Manifest, spec: SampleSpec) -> None:
    """Raise ValueError if a published model cannot draw the spec; its weights are not read."""
    config = read_config(store.read(manifest, CONFIG_NAME))
    check_drawable(config)
    check_guidance(spec.guidance, config)
    lacking = lack_of_portable(config)
    if spec.arithmetic == "portable" and lacking:
        raise ValueError(
            f"the model cannot be drawn in portable arithmetic ({lacking}): use --arithmetic torch"
        )
    spec_labels(spec, manifest.summary["class_names"], config)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, as every sampling process does: the last bit may depend on the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spec_labels(
    spec: SampleSpec, known: Sequence[str], config: PixelCNNConfig
) -> npt.NDArray[np.int64]:
    """Return the model's labels; an unconditional model samples one class of any name."""
    if config.condition.kind != "none":
        return model_labels(spec.class_names, known)
    if len(spec.class_names) > 1:
        raise ValueError(
            f"the model is unconditional, so it cannot sample {len(spec.class_names)} classes: "
            "give one class name for all drawings"
        )
    return np.zeros(1, np.int64)


def check_drawable(config: PixelCNNConfig) -> None:
    """Raise ValueError unless the model generates gray 8-bit images of a class."""
    if config.condition.kind in ("vector", "spatial"):
        raise ValueError(
            f"the model is conditioned on a {config.condition.kind}, not on a class: a dataset "
            "of classes cannot be drawn from it; use model.sampling.cached"
        )
    if config.num_channels != 1 or config.low < 0 or config.high > 255:
        raise ValueError(
            "a dataset holds gray pictures of 8 bits, the model makes "
            f"{config.num_channels} channels of {config.low}..{config.high}"
        )


def shard_rows(spec: SampleSpec, shard: int) -> Rows:
    """Return the rows of a shard."""
    start = shard * spec.rows_per_shard
    return spec_rows(spec, slice(start, start + shard_size(spec, shard)))


def _stream(seed: int, index: int, size: int, *, word: int = 0) -> np.ndarray:
    # Lists of Python integers that reach 2^63 would go through float64 and lose digits.
    key = np.array([seed & _UINT64, index & _UINT64], np.uint64)
    counter = np.array([0, 0, 0, word], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(size)
    # The middle of each of 2^53 bins: a logistic is infinite at 0 and 1.
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
