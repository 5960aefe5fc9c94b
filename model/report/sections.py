"""What the report says in words and tables, from manifests alone."""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.drawings.credit import UNSTATED, credit_of
from pipelines.store.artifacts import Store
from pipelines.store.lineage import lineage_text, trace
from pipelines.store.manifest import Manifest

SPLITS = ("train", "validation", "test")


def key_numbers(
    dataset: Manifest, samples: Manifest, test: Mapping[str, Any], *, audit: Manifest | None = None
) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page, each with what it counts."""
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
    """Return of each class its drawings by split, and how many were dropped for what."""
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
    """Return the sources, then every artifact with its digest and its spec as text."""
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
    """Return Python that opens the samples, run in the folder of their store."""
    return (
        "from datasets import load_dataset\n"
        f'drawings = load_dataset("{samples.prefix}")["train"]\n'
        'drawings[0]["image"]  # a picture; drawings[0]["label"] is its class\n'
    )


def how_to_cite(dataset: Manifest, model: Manifest, samples: Manifest) -> str:
    """Return a BibTeX entry that names the artifacts by digest; it has no date."""
    is_stated = credit_of(dataset.summary) != UNSTATED
    given = f"\n                  {attribution(dataset)}" if is_stated else ""
    return (
        f"@misc{{{samples.name.replace('-', '_')}_{samples.digest[:8]},\n"
        f"  title        = {{{samples.name}: generated drawings}},\n"
        f"  howpublished = {{sketchmill samples {samples.digest}}},\n"
        f"  note         = {{Drawn by model {model.digest}\n"
        f"                  from dataset {dataset.digest}.{given}}}\n"
        "}\n"
    )


def attribution(dataset: Manifest) -> str:
    """Return whose drawings lie behind it all, and that the generated ones are synthetic."""
    credit = credit_of(dataset.summary)
    if not is_real(dataset):
        lead = "The source drawings are synthetic (parametric doodles), not human drawings. "
        return f"{lead}{credit.statement}"
    lead = "Source drawings: " if credit.attribution else ""
    return f"{lead}{credit.statement} Generated drawings are marked synthetic."


def is_real(dataset: Manifest) -> bool:
    """Return whether people drew the dataset."""
    return not dataset.summary.get("is_synthetic", False)


def _rows(manifest: Manifest) -> int:
    listed = [entry.rows or 0 for entry in manifest.files if entry.path.endswith(".parquet")]
    return int(manifest.summary.get("num_drawings", sum(listed)))
