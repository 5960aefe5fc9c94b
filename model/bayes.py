"""A generative model as a classifier of a split: Bayes' rule over its classes.

    p(class | drawing) = p(drawing | class) p(class) / sum over classes of the same

with a uniform p(class), so a drawing is taken for the class under which it is most likely. All
classes of the model compete, those without drawings in the split too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.data import Drawings
from model.pixelcnn import PixelCNN
from model.progress import Progress, no_progress
from model.ranks import Ranks
from model.score import BATCH_SIZE, check_classifies, class_log_probs, confusion


def split_class_nats(
    network: PixelCNN,
    drawings: Drawings,
    *,
    ranks: Ranks,
    rows: npt.NDArray[np.int64],
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
) -> npt.NDArray[np.float64]:
    """Return -log p(drawing | class) in nats of `rows`, (n, classes), the same on every rank.

    Classes are drawings.class_names, which must be the model's. batch_size counts pairs of a
    drawing and a class; progress, drawings of the rank that calls. Raises ValueError if the
    model is not conditioned on a label.
    """
    check_classifies(network.config)
    num_classes = len(drawings.class_names)
    share = -(-len(rows) // ranks.size)
    mine = rows[ranks.rank * share : (ranks.rank + 1) * share]
    step, parts = max(1, batch_size // num_classes), [np.zeros(0)]
    for start in range(0, len(mine), step):
        images, _ = drawings.tensors(mine[start : start + step])
        found = class_log_probs(network, images, num_classes=num_classes, batch_size=batch_size)
        parts.append(-found.flatten().cpu().numpy())
        progress("classify", start + len(images), len(mine), f"{num_classes} classes")
    return ranks.gather(np.concatenate(parts)).reshape(-1, num_classes)


def summarize_classes(
    class_nats: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Return accuracy, its standard error, recall by class and the confusion, as JSON values.

    confusion[i][j] counts drawings of class i that were taken for class j; a class without
    drawings is left out of the recalls. Ties go to the first class.
    """
    num_classes, count = len(class_names), len(labels)
    chosen = class_nats.argmin(axis=1)
    table = confusion(torch.from_numpy(labels), torch.from_numpy(chosen), num_classes)
    accuracy = float((chosen == labels).mean())
    return {
        "accuracy": accuracy,
        "accuracy_stderr": float(np.sqrt(accuracy * (1 - accuracy) / count)),
        "chance": 1 / num_classes,
        "recall": {
            name: int(table[i, i]) / int(table[i].sum())
            for i, name in enumerate(class_names)
            if table[i].any()
        },
        "class_names": list(class_names),
        "confusion": table.tolist(),
    }
