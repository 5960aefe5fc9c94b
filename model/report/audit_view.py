"""The audit on the page: its numbers beside those of real drawings, classes, gate, nearest pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.audit.measures import pick_rows
from pipelines.drawings.grids import Images, grid
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

# Name and what it says; "real_" before a name is the real number; a rate is shown in percent.
_ROWS = (
    ("exact_copy_rate", "equal to a training drawing"),
    ("exact_duplicate_rate", "equal to another one of the set"),
    ("near_copy_rate", "nearer to a training drawing than nearly all held-out ones"),
    ("near_duplicate_rate", "nearer to another one than nearly all held-out ones"),
    ("copy_distance", "distance to the nearest training drawing, median"),
    ("copy_distance_low", "... of the nearest 1 %"),
    ("copy_distance_ratio", "... median over that of held-out drawings"),
    ("blank_rate", "without ink"),
    ("judge_agreement", "taken for the asked class by the judge"),
    ("judge_confidence", "mean probability of the asked class"),
    ("frechet_distance", "Frechet distance in the judge's features"),
    ("precision", "like some real drawing (precision)"),
    ("recall", "of real drawings, like some generated one (recall)"),
    ("bits_per_dim", "mean bits/dim under the model"),
)
_PERCENT = ("_rate", "agreement", "confidence", "precision", "recall")


def audit_table(numbers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the audit table for the numbers that are there."""
    return [
        {
            "what": what,
            "found": show(name, numbers.get(name)),
            "real": show(name, numbers[f"real_{name}"]) if f"real_{name}" in numbers else "",
        }
        for name, what in _ROWS
        if name in numbers
    ]


def class_table(numbers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row a class: drawn and accepted, looks made and real, nearness, judge."""
    reasons = numbers.get("reasons", {})
    return [
        {
            "name": name,
            "drawn": f"{sum(reasons[name].values()) if reasons else row['num_drawings']:,}",
            "accepted": f"{row['num_drawings']:,}",
            "ink": _pair(row, "ink_mean", "{:.0f}"),
            "darkness": _pair(row, "darkness", "{:.2f}"),
            "strokes": _pair(row, "stroke_density", "{:.2f}"),
            "near": show("near_copy_rate", row.get("near_copy_rate")),
            "judge": _judge(row),
        }
        for name, row in numbers["classes"].items()
    ]


def rejections(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how many drawings the filters rejected for each reason, the most first."""
    totals: dict[str, int] = {}
    for counts in numbers.get("reasons", {}).values():
        for reason, count in counts.items():
            totals[reason] = totals.get(reason, 0) + count
    totals.pop("accepted", None)
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [(reason.replace("_", " "), f"{count:,}") for reason, count in ordered if count]


def gate_verdict(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return what the gate says: passed, failed, or nothing without one."""
    if not checks:
        return ""
    return "passed" if all(check["is_passed"] for check in checks) else "failed"


def gate_rows(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the gate's checks in words, those that failed first.

    is_detail: a class that passed, which need not be seen at once.
    """
    return [
        {
            "what": check["name"] + (f" of {check['subject']}" if check["subject"] else ""),
            "found": "none" if check["found"] is None else f"{check['found']:.4g}",
            "limit": f"{'at most' if check['side'] == 'max' else 'at least'} {check['limit']:.4g}",
            "result": "passed" if check["is_passed"] else "FAILED",
            "is_detail": check["is_passed"] and bool(check["subject"]),
        }
        for check in sorted(checks, key=lambda check: check["is_passed"])
    ]


def closest_pairs(
    numbers: Mapping[str, Any], samples: Manifest, dataset: Manifest, store: Store
) -> tuple[Images | None, list[str]]:
    """Return a picture of the samples nearest to training drawings above those, and captions.

    (None, []) if the audit found no pair.
    """
    pairs = numbers.get("closest", [])
    if not pairs:
        return None, []
    made = pick_rows(samples, store, split="train", rows=[pair["sample_row"] for pair in pairs])
    rows = [pair["training_row"] for pair in pairs]
    learned = pick_rows(dataset, store, split="train", rows=rows)
    captions = [f"{pair['class_name']}: {pair['distance']:.2f}" for pair in pairs]
    return grid([np.stack(made), np.stack(learned)], scale=4), captions


def show(name: str, value: float | None) -> str:
    """Return a number as the page shows it; a dash for none.

    >>> show("near_copy_rate", 0.0125), show("bits_per_dim", 1.23456), show("recall", None)
    ('1.25 %', '1.235', '-')
    """
    if value is None:
        return "-"
    if name.endswith(_PERCENT):
        return f"{100 * value:.2f} %"
    return f"{value:.3f}"


def _pair(row: Mapping[str, Any], name: str, form: str) -> str:
    found, real = row.get(name), row.get(f"real_{name}")
    shown = "-" if found is None else form.format(found)
    return shown if real is None else f"{shown} / {form.format(real)}"


def _judge(row: Mapping[str, Any]) -> str:
    if "judge_agreement" not in row:
        return "-"
    real = row.get("real_judge_agreement")
    return f"{100 * row['judge_agreement']:.0f} %" + (
        "" if real is None else f" / {100 * real:.0f} %"
    )
