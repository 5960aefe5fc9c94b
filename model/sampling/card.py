"""What a set of generated drawings says of itself: manifest summary and dataset card."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.sampling.spec import SampleSpec
from pipelines.schema import ATTRIBUTION, FileEntry, Manifest

CARD_NAME = "README.md"

# Columns after image and label, with the names that Hugging Face has for their types.
_FEATURES = {
    "class_name": "string",
    "sample_index": "int64",
    "seed": "int64",
    "bits_per_dim": "float32",
    "model": "string",
}


def summarize(
    spec: SampleSpec,
    model: Manifest,
    *,
    labels: npt.NDArray[np.int64],
    bits_per_dim: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """Return the manifest's summary, with the fields that every dataset's has."""
    wide = bits_per_dim.astype(np.float64)
    by_class = {
        name: float(wide[labels == label].mean())
        for label, name in enumerate(spec.class_names)
        if (labels == label).any()
    }
    return {
        "class_names": list(spec.class_names),
        "image_shape": list(model.summary["image_shape"][:2]),
        "num_drawings": len(labels),
        "splits": {"train": len(labels)},
        "counts": {"train": spec.counts},
        "dropped": {},
        "is_synthetic": True,
        "model": model.digest,
        "bits_per_dim": float(wide.mean()),
        "bits_per_dim_by_class": by_class,
        "attribution": model.summary.get("attribution", ATTRIBUTION),
    }


def dataset_card(
    spec: SampleSpec,
    model: Manifest,
    name: str,
    summary: Mapping[str, Any],
    shards: Sequence[FileEntry],
) -> str:
    """Return README.md: Hugging Face's YAML with exact sizes, then a page for people."""
    return f"---\n{_card_yaml(spec, shards)}---\n{_card_text(spec, model, name, summary)}"


def _card_yaml(spec: SampleSpec, shards: Sequence[FileEntry]) -> str:
    size = sum(entry.bytes for entry in shards)
    lines = ["license: cc-by-4.0", "task_categories:", "- image-classification", "tags:"]
    lines += ["- quickdraw", "- sketches", "- synthetic", "configs:", "- config_name: default"]
    lines += ["  data_files:", "  - split: train", "    path: data/train-*.parquet"]
    lines += ["dataset_info:", "  features:", "  - name: image", "    dtype: image"]
    lines += ["  - name: label", "    dtype:", "      class_label:", "        names:"]
    lines += [f"          '{i}': {json.dumps(n)}" for i, n in enumerate(spec.class_names)]
    for column, kind in _FEATURES.items():
        lines += [f"  - name: {column}", f"    dtype: {kind}"]
    lines += ["  splits:", "  - name: train", f"    num_bytes: {size}"]
    lines += [f"    num_examples: {spec.num_rows}", f"  download_size: {size}"]
    return "\n".join([*lines, f"  dataset_size: {size}"]) + "\n"


def _card_text(spec: SampleSpec, model: Manifest, name: str, summary: Mapping[str, Any]) -> str:
    height, width = summary["image_shape"]
    bpd = summary["bits_per_dim_by_class"]
    rows = "\n".join(f"| {c} | {n:,} | {bpd[c]:.4f} |" for c, n in spec.counts.items() if c in bpd)
    return f"""
# {name}: synthetic drawings

**Made by a program, not by people**: {summary["num_drawings"]:,} drawings of
{len(spec.class_names)} classes, {height}x{width} pixels, gray (0 is paper, 255 ink), sampled from
the model `{model.name}@{model.digest[:12]}` with seed {spec.seed} at temperature
{spec.temperature:g}.

| class | drawings | bits/dim |
| --- | ---: | ---: |
{rows}

`bits_per_dim` is -log2 p(drawing | class) of each drawing under the model itself, over
{height * width} pixels. `class_name`, `sample_index` and `seed` with the model's digest in
`model` name a drawing for ever: drawing it again gives the same pixels on the same kind of
machine.

## Limits
The drawings show what the model learned from hasty drawings by anonymous people; they can be
wrong, crude or offensive as theirs are. They are no evidence of how people draw.

## Attribution
The model learned from: {summary["attribution"]}
"""
