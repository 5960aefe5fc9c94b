"""Warm start: training begins with the weights of a model of an equal network.

Weights are copied. What a network has for each class, a row of the table of codes or with one-hot
labels a column of every block's projection, is matched by the class's name. A class that the model
does not know begins at the mean of the classes that it knows.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from model.network.config import PixelCNNConfig
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest, artifact_label

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
# They change how a network is trained, not which weights it has.
_TRAINING_FIELDS = ("dropout_p", "use_data_init")
_TABLE = "encoder.table"
_PROJECTION = "projection.weight"


def check_network(network: PixelCNNConfig, init: Manifest) -> None:
    """Raise ValueError with the fields that differ unless a model's network equals this one.

    The number of classes and the dropout may differ. With a condition of kind "scalar" a class is
    its place in the list, which names cannot match.
    """
    found = init.spec.get("network")
    if not isinstance(found, dict):
        raise ValueError(
            f"{artifact_label(init)} is not a PixelCNN++: training cannot start from it"
        )
    wanted, known = (_comparable(each) for each in (network.to_json_dict(), found))
    if wanted != known:
        names = sorted(name for name in {*wanted, *known} if wanted.get(name) != known.get(name))
        told = ", ".join(
            f"{name} {known.get(name)} instead of {wanted.get(name)}" for name in names
        )
        raise ValueError(
            f"training cannot start from {artifact_label(init)}, whose network differs: {told}; "
            "use its preset and its --set, or another model"
        )
    if network.condition.kind == "scalar":
        raise ValueError("a condition of kind 'scalar' has no weights of each class to start from")


def is_equal(network: PixelCNNConfig, init: Manifest) -> bool:
    """Return whether training can start from a model."""
    try:
        check_network(network, init)
    except ValueError:
        return False
    return True


def split_rule(dataset: Manifest) -> dict[str, Any]:
    """Return what decides the split of a drawing: equal rules never part two equal drawings."""
    return {name: dataset.spec.get(name) for name in ("seed", "splits")}


def check_splits_agree(dataset: Manifest, init: Manifest, store: Store) -> None:
    """Warn if drawings of the test split may be among those that a model has learned from."""
    rule: Mapping[str, Any] | None = init.summary.get("split_rule")
    origin = init.input("dataset")
    if rule is None and origin is not None:  # a model of an earlier version
        found = store.find("datasets", origin.name, origin.digest)
        rule = split_rule(found) if found else None
    if rule != split_rule(dataset):
        _LOG.warning(
            "%s may have learned from drawings of this dataset's test split, whose bits/dim would "
            "be too good: its dataset was split by %s, this one by %s",
            artifact_label(init),
            _rule_text(rule),
            _rule_text(split_rule(dataset)),
        )


def matched_classes(class_names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Return for each class its index among the known ones, None if it is new.

    Names are equal regardless of case and of blanks written as _ or -.

    >>> matched_classes(["sea turtle", "owl", "Bee"], ["bee", "sea_turtle"])
    [1, None, 0]
    """
    places = {_folded(name): index for index, name in reversed(list(enumerate(known)))}
    exact = {name: index for index, name in enumerate(known)}
    return [exact.get(name, places.get(_folded(name))) for name in class_names]


def warm_weights(
    learned: Mapping[str, "Tensor"], places: Sequence[int | None], kind: str
) -> dict[str, "Tensor"]:
    """Return the weights to start with: `learned`, with the classes as `places` says.

    kind: of the network's condition.
    """
    weights = dict(learned)
    for name, value in learned.items():
        if name == _TABLE:
            weights[name] = _by_class(value, places, dim=0)
        elif kind == "one_hot" and name.endswith(_PROJECTION):
            weights[name] = _by_class(value, places, dim=1)
    return weights


def _by_class(learned: "Tensor", places: Sequence[int | None], *, dim: int) -> "Tensor":
    import torch

    mean = learned.double().mean(dim).to(learned.dtype)
    parts = [mean if place is None else learned.select(dim, place) for place in places]
    return torch.stack(parts, dim)


def _comparable(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that decide the weights' shapes and meaning, defaults filled in."""
    filled = PixelCNNConfig.from_json_dict(network).to_json_dict()
    condition = filled.pop("condition")
    fields = filled | {f"condition.{name}": value for name, value in condition.items()}
    ignored = {*_TRAINING_FIELDS, "condition.dropout_p", "condition.num_classes"}
    return {name: value for name, value in fields.items() if name not in ignored}


def _rule_text(rule: Mapping[str, Any] | None) -> str:
    if not rule:
        return "an unknown rule"
    parts = ", ".join(f"{name}={part:g}" for name, part in rule.get("splits") or ())
    return f"seed {rule.get('seed')} {parts}".strip()


def _folded(name: str) -> str:
    return " ".join(normalize("NFC", name).lower().replace("_", " ").replace("-", " ").split())
