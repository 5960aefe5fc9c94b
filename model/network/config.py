"""PixelCNN++ configuration: the fields of `tfd.PixelCNN` under their own names, and the condition.

Uses the standard library only, so that specs and manifests can be read without torch. Equal
configs build networks with equal weight names and shapes.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

ConditionKind = Literal[
    "none", "embedding", "embedding_map", "one_hot", "multi_label", "vector", "scalar", "spatial"
]
Activation = Literal["concat_elu", "elu", "relu"]
Head = Literal["logistic", "softmax"]

# Kinds whose condition is a single label, (batch,) integers below num_classes.
LABEL_KINDS = ("embedding", "embedding_map", "one_hot")
_NEEDS_CLASSES = (*LABEL_KINDS, "multi_label")
# Best of 0 to 4 for `tiny`: a classifier recognizes 88 in 100 drawings, and their Frechet distance
# is close to the minimum (model/EXPERIMENTS.md).
DEFAULT_GUIDANCE = 2.5
# Larger images or deeper pyramids are most likely typing errors.
_MAX_HIERARCHIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionConfig:
    """The condition of the model and its encoding in every residual block.

    none         unconditional
    embedding    a class label (int), looked up in a learned table of embedding_dim numbers
    embedding_map  a class label (int), looked up in a learned table of maps: embedding_dim
                 numbers for each position, so that the code of a class can depend on the position
                 (van den Oord et al. 2016b, section 2.3, location-dependent conditioning)
    one_hot      a class label (int) as a vector of num_classes; a row of weights per class in
                 every block, so 64 blocks of 256 channels cost 16 k weights a class
    multi_label  [num_classes] numbers, 1 for each class that applies: the sum of embeddings
    vector       numbers of any `shape`, flattened as tfd.PixelCNN does
    scalar       a label as one number, as in the TFP example: class 19 acts as 19 times class 1.
                 For old weights only.
    spatial      an image of `shape` (H, W, C) with the model image's H and W: each position of
                 each level reads its own part

    dropout_p is the fraction of training drawings whose condition is withheld (code 0). The model
    then also learns the unconditional p(drawing), which it returns without a condition and which
    classifier-free guidance uses (Ho and Salimans 2022, section 3.2).
    """

    kind: ConditionKind = "none"
    num_classes: int | None = None
    shape: tuple[int, ...] | None = None
    embedding_dim: int = 64
    dropout_p: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown kind or a missing size."""
        if self.kind not in get_args(ConditionKind):
            expected = ", ".join(get_args(ConditionKind))
            raise ValueError(f"condition kind {self.kind!r}: expected one of {expected}")
        if self.kind in _NEEDS_CLASSES and not _is_count(self.num_classes):
            raise ValueError(
                f"a condition of kind {self.kind!r} needs num_classes of at least 1, "
                f"found {self.num_classes}"
            )
        if self.kind in ("vector", "spatial") and (
            not self.shape or not all(_is_count(size) for size in self.shape)
        ):
            raise ValueError(
                f"a condition of kind {self.kind!r} needs a shape of positive sizes, "
                f"found {self.shape}"
            )
        if not _is_count(self.embedding_dim):
            raise ValueError(f"embedding_dim must be at least 1, found {self.embedding_dim}")
        if not 0 <= self.dropout_p < 1:
            raise ValueError(f"condition.dropout_p must be in [0, 1), found {self.dropout_p}")
        if self.kind == "none" and self.dropout_p:
            raise ValueError("an unconditional model needs condition.dropout_p=0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCNNConfig:
    """The network and its likelihood; names and defaults are those of `tfd.PixelCNN`.

    image_shape           (H, W, C), TFP's order; tensors are NCHW
    num_resnet            residual blocks in each level of the encoder
    num_hierarchies       levels; each halves the resolution
    num_filters           channels of both streams
    num_logistic_mix      components of the mixture; the softmax head has none
    receptive_field_dims  (rows, cols) of one layer's receptive field; cols must be odd
    dropout_p             dropout probability of activations, in every block
    low, high             the smallest and largest pixel value; high - low + 1 levels
    head                  "logistic": discretized mixture of logistics, Salimans et al. 2017;
                          "softmax": a free probability per level, van den Oord et al. 2016

    >>> PixelCNNConfig(image_shape=(28, 28, 1), num_hierarchies=4)
    Traceback (most recent call last):
    ...
    ValueError: image_shape (28, 28, 1): height and width must be divisible by 8 for \
num_hierarchies=4; use at most num_hierarchies=3
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    num_resnet: int = 5
    num_hierarchies: int = 3
    num_filters: int = 160
    num_logistic_mix: int = 10
    receptive_field_dims: tuple[int, int] = (3, 3)
    dropout_p: float = 0.5
    resnet_activation: Activation = "concat_elu"
    use_weight_norm: bool = True
    use_data_init: bool = True
    low: int = 0
    high: int = 255
    head: Head = "logistic"
    condition: ConditionConfig = dataclasses.field(default_factory=ConditionConfig)

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid combination, with valid values."""
        _check_counts(self)
        _check_image_shape(self)
        _check_receptive_field(self)
        _check_choices(self)
        _check_spatial_condition(self)

    @property
    def num_channels(self) -> int:
        """Return the number of color channels."""
        return self.image_shape[2]

    @property
    def num_levels(self) -> int:
        """Return the number of gray levels of a pixel."""
        return self.high - self.low + 1

    @property
    def num_dims(self) -> int:
        """Return the number of values in one image, the divisor of bits/dim."""
        height, width, channels = self.image_shape
        return height * width * channels

    def to_json_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; from_json_dict reads them back."""
        fields = dataclasses.asdict(self)
        fields["image_shape"] = list(self.image_shape)
        fields["receptive_field_dims"] = list(self.receptive_field_dims)
        if self.condition.shape is not None:
            fields["condition"]["shape"] = list(self.condition.shape)
        return fields

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, Any]) -> "PixelCNNConfig":
        """Read a config; raise ValueError for an unknown field or a bad value."""
        if not isinstance(raw, Mapping):
            raise ValueError(f"the network's config must be an object, found {raw!r}")
        fields = {name: _as_tuple(value) for name, value in raw.items()}
        condition = fields.pop("condition", {})
        if not isinstance(condition, Mapping):
            raise ValueError(f"condition must be an object, found {condition!r}")
        try:
            given = ConditionConfig(**{key: _as_tuple(item) for key, item in condition.items()})
            return cls(condition=given, **fields)
        except TypeError as error:
            raise ValueError(f"the network's config does not fit this version: {error}") from error


def default_guidance(config: PixelCNNConfig, *, own: float | None = None) -> float:
    """Return a model's default guidance; 0 if it was trained without condition dropout.

    own: what the model's manifest says.
    """
    if not config.condition.dropout_p or config.num_channels > 1:
        return 0.0
    return DEFAULT_GUIDANCE if own is None else own


def check_guidance(guidance: float, config: PixelCNNConfig) -> None:
    """Raise ValueError unless the model supports this guidance."""
    if not (guidance >= 0 and math.isfinite(guidance)):
        raise ValueError(f"guidance must be 0 or more, found {guidance}")
    if guidance and not config.condition.dropout_p:
        raise ValueError(
            "the model was trained without condition dropout (condition.dropout_p is 0), so it "
            "does not support guidance: use guidance 0, or train it with --set "
            "condition.dropout_p=0.1"
        )
    if guidance and config.num_channels > 1:
        raise ValueError(
            f"guidance enumerates the levels of a pixel, too many for {config.num_channels} "
            "channels: use guidance 0"
        )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_counts(config: PixelCNNConfig) -> None:
    names = ("num_resnet", "num_hierarchies", "num_filters", "num_logistic_mix")
    for name in names:
        if not _is_count(getattr(config, name)):
            raise ValueError(f"{name} must be at least 1, found {getattr(config, name)!r}")
    if config.num_hierarchies > _MAX_HIERARCHIES:
        raise ValueError(
            f"num_hierarchies must be at most {_MAX_HIERARCHIES}, found {config.num_hierarchies}"
        )


def _check_image_shape(config: PixelCNNConfig) -> None:
    shape = config.image_shape
    if len(shape) != 3 or not all(_is_count(size) for size in shape):
        raise ValueError(f"image_shape must be (height, width, channels), found {shape}")
    step = 2 ** (config.num_hierarchies - 1)
    if shape[0] % step or shape[1] % step:
        fitting = _trailing_zeros(shape[0] | shape[1]) + 1
        raise ValueError(
            f"image_shape {shape}: height and width must be divisible by {step} for "
            f"num_hierarchies={config.num_hierarchies}; use at most num_hierarchies={fitting}"
        )


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def _check_receptive_field(config: PixelCNNConfig) -> None:
    dims = config.receptive_field_dims
    if len(dims) != 2 or not all(_is_count(size) for size in dims):
        raise ValueError(f"receptive_field_dims must be (rows, cols), found {dims}")
    rows, cols = dims
    # The strided layers need both the row above and the current row.
    min_rows = 2 if config.num_hierarchies == 1 else 3
    if rows < min_rows or cols < 3 or cols % 2 == 0:
        raise ValueError(
            f"receptive_field_dims {dims}: rows must be at least {min_rows} for "
            f"num_hierarchies={config.num_hierarchies}, cols odd and at least 3 (an even number "
            "would read later pixels)"
        )


def _check_choices(config: PixelCNNConfig) -> None:
    if config.resnet_activation not in get_args(Activation):
        expected = ", ".join(get_args(Activation))
        raise ValueError(
            f"resnet_activation {config.resnet_activation!r}: expected one of {expected}"
        )
    if config.head not in get_args(Head):
        raise ValueError(f"head {config.head!r}: expected one of {', '.join(get_args(Head))}")
    if config.head == "softmax" and config.num_channels > 1:
        raise ValueError(
            f"the softmax head takes images of one channel, found {config.num_channels}: it would "
            "treat the channels of a pixel as independent; use head='logistic', whose channels "
            "depend linearly on the earlier ones"
        )
    if not 0 <= config.dropout_p < 1:
        raise ValueError(f"dropout_p must be in [0, 1), found {config.dropout_p}")
    if not (_is_integer(config.low) and _is_integer(config.high)):
        raise ValueError(f"low and high must be integers, found {config.low!r}, {config.high!r}")
    if not config.low < config.high:
        raise ValueError(f"low must be less than high, found {config.low} and {config.high}")


def _check_spatial_condition(config: PixelCNNConfig) -> None:
    if config.condition.kind != "spatial":
        return
    shape = config.condition.shape or ()
    if len(shape) != 3 or shape[:2] != config.image_shape[:2]:
        raise ValueError(
            f"a spatial condition has the picture's height and width: expected "
            f"({config.image_shape[0]}, {config.image_shape[1]}, channels), found {shape}; "
            "kind='vector' takes any shape and flattens it"
        )
