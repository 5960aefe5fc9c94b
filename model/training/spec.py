"""The training spec: network, optimizer, data order and budget, everything that sets the weights.

A TrainSpec and a dataset's digest determine the digest of a model. Execution settings (processes,
threads, devices, intervals, directories) are in model.options and change rounding at most.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from model.network.config import LABEL_KINDS, ConditionConfig, PixelCNNConfig
from pipelines.store.manifest import InputRef, Manifest, artifact_digest, spec_fields

Decay = Literal["constant", "cosine"]
Precision = Literal["float32", "float64", "bfloat16"]

# Fields that the spec did not begin with (pipelines.store.manifest.spec_fields).
_LATER_FIELDS = frozenset(
    {"guidance", "table_learning_rate", "new_class_weight", "max_eval_drawings"}
)
_CONDITION_FIELDS = ["condition.kind", "condition.embedding_dim", "condition.dropout_p"]
# torch's limit for a seed.
_MAX_SEED = 2**63
# Conditions that a dataset's single label provides.
_TRAINABLE_KINDS = ("none", *LABEL_KINDS, "scalar")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """Training configuration. Budgets and intervals are in drawings (_nimg).

    network           the model; its image shape and classes come from the dataset
    budget_nimg       drawings to train on, repeats included; 0: use num_epochs
    num_epochs        passes over the training split; used if budget_nimg is 0
    batch_size        drawings per optimizer step, over all ranks
    learning_rate     Adam's peak, reached after warmup_nimg drawings
    muon_learning_rate  Muon's peak for the directions of inner layers; 0: Adam trains them
    table_learning_rate  Adam's peak for the table of the classes' codes; 0: learning_rate
    decay             "cosine" falls to final_ratio of the peak at the end of the budget
    clip_norm         maximum Euclidean norm of all gradients together; 0: no clipping
    ema_halflife_nimg half-life of the published weight average
    ema_rampup_ratio  limits the half-life to this fraction of the drawings seen so far
    init_nimg         drawings used for the data-dependent initialization
    precision         bfloat16: autocast with float32 weights and sums
    seed              seed of initialization, order and dropout
    new_class_weight  in a start from a model: how much more often drawings of a class are seen that
                      is new to it
    guidance          default of the model's drawings; None: that of model.network.config
    max_eval_drawings  drawings of the test split that training itself evaluates at its end, a fixed
                      random subset; 0: all
    """

    network: PixelCNNConfig
    budget_nimg: int = 0
    num_epochs: float = 0.0
    batch_size: int = 32
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.0
    warmup_nimg: int = 0
    decay: Decay = "constant"
    final_ratio: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    adam_eps: float = 1e-8
    clip_norm: float = 0.0
    ema_halflife_nimg: int = 10_000
    ema_rampup_ratio: float = 0.05
    init_nimg: int = 64
    precision: Precision = "float32"
    seed: int = 0
    table_learning_rate: float = 0.0
    new_class_weight: float = 1.0
    guidance: float | None = None
    max_eval_drawings: int = 20_000

    def __post_init__(self) -> None:
        """Raise ValueError if a field is out of range."""
        _check_spec(self)
        _check_choices(self)

    def total_nimg(self, num_rows: int) -> int:
        """Return the budget in drawings, in whole batches, for a training split of `num_rows`."""
        wanted = self.budget_nimg or round(self.num_epochs * num_rows)
        return max(1, round(wanted / self.batch_size)) * self.batch_size


def spec_to_json(spec: TrainSpec) -> dict[str, Any]:
    """Return the spec as JSON values, for a manifest or a file."""
    network = dataclasses.asdict(spec.network)
    return json.loads(json.dumps(spec_fields(spec, _LATER_FIELDS) | {"network": network}))


def spec_from_json(raw: Mapping[str, Any]) -> TrainSpec:
    """Read a spec; raise ValueError for an unknown or missing field."""
    try:
        return _build(TrainSpec, raw)
    except TypeError as error:
        raise ValueError(f"the training spec has unexpected or missing fields: {error}") from error


def run_digest(spec: TrainSpec, dataset: Manifest, init: Manifest | None = None) -> str:
    """Return the digest of the model for this spec, dataset and model to start from."""
    return artifact_digest("models", spec_to_json(spec), run_inputs(dataset, init))


def run_inputs(dataset: Manifest, init: Manifest | None) -> tuple[InputRef, ...]:
    """Return the lineage of a model."""
    return (dataset.ref("dataset"), *([init.ref("init")] if init else []))


def fit_to_dataset(spec: TrainSpec, dataset: Manifest) -> TrainSpec:
    """Return the spec with the dataset's image shape and number of classes."""
    height, width = dataset.summary["image_shape"][:2]
    condition = spec.network.condition
    if condition.kind in LABEL_KINDS:
        num_classes = len(dataset.summary["class_names"])
        condition = dataclasses.replace(condition, num_classes=num_classes)
    network = dataclasses.replace(spec.network, image_shape=(height, width, 1), condition=condition)
    return dataclasses.replace(spec, network=network)


def check_fit(spec: TrainSpec, dataset: Manifest, *, num_ranks: int) -> None:
    """Raise ValueError if the spec's network does not fit the dataset or the ranks."""
    if spec != fit_to_dataset(spec, dataset):
        network, summary = spec.network, dataset.summary
        raise ValueError(
            f"the network expects images {network.image_shape} of {network.condition.num_classes} "
            f"classes, the dataset has {summary['image_shape']} and "
            f"{len(summary['class_names'])}: use fit_to_dataset"
        )
    if spec.network.low > 0 or spec.network.high < 255:
        raise ValueError(
            "the dataset's pixels are 0 to 255, the network's range is "
            f"{spec.network.low} to {spec.network.high}: leave low and high at their defaults"
        )
    if spec.batch_size % num_ranks:
        raise ValueError(f"batch_size {spec.batch_size} is not divisible by {num_ranks} processes")


def check_splits(dataset: Manifest) -> None:
    """Raise ValueError unless the train, validation and test splits have drawings."""
    found = {entry.split for entry in dataset.files if entry.rows}
    missing = [split for split in ("train", "validation", "test") if split not in found]
    if missing:
        raise ValueError(
            f"dataset {dataset.name}@{dataset.digest[:12]} has no drawings in "
            f"{' and '.join(missing)}, and training needs train, validation and test: build it "
            "with --splits train=0.9,validation=0.05,test=0.05, with --splits source and "
            "--validation-part 0.05, or with more drawings"
        )


def apply_overrides(spec: TrainSpec, assignments: Sequence[str]) -> TrainSpec:
    """Return the spec with each "field=value" applied, network fields included.

    Values are parsed by the field's type: 1e-3, true, cosine, 28,28,1. The condition's fields are
    condition.kind, condition.embedding_dim and condition.dropout_p. Raises ValueError with the
    field and the expected value, and the closest names for an unknown field.
    """
    own, values, network = _fields(TrainSpec), {}, spec.network
    for assignment in assignments:
        name, separator, text = (part.strip() for part in assignment.partition("="))
        if not separator:
            raise ValueError(f"expected field=value, found {assignment!r}")
        if name in own and name != "network":
            values[name] = _parse(name, text, own[name])
        else:
            network = _override_network(network, name, text)
    # Apply all at once: replacing num_epochs by budget_nimg takes two assignments.
    return dataclasses.replace(spec, network=network, **values)


def _override_network(network: PixelCNNConfig, name: str, text: str) -> PixelCNNConfig:
    inner = _fields(PixelCNNConfig)
    if name in inner and name not in ("condition", "image_shape"):
        return _replace_network(network, name, _parse(name, text, inner[name]))
    if name in _CONDITION_FIELDS:
        condition = _override_condition(network.condition, name, text)
        return _replace_network(network, "condition", condition)
    known = sorted((set(_fields(TrainSpec)) | set(inner)) - {"network", "condition", "image_shape"})
    known += _CONDITION_FIELDS
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"fields: {', '.join(known)}"
    raise ValueError(f"unknown training field {name!r}; {hint}")


def _override_condition(condition: ConditionConfig, name: str, text: str) -> ConditionConfig:
    if name == "condition.embedding_dim":
        return dataclasses.replace(condition, embedding_dim=_parse_number(name, text, int))
    if name == "condition.dropout_p":
        return dataclasses.replace(condition, dropout_p=_parse_number(name, text, float))
    if text not in _TRAINABLE_KINDS:
        expected = ", ".join(_TRAINABLE_KINDS)
        raise ValueError(
            f"{name}={text}: a dataset's drawings have one label each, expected one of {expected}"
        )
    # fit_to_dataset sets the number of classes.
    num_classes = 1 if text in LABEL_KINDS else None
    dropout_p = condition.dropout_p if text != "none" else 0.0
    return ConditionConfig(
        kind=text,
        num_classes=num_classes,
        embedding_dim=condition.embedding_dim,
        dropout_p=dropout_p,
    )


def _replace_network(network: PixelCNNConfig, name: str, value: Any) -> PixelCNNConfig:
    return dataclasses.replace(network, **{name: value})


def _parse(name: str, text: str, kind: Any) -> Any:
    """Parse `text` as a field's annotated type."""
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        if text in options:
            return text
        raise ValueError(f"{name}={text}: expected one of {', '.join(map(str, options))}")
    if typing.get_origin(kind) is tuple:
        return tuple(_parse(name, part, typing.get_args(kind)[0]) for part in text.split(","))
    if isinstance(kind, types.UnionType):
        if text.lower() == "none" and types.NoneType in typing.get_args(kind):
            return None
        return _parse(name, text, typing.get_args(kind)[0])
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError(f"{name}={text}: expected true or false")
    return _parse_number(name, text, kind)


def _parse_number(name: str, text: str, kind: type) -> Any:
    try:
        if kind is int:
            return _parse_integer(text)
        value = kind(text)
        if not math.isfinite(value):
            raise ValueError
        return value
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}={text}: expected a value of type {kind.__name__}") from error


def _parse_integer(text: str) -> int:
    """Parse an integer, also written 1e6 or 2.0, without loss of digits."""
    try:
        return int(text)
    except ValueError:
        value = float(text.replace("_", ""))
        if value != int(value):
            raise
        return int(value)


def _fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _build(kind: Any, raw: Mapping[str, Any]) -> Any:
    """Build a dataclass from JSON values: objects to dataclasses, arrays to tuples."""
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in raw.items():
        hint = hints.get(name)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
            value = _build(hint, value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _check_spec(spec: TrainSpec) -> None:
    if (spec.budget_nimg > 0) == (spec.num_epochs > 0):
        raise ValueError(
            "exactly one of budget_nimg and num_epochs must be positive, found "
            f"budget_nimg={spec.budget_nimg} and num_epochs={spec.num_epochs}: set the other to 0"
        )
    positive = ("batch_size", "learning_rate", "adam_eps", "init_nimg", "new_class_weight")
    for name in positive:
        if not getattr(spec, name) > 0:
            raise ValueError(f"{name} must be positive, found {getattr(spec, name)}")
    nonnegative = (
        "muon_learning_rate",
        "table_learning_rate",
        "warmup_nimg",
        "clip_norm",
        "ema_halflife_nimg",
        "ema_rampup_ratio",
        "seed",
        "guidance",
        "max_eval_drawings",
    )
    for name in nonnegative:
        if not (getattr(spec, name) or 0) >= 0:
            raise ValueError(f"{name} must not be negative, found {getattr(spec, name)}")
    for name in ("beta1", "beta2", "final_ratio"):
        if not 0 <= getattr(spec, name) <= 1:
            raise ValueError(f"{name} must be within 0 and 1, found {getattr(spec, name)}")


def _check_choices(spec: TrainSpec) -> None:
    for name, kind in (("decay", Decay), ("precision", Precision)):
        if getattr(spec, name) not in typing.get_args(kind):
            options = ", ".join(typing.get_args(kind))
            raise ValueError(f"{name} must be one of {options}, found {getattr(spec, name)!r}")
    if spec.seed >= _MAX_SEED:
        raise ValueError(f"seed must be below {_MAX_SEED}, found {spec.seed}")
