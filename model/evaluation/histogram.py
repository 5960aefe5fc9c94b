"""A model without a network: a histogram of gray levels by pixel and class.

    p(drawing | class) = product over pixels of (count + alpha) / (drawings + alpha * 256)

where `count` training drawings of the class have the pixel's level at that pixel. It knows
where a class has ink and nothing of strokes, so what a network gains over it is what it
learned of pixels together. Computed class by class: one of 28x28 needs 2 MB.
"""

import numpy as np
import numpy.typing as npt

from model.data import Drawings, batch_rows
from pipelines.processes.progress import doing

NUM_LEVELS = 256
# 2.785 bits/dim on held-out drawings of the seed's 20 classes; 0.01 has 2.808, 0.5 2.779, 1 2.789.
ALPHA = 0.1
# More training drawings move the fourth decimal and cost a minute for each 20 million.
MAX_ROWS = 1_000_000
# 784 counters a drawing: 25 MB at a time.
_CHUNK_ROWS = 4_096


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


def _log_probs(
    train: Drawings, rows: npt.NDArray[np.int64], alpha: float
) -> npt.NDArray[np.float64]:
    """Return the logarithm of each level's probability at each pixel (pixels, levels)."""
    num_pixels = int(np.prod(train.images.shape[1:]))
    size = num_pixels * NUM_LEVELS
    counts = np.zeros(size)
    offsets = np.arange(num_pixels) * NUM_LEVELS
    for start in range(0, len(rows), _CHUNK_ROWS):
        images = train.images[rows[start : start + _CHUNK_ROWS]]
        places = images.reshape(len(images), -1) + offsets
        counts += np.bincount(places.ravel(), minlength=size)
    smoothed = (counts + alpha) / (len(rows) + alpha * NUM_LEVELS)
    return np.log(smoothed).reshape(num_pixels, NUM_LEVELS)
