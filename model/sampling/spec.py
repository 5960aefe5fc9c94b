"""The sampling spec: classes, counts, noise and batches, everything that sets the drawings.

A SampleSpec and a model's digest determine the digest of a samples artifact. Drawing i of class c
under a seed has its own noise (model.sampling.drawer), so the bytes depend neither on processes nor
on their order nor on a restart. In portable arithmetic they depend on nothing else. In torch's the
spec fixes the batches too, as another size may round a sum differently and flip a pixel; so may
another kind of processor or another torch version.
"""

import dataclasses
import difflib
import json
import math
import os
import shutil
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model.network.config import PixelCNNConfig
from pipelines.store.manifest import Manifest, artifact_digest

Dtype = Literal["float32", "bfloat16", "float64"]
Arithmetic = Literal["torch", "portable"]
# Of portable arithmetic, as in model/network/kernels/portable.c: how many drawings it computes
# together, and what it has room for.
PORTABLE_BLOCK, MOST_MIXTURES, MOST_TAPS = 32, 64, 64

# Incremented when equal specs give different drawings.
SAMPLER_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What to draw.

    class_names     classes of the model; a drawing's label is its index here
    per_class       drawings of each class, or one number for each class
    seed            the noise of drawings 0, 1, 2, ... of a class is the same in every spec with
                    this seed; in torch's arithmetic another batch_size may change their rounding
    temperature     1 is the model's distribution; below 1 is sharper, above 1 flatter
    guidance        0 is the class's distribution; larger values amplify what distinguishes the
                    class (model.network.likelihood), for models trained with condition dropout
    batch_size      drawings computed together; no part of a portable spec's address
    dtype           of the arithmetic; likelihoods are sums in float32 or wider
    rows_per_shard  drawings per Parquet file, the unit of work that a restart repeats
    arithmetic      "torch", on any device, or "portable": float32 with the same bits on every CPU
                    and in every batch (model.sampling.portable)
    """

    class_names: tuple[str, ...]
    per_class: int | tuple[int, ...]
    seed: int = 0
    temperature: float = 1.0
    guidance: float = 0.0
    batch_size: int = 64
    dtype: Dtype = "float32"
    rows_per_shard: int = 8_192
    arithmetic: Arithmetic = "torch"

    def __post_init__(self) -> None:
        """Raise ValueError if a field is out of range."""
        _check_spec(self)

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of drawings of each class."""
        given = self.per_class
        numbers = (given,) * len(self.class_names) if isinstance(given, int) else given
        return dict(zip(self.class_names, numbers, strict=True))

    @property
    def num_rows(self) -> int:
        """Return the number of drawings."""
        return sum(self.counts.values())

    @property
    def num_shards(self) -> int:
        """Return the number of Parquet files."""
        return math.ceil(self.num_rows / self.rows_per_shard)


@dataclass(frozen=True, slots=True)
class Rows:
    """The drawing of each row: index into spec.class_names and number within the class."""

    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def part(self, rows: slice) -> "Rows":
        """Return some of the rows."""
        return Rows(self.labels[rows], self.indices[rows])


def spec_rows(spec: SampleSpec, rows: slice | None = None) -> Rows:
    """Return these rows (None: all): drawing 0 of each class, then drawing 1 of each, ...

    Any prefix of a dataset is balanced, and a larger per_class only appends. Only the requested
    rows are computed, as one shard of a dataset of 50 million does not need the others.
    """
    start, stop, _ = (rows or slice(None)).indices(spec.num_rows)
    numbers = np.array(list(spec.counts.values()))
    first, last = _index_at(numbers, start), _index_at(numbers, max(start, stop - 1))
    indices = np.arange(first, last + 1)
    place, labels = np.nonzero(numbers > indices[:, None])
    part = slice(start - _rows_before(numbers, first), None)
    return Rows(labels[part], indices[place[part]]).part(slice(max(stop - start, 0)))


def find_row(spec: SampleSpec, class_name: str, index: int) -> int:
    """Return the row of drawing `index` of a class; raise ValueError if the spec has none."""
    if not 0 <= index < spec.counts.get(class_name, 0):
        raise ValueError(f"the spec has no drawing {index} of {class_name!r}")
    numbers = np.array(list(spec.counts.values()))
    before = numbers[: spec.class_names.index(class_name)] > index
    return _rows_before(numbers, index) + int(before.sum())


def shard_size(spec: SampleSpec, shard: int) -> int:
    """Return the number of drawings in a shard."""
    return min(spec.rows_per_shard, spec.num_rows - shard * spec.rows_per_shard)


def shard_batches(spec: SampleSpec, shard: int) -> list[slice]:
    """Return the rows of each batch of a shard."""
    start = shard * spec.rows_per_shard
    stop = start + shard_size(spec, shard)
    size = PORTABLE_BLOCK if spec.arithmetic == "portable" else spec.batch_size
    return [slice(cut, min(cut + size, stop)) for cut in range(start, stop, size)]


def spec_to_json(spec: SampleSpec) -> dict[str, Any]:
    """Return the spec as JSON values, with the sampler's version.

    Without the field that does not count: addresses are as they were before there were two.
    """
    raw: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    del raw["batch_size" if spec.arithmetic == "portable" else "arithmetic"]
    return raw | {"sampler_version": SAMPLER_VERSION}


def spec_from_json(raw: Mapping[str, Any]) -> SampleSpec:
    """Read a spec; raise ValueError for another sampler version, or unknown or missing fields."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    version = fields.pop("sampler_version", SAMPLER_VERSION)
    if version != SAMPLER_VERSION:
        raise ValueError(f"this is sampler {SAMPLER_VERSION}, the spec is for {version}")
    try:
        return SampleSpec(**fields)
    except TypeError as error:
        raise ValueError(f"the sampling spec has unexpected or missing fields: {error}") from error


def lack_of_portable(config: PixelCNNConfig) -> str:
    """Return what portable arithmetic lacks for a network, "" if it has all."""
    rows, cols = config.receptive_field_dims
    if config.num_channels != 1 or config.low < 0 or config.high > 255:
        return "it draws gray pixels of 8 bits"
    if config.head != "logistic" or config.num_logistic_mix > MOST_MIXTURES:
        return f"it draws from mixtures of at most {MOST_MIXTURES} logistics"
    if config.resnet_activation == "relu":
        return "it has no relu"
    if config.condition.kind in ("vector", "spatial"):
        return f"it has no condition of kind {config.condition.kind!r}"
    return "" if 2 * rows * cols < MOST_TAPS else f"a layer of it reads at most {MOST_TAPS} places"


def default_arithmetic(config: PixelCNNConfig, dtype: Dtype) -> Arithmetic:
    """Return the faster arithmetic for a network on this machine.

    Torch's on a GPU, in another dtype than float32, and where the portable one lacks something.
    """
    is_portable = dtype == "float32" and not _has_gpu() and not lack_here(config)
    return "portable" if is_portable else "torch"


def lack_here(config: PixelCNNConfig) -> str:
    """Return what portable arithmetic lacks for a network on this machine, "" if it has all."""
    compiler = os.environ.get("CC", "").split() or ["cc"]
    if not (shutil.which(compiler[0]) or shutil.which("gcc")):
        return "there is no C compiler (cc or gcc)"
    if not _has_fused():
        return "the processor has no fused multiply-add"
    return lack_of_portable(config)


def _has_fused() -> bool:
    try:
        return "fma" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _has_gpu() -> bool:
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not is_hidden and any(Path("/dev").glob("nvidia[0-9]*"))


def samples_digest(spec: SampleSpec, model: Manifest) -> str:
    """Return the digest of the samples for this spec and model."""
    return artifact_digest("samples", spec_to_json(spec), (model.ref("model"),))


def model_labels(class_names: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the label that a model of the classes `known` gives each name.

    Raises ValueError for an unknown one.
    """
    positions = {name: label for label, name in enumerate(known)}
    for name in class_names:
        if name not in positions:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"it knows {len(known)}"
            raise ValueError(f"the model has no class {name!r}; {hint}")
    return np.array([positions[name] for name in class_names], np.int64)


def _rows_before(numbers: npt.NDArray[np.int64], index: int) -> int:
    """Return the number of rows before those of drawing `index`; numbers: of each class."""
    return int(np.minimum(numbers, index).sum())


def _index_at(numbers: npt.NDArray[np.int64], row: int) -> int:
    """Return a row's index within its class: the last index with at most `row` rows before it."""
    low, high = 0, int(numbers.max())
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _rows_before(numbers, middle) <= row else (low, middle)
    return low


def _check_spec(spec: SampleSpec) -> None:
    _check_classes(spec)
    for name in ("batch_size", "rows_per_shard"):
        if getattr(spec, name) < 1:
            raise ValueError(f"{name} must be at least 1, found {getattr(spec, name)}")
    if not 0 <= spec.seed < 1 << 63:
        raise ValueError(f"seed must be in [0, 2^63), found {spec.seed}")
    if not (spec.temperature > 0 and math.isfinite(spec.temperature)):
        raise ValueError(f"temperature must be positive, found {spec.temperature}")
    if not (spec.guidance >= 0 and math.isfinite(spec.guidance)):
        raise ValueError(f"guidance must be 0 or more, found {spec.guidance}")
    _check_arithmetic(spec)


def _check_arithmetic(spec: SampleSpec) -> None:
    for name, kind in (("dtype", Dtype), ("arithmetic", Arithmetic)):
        if getattr(spec, name) not in typing.get_args(kind):
            expected = ", ".join(typing.get_args(kind))
            raise ValueError(f"{name} {getattr(spec, name)!r}: expected one of {expected}")
    if spec.arithmetic == "portable" and spec.dtype != "float32":
        raise ValueError(
            f"portable arithmetic is float32, found dtype {spec.dtype}: use --arithmetic torch"
        )


def _check_classes(spec: SampleSpec) -> None:
    names, given = spec.class_names, spec.per_class
    if not names or len(set(names)) < len(names):
        raise ValueError(f"class_names must be different and not empty, found {names}")
    numbers = given if isinstance(given, tuple) else (given,) * len(names)
    if len(numbers) != len(names):
        raise ValueError(f"per_class has {len(numbers)} numbers for {len(names)} classes")
    if min(numbers) < 0 or sum(numbers) < 1:
        raise ValueError(f"per_class must be at least 1, found {given}")
