"""A sampler for CPUs that draws the same bits on each of them: one function of C does all.

Each of BLOCK drawings is one lane of every vector. Its sums run over taps and channels in one order
at any width of the vectors, with fused multiply-adds written as such, and exponentials, logarithms
and sigmoids are polynomials of our own (model/network/kernels/portable.c). So AVX2, AVX-512 and plain
code give equal bytes, and a drawing depends on the model, the class, the seed, its index and the
options alone, not on the drawings beside it. The network is float32, each tap a sum of its own; the
distribution of a pixel is float64, but for the probabilities of its levels under guidance. Like
model.sampling.cached it evaluates each position of each layer once.

Of 2,560 drawings of `shipped:tiny-20` at guidance 2.5, 25 differ from those of float64 in some pixel
(of torch's in float32, 46 of 1,280), each where a number is within 1e-5 of the edge of a level.
Log-probabilities are within 5e-5 nats a drawing in the mean.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt
import torch

from model.network.conditioning import label_condition
from model.network.kernels.native import library
from model.network.pixelcnn import PixelCNN
from model.sampling.program import Numbers, Program
from model.sampling.spec import PORTABLE_BLOCK as BLOCK
from model.sampling.spec import lack_of_portable
from pipelines.store.errors import LackError

Integers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Nats = npt.NDArray[np.float64]

# Contraction would fuse what the processor can.
_FLAGS = ("-ffp-contract=off", "-Wno-psabi")


class PortableSampler:
    """Draws images of classes from one model on the CPU.

    Weights are copied at construction; later changes of the model have no effect.

    num_bytes  memory of the network's features, of all threads
    """

    def __init__(
        self,
        model: PixelCNN,
        *,
        guidance: float = 0.0,
        temperature: float = 1.0,
        threads: int = 1,
        flags: tuple[str, ...] = (),
    ) -> None:
        """Write the program and allocate memory, for each thread its own.

        flags: more for the C compiler. Raises ValueError for a network that this arithmetic does
        not have, LackError without a compiler.
        """
        if lacking := lack_of_portable(model.config):
            raise ValueError(f"the model cannot be drawn in portable arithmetic: {lacking}")
        found = library("portable.c", *_FLAGS, *flags)
        if found is None:
            raise LackError(
                "portable arithmetic needs a C compiler (cc or gcc): install one, or use "
                "--arithmetic torch, which draws the same but for rounding"
            )
        self._draw_block = found.draw_block
        self.config, self._encoder = model.config, model.encoder
        self._guidance, self._temperature = guidance, temperature
        self._program = program = Program(model)
        params, levels = 6 * self.config.num_logistic_mix, 3 * self.config.num_levels
        size = 2 * program.state_size + BLOCK * (program.widest + params + levels)
        passes = 2 if guidance else 1
        self.num_bytes = threads * passes * program.state_size * np.dtype(np.float32).itemsize
        self._threads, self._memories = threads, SimpleQueue[Numbers]()
        for _ in range(threads):
            self._memories.put(np.zeros(size, np.float32))

    def draw(
        self,
        labels: Integers,
        uniforms: npt.NDArray[np.float64],
        given: Pixels | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Pixels, Nats]:
        """Return drawings (n, h, w) and their log-likelihoods (n,) in nats, at temperature 1.

        uniforms: (n, draws, h, w) in (0, 1); with guidance the first of a pixel alone is read
        given, mask: pixels (n, h, w) that are kept where the mask is true, instead of drawn
        """

        if not len(labels):
            return np.zeros((0, *self.config.image_shape[:2]), np.uint8), np.zeros(0)

        def draw(start: int) -> tuple[Pixels, Nats]:
            rows = np.minimum(np.arange(start, start + BLOCK), len(labels) - 1)
            part = None if given is None or mask is None else (given[rows], mask[rows])
            drawn, found = self._draw(labels[rows], uniforms[rows], part)
            return drawn[: len(labels) - start], found[: len(labels) - start]

        starts = range(0, len(labels), BLOCK)
        if self._threads > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                images, nats = zip(*pool.map(draw, starts), strict=True)
        else:
            images, nats = zip(*map(draw, starts), strict=True)
        return np.concatenate(images), np.concatenate(nats)

    def _draw(
        self,
        labels: Integers,
        uniforms: npt.NDArray[np.float64],
        given: tuple[Pixels, npt.NDArray[np.bool_]] | None,
    ) -> tuple[Pixels, Nats]:
        """Draw BLOCK images; the C has the drawings last."""
        height, width, _ = self.config.image_shape
        numbers = _last(uniforms[:, :1] if self._guidance else uniforms, (2, 3, 1, 0))
        images, nats = np.zeros((height, width, BLOCK), np.uint8), np.zeros(BLOCK)
        mask = None
        if given is not None:
            images[...] = given[0].transpose(1, 2, 0)
            mask = _last(given[1].astype(np.uint8), (1, 2, 0))
        codes = self._codes(labels)
        memory = self._memories.get()  # nothing from here on raises
        addresses = (ctypes.c_void_p * len(codes))(*(code.ctypes.data for code in codes))
        job = _Job(
            self._guidance,
            self._temperature,
            numbers.ctypes.data,
            ctypes.addressof(addresses) if codes else None,
            None if mask is None else mask.ctypes.data,
            images.ctypes.data,
            nats.ctypes.data,
            memory.ctypes.data,
        )
        widest = ctypes.c_int64(self._program.widest)
        self._draw_block(ctypes.byref(self._program.struct), ctypes.byref(job), widest)
        self._memories.put(memory)
        return images.transpose(2, 0, 1), nats

    @torch.no_grad()
    def _codes(self, labels: Integers) -> list[Numbers]:
        """Return the condition at each level, [row][column][channel][drawing]."""
        known, places = np.unique(labels, return_inverse=True)
        code = self._encoder.code(
            label_condition(self.config, known),
            batch=len(known),
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        if code is None:
            return []
        table, levels = code.numpy(), range(self.config.num_hierarchies)
        if table.ndim == 2:  # the same at each position
            return [_last(table[places][:, :, None, None], (2, 3, 1, 0)) for _ in levels]
        return [_last(pooled(table, level)[places], (2, 3, 1, 0)) for level in levels]


def pooled(code: Numbers, level: int) -> Numbers:
    """Return means over squares of 2^level positions, [classes, channels, rows, columns].

    They are summed in one order, so that they are the same on every CPU.
    """
    size = 1 << level
    count, channels, rows, columns = code.shape
    squares = code.reshape(count, channels, rows // size, size, columns // size, size)
    total = np.zeros_like(squares[:, :, :, 0, :, 0])
    for row in range(size):
        for column in range(size):
            total += squares[:, :, :, row, :, column]
    return total / np.float32(size * size)


def _last(array: npt.NDArray, axes: tuple[int, ...]) -> npt.NDArray:
    return np.ascontiguousarray(array.transpose(axes))


class _Job(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("guidance", "temperature")),
        *((name, ctypes.c_void_p) for name in ("uniforms", "codes", "mask", "images", "nats")),
        ("memory", ctypes.c_void_p),
    )
