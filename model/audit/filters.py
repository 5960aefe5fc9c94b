"""Filters: which generated drawings are accepted, and the reason for each rejection.

Rules run in a fixed order and the first that rejects counts, so accepted and rejected add up.
A filter file is TOML with the fields of Filters:

    min_ink = 15
    max_bits_per_dim = 3.0
    min_judge_confidence = 0.5
    min_copy_distance = 4.0
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.audit.measures import Measured, members, repeats
from pipelines.store.text_files import read_text

ACCEPTED = 255
REASONS = (
    "too_little_ink",
    "too_much_ink",
    "bits_per_dim_too_low",
    "bits_per_dim_too_high",
    "judge_disagrees",
    "judge_unsure",
    "copy_of_training_drawing",
    "duplicate",
    "near_copy",
    "near_duplicate",
)
_FLAGS = ("judge_agrees", "drop_copies", "drop_duplicates")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Rules for a drawing; None and False disable a rule.

    min_ink, max_ink                    pixels above 0
    min_bits_per_dim, max_bits_per_dim  under the model that drew it
    judge_agrees                        the judge sees the class that was asked for
    min_judge_confidence                ... with at least this probability
    drop_copies                         not equal to a drawing of the training split
    drop_duplicates                     not equal to an earlier drawing of the set
    min_copy_distance                   to every training drawing of its class
    min_twin_distance                   to every earlier accepted drawing of its class

    Distances are Euclidean over the pixels, one from paper to ink counts 1 (model.audit.nearness).
    """

    min_ink: int | None = None
    max_ink: int | None = None
    min_bits_per_dim: float | None = None
    max_bits_per_dim: float | None = None
    judge_agrees: bool = False
    min_judge_confidence: float | None = None
    drop_copies: bool = False
    drop_duplicates: bool = False
    min_copy_distance: float | None = None
    min_twin_distance: float | None = None

    @property
    def needs_judge(self) -> bool:
        """Whether a rule asks the judge."""
        return self.judge_agrees or self.min_judge_confidence is not None

    def to_json(self) -> dict[str, Any]:
        """Return the rules that are set, as JSON values."""
        raw = dataclasses.asdict(self)
        return {
            name: value for name, value in raw.items() if value is not None and value is not False
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judge sees in each drawing (n,), and the probability it gives the asked class."""

    predicted: npt.NDArray[np.int16]
    confidence: npt.NDArray[np.float32]


class Nearness(Protocol):
    """Finds drawings of a set that are near others; `rows` is a mask of those to test."""

    def near_copies(self, rows: Mask, *, below: float) -> Mask:
        """Return which are nearer than `below` to a training drawing of their class."""
        ...

    def near_duplicates(self, rows: Mask, *, below: float) -> Mask:
        """Return which are nearer than `below` to an earlier one that stays."""
        ...


def read_filters(path: Path) -> Filters:
    """Read a filter file; raise ValueError for an unknown field or a wrong type."""
    return filters_from(read_toml(path), source=str(path))


def filters_from(raw: Mapping[str, Any], *, source: str) -> Filters:
    """Return the filters of a mapping; `source` is named in errors."""
    known = {f.name for f in dataclasses.fields(Filters)}
    for name, value in raw.items():
        if name not in known:
            raise ValueError(f"{source}: no filter {name!r}; there are {', '.join(sorted(known))}")
        wants_flag = name in _FLAGS
        if isinstance(value, bool) is not wants_flag or not isinstance(value, bool | int | float):
            wanted = "true or false" if wants_flag else "a number"
            raise ValueError(f"{source}: {name} must be {wanted}, found {value!r}")
        if not 0 <= value < math.inf:
            raise ValueError(f"{source}: {name} must be finite and not negative, found {value!r}")
    return Filters(**raw)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise ValueError saying what is wrong with it."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"cannot read {path}: it is nested too deeply") from error


def apply_filters(
    filters: Filters,
    drawings: Measured,
    *,
    training_hashes: npt.NDArray[np.uint64],
    judged: Judged | None,
    nearness: Nearness,
) -> npt.NDArray[np.uint8]:
    """Return a code a drawing (n,): ACCEPTED, or the position of its reason in REASONS.

    Of equal or near drawings the first that nothing else rejects stays. Raises ValueError if a
    rule needs the judge or bits_per_dim and they are not there.
    """
    codes = np.full(len(drawings), ACCEPTED, np.uint8)
    for reason, rejected in _simple_rules(filters, drawings, judged).items():
        codes[(codes == ACCEPTED) & rejected] = REASONS.index(reason)
    left = codes == ACCEPTED
    if filters.drop_copies:
        copied = members(drawings.hashes, training_hashes, left)
        codes[copied] = REASONS.index("copy_of_training_drawing")
        left &= ~copied
    if filters.drop_duplicates:
        repeated = repeats(drawings.hashes, left)
        codes[repeated] = REASONS.index("duplicate")
        left &= ~repeated
    if filters.min_copy_distance is not None:
        near = nearness.near_copies(left, below=filters.min_copy_distance)
        codes[near] = REASONS.index("near_copy")
        left &= ~near
    if filters.min_twin_distance is not None:
        near = nearness.near_duplicates(left, below=filters.min_twin_distance)
        codes[near] = REASONS.index("near_duplicate")
    return codes


def count_reasons(
    codes: npt.NDArray[np.uint8], labels: npt.NDArray[np.int16], class_names: list[str]
) -> dict[str, dict[str, int]]:
    """Return the numbers of accepted and, by reason, of rejected drawings by class name."""
    counts = {}
    for label, name in enumerate(class_names):
        found = np.bincount(codes[labels == label], minlength=256)
        counts[name] = {"accepted": int(found[ACCEPTED])} | {
            reason: int(found[place]) for place, reason in enumerate(REASONS) if found[place]
        }
    return counts


def _simple_rules(filters: Filters, drawings: Measured, judged: Judged | None) -> dict[str, Mask]:
    """Return the drawings that each active rule rejects by itself."""
    rules: dict[str, Mask] = {}
    if filters.min_ink is not None:
        rules["too_little_ink"] = drawings.ink < filters.min_ink
    if filters.max_ink is not None:
        rules["too_much_ink"] = drawings.ink > filters.max_ink
    if filters.min_bits_per_dim is not None:
        rules["bits_per_dim_too_low"] = _bits(drawings) < filters.min_bits_per_dim
    if filters.max_bits_per_dim is not None:
        rules["bits_per_dim_too_high"] = _bits(drawings) > filters.max_bits_per_dim
    if filters.needs_judge:
        rules |= _judge_rules(filters, drawings, judged)
    return rules


def _judge_rules(filters: Filters, drawings: Measured, judged: Judged | None) -> dict[str, Mask]:
    if judged is None:
        raise ValueError("a filter needs a classifier, and none is given: train one, or name it")
    rules: dict[str, Mask] = {}
    if filters.judge_agrees:
        rules["judge_disagrees"] = judged.predicted != drawings.labels
    if filters.min_judge_confidence is not None:
        rules["judge_unsure"] = judged.confidence < filters.min_judge_confidence
    return rules


def _bits(drawings: Measured) -> npt.NDArray[np.float32]:
    if drawings.bits_per_dim is None:
        raise ValueError("a filter needs the column bits_per_dim, which the drawings lack")
    return drawings.bits_per_dim
