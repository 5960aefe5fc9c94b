"""Likelihood ranking of a split, with a contact sheet of the least likely drawings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data import Drawings, open_split
from model.evaluation.classify import (
    BATCH_SIZE,
    Batch,
    Score,
    posterior,
    score_batches,
    split_class_nats,
    worst,
)
from model.evaluation.evaluate import Evaluation, check_evaluation, match_classes
from model.network.pixelcnn import PixelCNN
from model.network.weights import open_model
from model.ranks import Ranks
from pipelines.drawings.grids import grid, to_png
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Ranked:
    """The scores of a split's drawings, in row order."""

    network: PixelCNN
    drawings: Drawings
    scores: list[Score]


@doing("score", "measuring drawings", is_detail=True)
def rank_split(
    model: Manifest,
    dataset: Manifest,
    store: Store,
    wanted: Evaluation,
    *,
    cache_dir: Path,
    device: torch.device | None = None,
    progress: Progress = no_progress,
) -> Ranked:
    """Score every drawing of a split under its own label.

    wanted: the split; with_bayes is set if the caller computes posteriors later. Raises ValueError
    as check_evaluation does, before scoring.
    """
    check_evaluation(model, dataset, store, wanted)
    network = open_model(store, model).to(device or torch.device("cpu"))
    drawings = open_split(store, dataset, split=wanted.split, cache_dir=cache_dir)
    drawings = match_classes(drawings, model.summary["class_names"])
    scores = []
    for score in score_batches(network, _batches(drawings)):
        scores.append(score)
        progress("score", len(scores), len(drawings), f"{score.bits_per_dim:.3f} bits/dim")
    return Ranked(network, drawings, scores)


def least_likely(ranked: Ranked, num: int) -> list[dict[str, Any]]:
    """Return the `num` least likely drawings as JSON values, the least likely first."""
    return [
        {
            "row": score.row,
            "class_name": ranked.drawings.class_names[score.label],
            "bits_per_dim": score.bits_per_dim,
        }
        for score in worst(ranked.scores, num)
    ]


def add_posteriors(
    ranked: Ranked, rows: list[dict[str, Any]], *, progress: Progress = no_progress
) -> list[dict[str, Any]]:
    """Return the rows with each drawing's most likely class and the probability of its label."""
    chosen = np.array([row["row"] for row in rows], dtype=np.int64)
    ranks = Ranks(device=ranked.network.network.output.bias.device)
    nats = split_class_nats(
        ranked.network, ranked.drawings, ranks=ranks, rows=chosen, progress=progress
    )
    probabilities = posterior(-torch.from_numpy(nats)).numpy()
    own = probabilities[np.arange(len(chosen)), ranked.drawings.labels[chosen]]
    names = ranked.drawings.class_names
    return [
        row | {"likely_class": names[best], "own_probability": float(probability)}
        for row, best, probability in zip(rows, probabilities.argmax(1), own, strict=True)
    ]


def sheet_png(ranked: Ranked, rows: list[dict[str, Any]]) -> bytes:
    """Return a PNG of these drawings in order, `COLUMNS` per line."""
    images = ranked.drawings.images[np.array([row["row"] for row in rows], dtype=np.int64)]
    lines = [images[start : start + COLUMNS] for start in range(0, len(images), COLUMNS)]
    return to_png(grid(lines, scale=2))


def _batches(drawings: Drawings) -> Iterator[Batch]:
    for start in range(0, len(drawings), BATCH_SIZE):
        stop = min(start + BATCH_SIZE, len(drawings))
        yield drawings.tensors(np.arange(start, stop, dtype=np.int64))
