"""Text and tables of the report, from manifests and the numbers of an audit."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.drawings.credit import UNSTATED, Credit, both, credit_of
from pipelines.drawings.grids import Images, grid
from pipelines.drawings.parquet import read_images
from pipelines.drawings.reading import pick_rows
from pipelines.store.artifacts import Store
from pipelines.store.lineage import lineage_text, trace
from pipelines.store.manifest import Manifest

SPLITS = ("train", "validation", "test")

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


def key_numbers(
    dataset: Manifest, samples: Manifest, test: Mapping[str, Any], *, audit: Manifest | None = None
) -> list[tuple[str, str]]:
    """Return the key figures at the top of the page with their captions."""
    spread = f"bits/dim on the test split, +-{test['bits_per_dim_stderr']:.3f}"
    guidance = samples.spec.get("guidance", 0.0)
    guided = f" with guidance {guidance:g}" if guidance else ""
    generated = (f"{_rows(samples):,}", f"drawings generated{guided}")
    if audit and audit.spec["filters"]:
        accepted = audit.summary["accepted"]
        generated = (f"{accepted:,}", f"drawings accepted of {_rows(samples):,} generated{guided}")
    return [
        (f"{test['bits_per_dim']:.3f}", spread),
        (f"{_rows(dataset):,}", "drawings in the dataset"),
        generated,
        (str(len(dataset.summary["class_names"])), "classes"),
    ]


def class_counts(dataset: Manifest) -> list[dict[str, Any]]:
    """Return the number of drawings of each class by split, and the dropped ones by reason."""
    counts, dropped = dataset.summary["counts"], dataset.summary.get("dropped", {})
    return [
        {
            "name": name,
            "counts": [counts.get(split, {}).get(name, 0) for split in SPLITS],
            "dropped": ", ".join(
                f"{by_class[name]:,} {reason.replace('_', ' ')}"
                for reason, by_class in sorted(dropped.items())
                if by_class.get(name)
            )
            or "-",
        }
        for name in dataset.summary["class_names"]
    ]


def lineage_steps(artifacts: Mapping[str, Manifest]) -> list[dict[str, str]]:
    """Return the sources and every artifact with its digest and its spec as text."""
    sources = [
        {"role": ref.role, "name": ref.name, "digest": ref.digest, "spec": ""}
        for ref in artifacts["dataset"].inputs
    ]
    return sources + [
        {
            "role": role,
            "name": manifest.name,
            "digest": manifest.digest,
            "spec": json.dumps(dict(manifest.spec), indent=1, sort_keys=True, default=list),
        }
        for role, manifest in artifacts.items()
    ]


def lineage_tree(samples: Manifest, store: Store) -> str:
    """Return the samples' tree of inputs as text."""
    return lineage_text(trace(samples, store))


def how_to_load(samples: Manifest) -> str:
    """Return Python code that loads the samples, to be run in the store's directory."""
    return (
        "from datasets import load_dataset\n"
        f'drawings = load_dataset("{samples.prefix}")["train"]\n'
        'drawings[0]["image"]  # a picture; drawings[0]["label"] is its class\n'
    )


def how_to_cite(dataset: Manifest, model: Manifest, samples: Manifest) -> str:
    """Return a BibTeX entry with the artifacts' digests and without a date."""
    is_stated = _credit(dataset, model) != UNSTATED
    given = f"\n                  {attribution(dataset, model)}" if is_stated else ""
    return (
        f"@misc{{{samples.name.replace('-', '_')}_{samples.digest[:8]},\n"
        f"  title        = {{{samples.name}: generated drawings}},\n"
        f"  howpublished = {{sketchmill samples {samples.digest}}},\n"
        f"  note         = {{Drawn by model {model.digest}\n"
        f"                  from dataset {dataset.digest}.{given}}}\n"
        "}\n"
    )


def attribution(dataset: Manifest, model: Manifest) -> str:
    """Return the attribution of all drawings learned from and the note on synthetic ones."""
    credit = _credit(dataset, model)
    if not is_real(dataset):
        lead = "The source drawings are synthetic (parametric doodles), not human drawings. "
        return f"{lead}{credit.statement}"
    lead = "Source drawings: " if credit.attribution else ""
    return f"{lead}{credit.statement} Generated drawings are marked synthetic."


def _credit(dataset: Manifest, model: Manifest) -> Credit:
    """Return the credit of a dataset and of a model, which may have learned from others too."""
    return both(credit_of(dataset.summary), credit_of(model.summary))


def is_real(dataset: Manifest) -> bool:
    """Return whether people drew the dataset."""
    return not dataset.summary.get("is_synthetic", False)


def audit_table(numbers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the audit table for the available numbers."""
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
    """Return one row per class: counts, statistics beside real ones, nearness, classifier."""
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
    """Return the number of rejected drawings by reason, in descending order."""
    totals: dict[str, int] = {}
    for counts in numbers.get("reasons", {}).values():
        for reason, count in counts.items():
            totals[reason] = totals.get(reason, 0) + count
    totals.pop("accepted", None)
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return [(reason.replace("_", " "), f"{count:,}") for reason, count in ordered if count]


def gate_verdict(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the gate's verdict: passed, failed, or empty without a gate."""
    if not checks:
        return ""
    return "passed" if all(check["is_passed"] for check in checks) else "failed"


def gate_rows(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the gate's checks as table rows, failed ones first.

    is_detail: a passed check of a single class, collapsed on the page.
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
    """Return a picture of the samples nearest to training drawings, above these, and captions.

    (None, []) if the audit found no pair.
    """
    pairs = numbers.get("closest", [])
    if not pairs:
        return None, []
    made = pick_rows(samples, store, split="train", rows=[pair["sample_row"] for pair in pairs])
    rows = [pair["training_row"] for pair in pairs]
    learned = pick_rows(dataset, store, split="train", rows=rows)
    captions = [f"{pair['class_name']}: {pair['distance']:.2f}" for pair in pairs]
    return grid([read_images(made["image"]), read_images(learned["image"])], scale=4), captions


def show(name: str, value: float | None) -> str:
    """Format a number for the page; a dash for None.

    >>> show("near_copy_rate", 0.0125), show("bits_per_dim", 1.23456), show("recall", None)
    ('1.25 %', '1.235', '-')
    """
    if value is None:
        return "-"
    if name.endswith(_PERCENT):
        return f"{100 * value:.2f} %"
    return f"{value:.3f}"


def _rows(manifest: Manifest) -> int:
    listed = [entry.rows or 0 for entry in manifest.files if entry.path.endswith(".parquet")]
    return int(manifest.summary.get("num_drawings", sum(listed)))


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
