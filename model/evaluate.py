"""Likelihood of a split: every drawing exactly once, on any number of ranks.

    nats      -log p(drawing | class), summed over its pixels
    bits/dim  nats / (height * width * channels * ln 2)

Means are over drawings; the standard error is that of the mean over drawings, the sample
deviation / sqrt(n). Results of all ranks are put in the split's order before anything is summed,
so that the number of ranks changes nothing but rounding inside the network.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.data import SPLITS, Drawings, open_split
from model.parent import die_with_parent
from model.pixelcnn import PixelCNN
from model.ranks import Ranks, join_ranks
from model.weights import CONFIG_NAME, WEIGHTS_NAME, load_model
from pipelines.schema import Manifest
from pipelines.store import Store, open_store

# 64 drawings of 28x28 at 128 filters need 1.5 GB in the widest place of the network.
BATCH_SIZE = 64


def split_nats(
    network: PixelCNN,
    drawings: Drawings,
    *,
    ranks: Ranks,
    rows: npt.NDArray[np.int64] | None = None,
    batch_size: int = BATCH_SIZE,
) -> npt.NDArray[np.float64]:
    """Return -log p of each drawing, or of `rows`, in nats (n,), the same on every rank."""
    chosen = np.arange(len(drawings)) if rows is None else rows
    share = -(-len(chosen) // ranks.size)
    mine = chosen[ranks.rank * share : (ranks.rank + 1) * share]
    parts = [np.zeros(0)]
    has_labels = network.config.condition.kind != "none"
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(mine), batch_size):
            images, labels = drawings.tensors(mine[start : start + batch_size])
            condition = labels.to(ranks.device) if has_labels else None
            log_prob = network(images.to(ranks.device), condition)
            parts.append(-log_prob.double().cpu().numpy())
    network.train(was_training)
    return ranks.gather(np.concatenate(parts))


def summarize(
    nats: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    class_names: Sequence[str],
    num_dims: int,
) -> dict[str, Any]:
    """Return count, nats, bits/dim and standard error, over all and by class, as JSON values.

    A class without drawings in the split is left out.
    """
    by_class = {
        name: _describe(nats[labels == index], num_dims)
        for index, name in enumerate(class_names)
        if (labels == index).any()
    }
    return _describe(nats, num_dims) | {"num_dims": num_dims, "classes": by_class}


def evaluate_model(
    model: Manifest,
    dataset: Manifest,
    store: Store,
    split: str,
    *,
    cache_dir: Path,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Return the likelihood of a dataset's split under a published model.

    Raises ValueError if the model does not know one of the dataset's classes.
    """
    ranks = ranks or Ranks()
    network = open_model(store, model).to(ranks.device)
    drawings = open_split(store, dataset, split=split, cache_dir=cache_dir)
    drawings = match_classes(drawings, model.summary["class_names"])
    nats = split_nats(network, drawings, ranks=ranks)
    num_dims = math.prod(drawings.images.shape[1:])
    found = summarize(nats, drawings.labels, class_names=drawings.class_names, num_dims=num_dims)
    return found | {"split": split, "model": model.digest, "dataset": dataset.digest}


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as one rank among those that torchrun started, or alone; print a JSON object."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    for name in ("store", "model", "dataset"):
        parser.add_argument(f"--{name}", required=True, help=f"the {name}")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--cache", required=True, type=Path, help="folder of memory maps")
    given = parser.parse_args(arguments)
    store = open_store(given.store)
    with join_ranks() as ranks:
        found = evaluate_model(
            store.resolve("models", given.model),
            store.resolve("datasets", given.dataset),
            store,
            given.split,
            cache_dir=given.cache,
            ranks=ranks,
        )
        if ranks.is_first:
            sys.stdout.write(json.dumps(found) + "\n")
    return 0


def open_model(store: Store, manifest: Manifest) -> PixelCNN:
    """Load a published model, in evaluation mode on the CPU."""
    names = (WEIGHTS_NAME, CONFIG_NAME)
    return load_model({name: store.get(f"{manifest.prefix}/{name}") for name in names}).model


def match_classes(drawings: Drawings, class_names: Sequence[str]) -> Drawings:
    """Return the drawings with labels that index `class_names`.

    Raises ValueError if a class of the drawings is not among them.
    """
    unknown = [name for name in drawings.class_names if name not in class_names]
    if unknown:
        raise ValueError(f"the model was not trained on these classes: {', '.join(unknown)}")
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


if __name__ == "__main__":
    sys.exit(main())
