"""Metadata of generated drawings: columns, manifest summary and dataset card.

The card's features match the schema of the shards: Hugging Face datasets refuses files where the
two differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.drawings.credit import Credit, credit_of
from pipelines.drawings.grids import grid, to_png
from pipelines.drawings.huggingface import card_yaml
from pipelines.drawings.parquet import shard_schema
from pipelines.drawings.reading import first_of_each_class
from pipelines.store.artifacts import Store
from pipelines.store.manifest import FileEntry, Manifest

CARD_NAME = "README.md"
SHEET_NAME = "drawings.png"
# Drawings of a class in the picture.
SHEET_COLUMNS = 8

# Columns after image and label.
COLUMNS = {
    "class_name": pa.string(),
    "sample_index": pa.int64(),
    "seed": pa.int64(),
    "bits_per_dim": pa.float32(),
    "model": pa.string(),
    "dataset": pa.string(),
}


def summarize(
    class_names: Sequence[str],
    model: Manifest,
    *,
    counts: npt.NDArray[np.int64],
    bits_per_dim: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Return the manifest's summary, including the fields of every dataset.

    counts, bits_per_dim   of each class: its drawings, and the sum of their bits/dim (classes,)
    """
    num = int(counts.sum())
    by_class = {
        name: float(bits_per_dim[label] / counts[label])
        for label, name in enumerate(class_names)
        if counts[label]
    }
    return {
        "class_names": list(class_names),
        "image_shape": list(model.summary["image_shape"][:2]),
        "num_drawings": num,
        "splits": {"train": num},
        "counts": {"train": dict(zip(class_names, counts.tolist(), strict=True))},
        "dropped": {},
        "is_synthetic": True,
        "model": model.digest,
        "bits_per_dim": float(bits_per_dim.sum() / num),
        "bits_per_dim_by_class": by_class,
        **credit_of(model.summary).to_json(),
    }


def dataset_card(
    model: Manifest,
    name: str,
    summary: Mapping[str, Any],
    shards: Sequence[FileEntry],
    *,
    how: str,
) -> str:
    """Return README.md: Hugging Face's YAML with exact sizes, followed by the text.

    how   the sampling settings, as a phrase after the model's name
    """
    schema = shard_schema(summary["class_names"], extra=COLUMNS)
    yaml = card_yaml(credit_of(summary), schema, {"train": shards}, is_synthetic=True)
    return yaml + _card_text(model, name, summary, how)


def contact_sheet(manifest: Manifest, store: Store) -> bytes:
    """Return a PNG of the first drawings of each class that has one, a row a class."""
    drawn = first_of_each_class(manifest, store, split="train", per_class=SHEET_COLUMNS)
    return to_png(grid([images for images in drawn.values() if len(images)], scale=2))


def manner(temperature: float, guidance: float) -> str:
    """Return a phrase on temperature and guidance.

    >>> manner(1.0, 0.0), manner(0.9, 1.5)
    ('at temperature 1', 'at temperature 0.9 with guidance 1.5')
    """
    return f"at temperature {temperature:g}" + (f" with guidance {guidance:g}" if guidance else "")


def _card_text(model: Manifest, name: str, summary: Mapping[str, Any], how: str) -> str:
    height, width = summary["image_shape"]
    bpd, counts = summary["bits_per_dim_by_class"], summary["counts"]["train"]
    rows = "\n".join(f"| {c} | {n:,} | {bpd[c]:.4f} |" for c, n in counts.items() if c in bpd)
    return f"""
# {name}: synthetic drawings

**Made by a program, not by people**: {summary["num_drawings"]:,} drawings of
{len(counts)} classes, {height}x{width} pixels, gray (0 is paper, 255 ink), sampled from
the model `{model.name}@{model.digest[:12]}` {how}.

![The first drawings of each class, a row a class]({SHEET_NAME})

| class | drawings | bits/dim |
| --- | ---: | ---: |
{rows}

`bits_per_dim` is -log2 p(drawing | class) of each drawing under the model itself, over
{height * width} pixels. `class_name`, `sample_index` and `seed` with the model's digest in
`model` name a drawing for ever: drawing it again gives the same pixels on the same kind of
machine.

## Limits
The drawings show what the model learned. Where that was the hasty drawings of anonymous people,
they can be wrong, crude or offensive as theirs are. They are no evidence of how people draw.

## Attribution
{_learned_from(credit_of(summary))}
"""


def _learned_from(credit: Credit) -> str:
    lead = "The model learned from: " if credit.attribution else ""
    return f"{lead}{credit.statement}"
