"""Likelihood of a split: every drawing exactly once, on any number of ranks.

    nats      -log p(drawing | class), summed over its pixels
    bits/dim  nats / (height * width * channels * ln 2)

Means are over drawings; the standard error is that of the mean, the sample deviation / sqrt(n).
Results of all ranks are put in the split's order before summation, so that the number of ranks
changes only the rounding inside the network.

The baseline is a model without a network, a histogram of gray levels by pixel and class:

    p(drawing | class) = product over pixels of (count + alpha) / (drawings + alpha * 256)

where `count` training drawings of the class have the pixel's level at that pixel. It models
where a class has ink, but no dependence between pixels, so a network's gain over it measures
what the network learned about strokes. It is computed class by class: 28x28 pixels need 2 MB.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.distributed.elastic.multiprocessing.errors import record

from model.data import SPLITS, Drawings, batch_rows, open_split_on_ranks, permute, split_files
from model.evaluation.classify import (
    BATCH_SIZE,
    check_classifies,
    split_class_nats,
    summarize_classes,
)
from model.evaluation.likelihood import Likelihood
from model.network.pixelcnn import PixelCNN
from model.network.weights import CONFIG_NAME, open_model, read_config
from model.ranks import Ranks, join_ranks
from pipelines.processes.guard import end_with_parent
from pipelines.processes.progress import JsonProgress, Progress, doing, no_progress, telling
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import Manifest

# Small batches leave a GPU idle; this size needs 6 GB.
GPU_BATCH_SIZE = 256

NUM_LEVELS = 256
# 2.785 bits/dim on held-out drawings of the article's 20 classes; 0.01: 2.808, 0.5: 2.779,
# 1: 2.789.
ALPHA = 0.1
# More training drawings move the fourth decimal and cost a minute for each 20 million.
MAX_ROWS = 1_000_000
# 784 counters a drawing: 25 MB at a time.
_CHUNK_ROWS = 4_096


@doing("evaluate", "measuring drawings", is_detail=True)
def split_nats(
    network: PixelCNN,
    drawings: Drawings,
    *,
    ranks: Ranks,
    rows: npt.NDArray[np.int64] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
) -> npt.NDArray[np.float64]:
    """Return -log p of each drawing, or of `rows`, in nats (n,), the same on every rank.

    progress counts the drawings of the calling rank.
    """
    chosen = np.arange(len(drawings)) if rows is None else rows
    share = -(-len(chosen) // ranks.size)
    mine = chosen[ranks.rank * share : (ranks.rank + 1) * share]
    measure, parts = Likelihood(network, batch_size=batch_size), [np.zeros(0)]
    for start in range(0, len(mine), measure.batch):
        images, labels = drawings.tensors(mine[start : start + measure.batch])
        parts.append(-measure(images, labels.numpy()).numpy())
        progress("evaluate", start + len(images), len(mine), "")
    return ranks.gather(np.concatenate(parts))


def summarize(
    nats: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    class_names: Sequence[str],
    num_dims: int,
) -> dict[str, Any]:
    """Return count, nats, bits/dim and standard error, over all and by class, as JSON values.

    Classes without drawings in the split are omitted.
    """
    by_class = {
        name: _describe(nats[labels == index], num_dims)
        for index, name in enumerate(class_names)
        if (labels == index).any()
    }
    return _describe(nats, num_dims) | {"num_dims": num_dims, "classes": by_class}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What to measure of a model on a dataset.

    limit          number of drawings, a fixed random subset of the split; 0: all
    with_bayes     also classify by Bayes' rule, at one forward pass per class
    with_baseline  also the likelihood under a histogram of the dataset's training drawings
    """

    split: str = "test"
    limit: int = 0
    with_bayes: bool = False
    with_baseline: bool = False

    def rows(self, num_rows: int) -> npt.NDArray[np.int64]:
        """Return the rows to measure, in order, of a split of `num_rows`.

        >>> Evaluation(limit=3).rows(3), len(Evaluation(limit=2).rows(100))
        (array([0, 1, 2]), 2)
        """
        places = np.arange(min(self.limit or num_rows, num_rows))
        return np.sort(permute(places, num_rows, key=f"evaluate:{self.split}"))


def evaluate_model(
    model: Manifest,
    dataset: Manifest,
    store: Store,
    wanted: Evaluation,
    *,
    cache_dir: Path,
    ranks: Ranks | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Evaluate a published model on a dataset's split and return JSON values.

    The result has "bayes" and "histogram" if requested. Raises ValueError as check_evaluation
    does.
    """
    ranks = ranks or Ranks()
    check_evaluation(model, dataset, store, wanted)
    network = open_model(store, model).to(ranks.device)

    def opened(split: str) -> Drawings:
        drawings = open_split_on_ranks(
            store, dataset, split=split, cache_dir=cache_dir, ranks=ranks
        )
        return match_classes(drawings, model.summary["class_names"])

    drawings = opened(wanted.split)
    rows = wanted.rows(len(drawings))
    labels = drawings.labels[rows]
    measure = split_class_nats if wanted.with_bayes else split_nats
    batch_size = GPU_BATCH_SIZE if ranks.device.type == "cuda" else BATCH_SIZE
    nats = measure(
        network, drawings, ranks=ranks, rows=rows, batch_size=batch_size, progress=progress
    )
    names, found = drawings.class_names, {}
    if wanted.with_bayes:
        found["bayes"] = summarize_classes(nats, labels, class_names=names)
        nats = nats[np.arange(len(nats)), labels]
    num_dims = math.prod(drawings.images.shape[1:])
    found |= summarize(nats, labels, class_names=names, num_dims=num_dims)
    if wanted.with_baseline:
        part = Drawings(drawings.images[rows], labels, names) if wanted.limit else drawings
        found["histogram"] = _describe(histogram_nats(opened("train"), part), num_dims)
    return found | {"split": wanted.split, "model": model.digest, "dataset": dataset.digest}


def check_evaluation(model: Manifest, dataset: Manifest, store: Store, wanted: Evaluation) -> None:
    """Raise ValueError for an invalid evaluation, without reading weights or drawings.

    Invalid are a class unknown to the model, a split that the dataset lacks, Bayes' rule with a
    model that is not conditioned on a label, or a histogram with other levels.
    """
    check_classes(dataset.summary["class_names"], model.summary["class_names"])
    split_files(dataset, wanted.split)
    if wanted.limit < 0:
        raise ValueError(f"limit must be at least 1, or 0 for all, found {wanted.limit}")
    config = read_config(store.read(model, CONFIG_NAME))
    if wanted.with_bayes:
        check_classifies(config)
    if wanted.with_baseline:
        split_files(dataset, "train")
        if config.num_levels != NUM_LEVELS:
            raise ValueError(
                f"the histogram has {NUM_LEVELS} levels, the model {config.num_levels}: their "
                "likelihoods cannot be compared"
            )


def check_classes(class_names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if the model does not know one of a dataset's classes."""
    unknown = [name for name in class_names if name not in known]
    if unknown:
        raise ValueError(f"the model was not trained on these classes: {', '.join(unknown)}")


@record
def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as one rank of a torchrun job or as a single process; print a JSON object.

    With --progress-json, progress lines precede it.
    """
    end_with_parent()
    given = _parser().parse_args(arguments)
    store = open_store(given.store)
    wanted = Evaluation(
        split=given.split,
        limit=given.limit,
        with_bayes=given.bayes,
        with_baseline=given.baseline,
    )
    with join_ranks() as ranks:
        shows = given.progress_json and ranks.is_first
        with telling(JsonProgress(sys.stdout) if shows else no_progress, "evaluate") as progress:
            found = evaluate_model(
                store.resolve("models", given.model),
                store.resolve("datasets", given.dataset),
                store,
                wanted,
                cache_dir=given.cache,
                ranks=ranks,
                progress=progress,
            )
        if ranks.is_first:
            sys.stdout.write(json.dumps(found) + "\n")
    return 0


@doing("evaluate", "measuring a histogram")
def histogram_nats(
    train: Drawings, drawings: Drawings, *, alpha: float = ALPHA
) -> npt.NDArray[np.float64]:
    """Return -log p of each drawing in nats (n,) under the histogram of `train`.

    A class that `train` lacks has the uniform distribution. Labels must mean the same in both.
    """
    fitted = fitted_rows(train)
    fitted_labels = train.labels[fitted]
    nats = np.empty(len(drawings))
    for label in np.unique(drawings.labels):
        log_probs = _log_probs(train, fitted[fitted_labels == label], alpha)
        rows = np.flatnonzero(drawings.labels == label)
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            levels = drawings.images[chunk].reshape(len(chunk), -1)
            nats[chunk] = -log_probs[np.arange(levels.shape[1]), levels].sum(1)
    return nats


def fitted_rows(train: Drawings) -> npt.NDArray[np.int64]:
    """Return the training rows that the histogram counts, in order."""
    if len(train) <= MAX_ROWS:
        return np.arange(len(train))
    return np.sort(batch_rows(len(train), MAX_ROWS, key="histogram", step=0))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.evaluation.evaluate", description=__doc__
    )
    for name in ("store", "model", "dataset"):
        parser.add_argument(f"--{name}", required=True, help=f"the {name}")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--limit", type=int, default=0, help="number of drawings; 0: all")
    parser.add_argument("--bayes", action="store_true", help="classify by Bayes' rule too")
    parser.add_argument("--baseline", action="store_true", help="a histogram's likelihood too")
    parser.add_argument("--cache", required=True, type=Path, help="directory of memory maps")
    parser.add_argument("--progress-json", action="store_true", help="progress on stdout")
    return parser


@doing("open", "loading the model")
def match_classes(drawings: Drawings, class_names: Sequence[str]) -> Drawings:
    """Return the drawings relabeled as indices of `class_names`.

    Raises ValueError if a class of the drawings is not among them.
    """
    check_classes(drawings.class_names, class_names)
    if not class_names or tuple(class_names) == drawings.class_names:
        return drawings
    positions = np.array([list(class_names).index(name) for name in drawings.class_names])
    return Drawings(drawings.images, positions[drawings.labels], tuple(class_names))


def _describe(nats: npt.NDArray[np.float64], num_dims: int) -> dict[str, Any]:
    count = len(nats)
    mean = float(nats.mean())
    error = float(nats.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0
    per_bit = num_dims * math.log(2)
    return {
        "num_drawings": count,
        "nats": mean,
        "nats_stderr": error,
        "bits_per_dim": mean / per_bit,
        "bits_per_dim_stderr": error / per_bit,
    }


def _log_probs(
    train: Drawings, rows: npt.NDArray[np.int64], alpha: float
) -> npt.NDArray[np.float64]:
    """Return the logarithm of each level's probability at each pixel (pixels, levels)."""
    num_pixels = int(np.prod(train.images.shape[1:]))
    size = num_pixels * NUM_LEVELS
    counts = np.zeros(size)
    for start in range(0, len(rows), _CHUNK_ROWS):
        levels = train.images[rows[start : start + _CHUNK_ROWS]].ravel()
        inked = np.flatnonzero(
            levels
        )  # most pixels are paper, which need not be counted one by one
        places = inked % num_pixels * NUM_LEVELS + levels[inked]
        counts += np.bincount(places, minlength=size)
    counts = counts.reshape(num_pixels, NUM_LEVELS)
    counts[:, 0] = len(rows) - counts.sum(1)
    return np.log((counts + alpha) / (len(rows) + alpha * NUM_LEVELS))


if __name__ == "__main__":
    sys.exit(main())
