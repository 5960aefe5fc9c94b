"""The sampling spec: classes, counts, noise and batches, everything that sets the drawings.

A SampleSpec and a model's digest determine the digest of a samples artifact. Drawing i of class c
under a seed has its own noise (model.sampling.drawer), and the spec alone fixes the batches, so
the bytes depend neither on processes nor on their order nor on a restart. Another kind of processor
or another torch version may round a sum differently and flip a pixel.
"""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.store.manifest import Manifest, artifact_digest

Dtype = Literal["float32", "bfloat16", "float64"]

# Incremented when equal specs give different drawings.
SAMPLER_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What to draw.

    class_names     classes of the model; a drawing's label is its index here
    per_class       drawings of each class, or one number for each class
    seed            the noise of drawings 0, 1, 2, ... of a class is the same in every spec with
                    this seed; another batch_size may change their rounding
    temperature     1 is the model's distribution; below 1 is sharper, above 1 flatter
    guidance        0 is the class's distribution; larger values amplify what distinguishes the
                    class (model.network.likelihood), for models trained with condition dropout
    batch_size      drawings computed together
    dtype           of the arithmetic; likelihoods are sums in float32 or wider
    rows_per_shard  drawings per Parquet file, the unit of work that a restart repeats
    """

    class_names: tuple[str, ...]
    per_class: int | tuple[int, ...]
    seed: int = 0
    temperature: float = 1.0
    guidance: float = 0.0
    batch_size: int = 64
    dtype: Dtype = "float32"
    rows_per_shard: int = 8_192

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
    cuts = range(start, stop, spec.batch_size)
    return [slice(cut, min(cut + spec.batch_size, stop)) for cut in cuts]


def spec_to_json(spec: SampleSpec) -> dict[str, Any]:
    """Return the spec as JSON values, with the sampler's version."""
    raw: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
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
    if spec.dtype not in typing.get_args(Dtype):
        expected = ", ".join(typing.get_args(Dtype))
        raise ValueError(f"dtype {spec.dtype!r}: expected one of {expected}")


def _check_classes(spec: SampleSpec) -> None:
    names, given = spec.class_names, spec.per_class
    if not names or len(set(names)) < len(names):
        raise ValueError(f"class_names must be different and not empty, found {names}")
    numbers = given if isinstance(given, tuple) else (given,) * len(names)
    if len(numbers) != len(names):
        raise ValueError(f"per_class has {len(numbers)} numbers for {len(names)} classes")
    if min(numbers) < 0 or sum(numbers) < 1:
        raise ValueError(f"per_class must be at least 1, found {given}")
