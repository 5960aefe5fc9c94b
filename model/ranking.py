"""A whole split in the order of its likelihood, with a contact sheet of the least likely."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data import Drawings, open_split
from model.evaluate import match_classes, open_model
from model.pixelcnn import PixelCNN
from model.progress import Progress, no_progress
from model.report.pictures import grid, to_png
from model.score import Batch, Score, class_log_probs, posterior, score_batches, worst
from pipelines.schema import Manifest
from pipelines.store import Store

BATCH_SIZE = 64
COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Ranked:
    """The scores of a split's drawings, in the order of its rows."""

    network: PixelCNN
    drawings: Drawings
    scores: list[Score]


def rank_split(
    model: Manifest,
    dataset: Manifest,
    store: Store,
    split: str,
    *,
    cache_dir: Path,
    progress: Progress = no_progress,
) -> Ranked:
    """Score every drawing of a split under its own label.

    Raises ValueError if the model does not know one of the dataset's classes.
    """
    network = open_model(store, model)
    drawings = open_split(store, dataset, split=split, cache_dir=cache_dir)
    drawings = match_classes(drawings, model.summary["class_names"])
    scores = []
    for score in score_batches(network, _batches(drawings)):
        scores.append(score)
        progress("score", len(scores), len(drawings), f"{score.bits_per_dim:.3f} bits/dim")
    return Ranked(network, drawings, scores)


def suspects(ranked: Ranked, num: int, *, with_posterior: bool = False) -> list[dict[str, Any]]:
    """Return the `num` least likely drawings as JSON values, the least likely first.

    With the posterior each also says which class it most likely is, and how likely its own is.
    """
    rows = [
        {
            "row": score.row,
            "class_name": ranked.drawings.class_names[score.label],
            "bits_per_dim": score.bits_per_dim,
        }
        for score in worst(ranked.scores, num)
    ]
    if with_posterior:
        for row in rows:
            row |= _judged(ranked, row["row"])
    return rows


def sheet_png(ranked: Ranked, rows: list[dict[str, Any]]) -> bytes:
    """Return a PNG of these drawings in their order, `COLUMNS` in a line."""
    images = ranked.drawings.images[np.array([row["row"] for row in rows], dtype=np.int64)]
    lines = [images[start : start + COLUMNS] for start in range(0, len(images), COLUMNS)]
    return to_png(grid(lines, scale=2))


def _batches(drawings: Drawings) -> Iterator[Batch]:
    for start in range(0, len(drawings), BATCH_SIZE):
        stop = min(start + BATCH_SIZE, len(drawings))
        yield drawings.tensors(np.arange(start, stop, dtype=np.int64))


def _judged(ranked: Ranked, row: int) -> dict[str, Any]:
    images, labels = ranked.drawings.tensors(np.array([row], dtype=np.int64))
    with torch.no_grad():
        probabilities = posterior(
            class_log_probs(ranked.network, images, num_classes=len(ranked.drawings.class_names))
        )[0]
    best = int(probabilities.argmax())
    return {
        "likely_class": ranked.drawings.class_names[best],
        "own_probability": float(probabilities[labels[0]]),
    }
