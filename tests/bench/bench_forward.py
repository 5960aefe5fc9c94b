"""log_prob of the seed's configuration beside TFP's and a plain PyTorch's, on a CPU, batch 32.

Run: make bench NAME=forward (six minutes and 8 GB)

All sides take turns in one process with the same number of threads; each one's fastest round
counts. TFP is compiled by tf.function and carries our weights, and its likelihoods are checked
against ours; so in forward_vs_tfp ours is compiled too, by torch.compile, where there is a C++
compiler, and forward_eager_vs_tfp is without. The peer "plain PyTorch" is plain_pixelcnn.py. Who
asks for bfloat16 on a CPU that only emulates it is given float32, so forward_bf16_vs_tfp is a figure
of float32 there. The share of the matmul's speed is that of direct convolutions' work, of which
model.network.kernels.winograd needs half the products: it may exceed 1.
"""

import os
import shutil
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from figures import print_figure
from plain_pixelcnn import PlainPixelCNN
from torch import Tensor

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.pixelcnn import PixelCNN
from model.tfp_import import export_weights
from tests.model.tfp_live import write_live

BATCH_SIZE = 32
NUM_ROUNDS = 3
NUM_THREADS = len(os.sched_getaffinity(0))
GFLOP_AN_IMAGE = 23.86
SIZES = {"num_resnet": 5, "num_hierarchies": 3, "num_filters": 128, "num_logistic_mix": 5}
SEED = PixelCNNConfig(image_shape=(28, 28, 1), condition=ConditionConfig(kind="scalar"), **SIZES)
MATMUL_SIZE = 2048


def compiled_tfp(model: PixelCNN, value: Tensor, label: Tensor) -> Callable[[], np.ndarray]:
    """Return TFP's compiled log_prob of the batch, with the model's weights."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imports that are not ours
        import tensorflow as tf
        import tensorflow_probability as tfp
    tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    distribution = tfp.distributions.PixelCNN(
        image_shape=(28, 28, 1), conditional_shape=(), use_data_init=False, **SIZES
    )
    write_live(distribution, export_weights(model))

    @tf.function
    def log_prob(pixels, given):
        return distribution.log_prob(pixels, conditional_input=given, training=False)

    pixels = tf.constant(value.permute(0, 2, 3, 1).float().numpy())
    given = tf.constant(label.float().numpy())
    return lambda: log_prob(pixels, given).numpy()


def fastest(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return each side's fewest seconds; sides take turns, after one round to warm up."""
    seconds = dict.fromkeys(sides, float("inf"))
    for index in range(NUM_ROUNDS + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if index:
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def measure() -> dict[str, float]:
    """Return the seconds of every side."""
    torch.manual_seed(0)
    model = PixelCNN(SEED).eval()
    value = torch.randint(0, 256, (BATCH_SIZE, 1, 28, 28), dtype=torch.uint8)
    label = torch.arange(BATCH_SIZE) % 20
    tfp = compiled_tfp(model, value, label)
    np.testing.assert_allclose(model(value, label).numpy(), tfp(), rtol=1e-4)
    plain = PlainPixelCNN(num_classes=20, **SIZES).eval()
    matrix = torch.randn(MATMUL_SIZE, MATMUL_SIZE)

    fast = torch.compile(model) if shutil.which("g++") else model

    def in_bfloat16() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return fast(value, label)

    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: fast(value, label),
        "eager": lambda: model(value, label),
        "tfp": tfp,
        "plain": lambda: plain(value, label),
        "bf16": in_bfloat16,
        "matmul": lambda: matrix @ matrix,
    }
    return fastest(sides)


@torch.no_grad()
def main() -> None:
    """Print images/s beside each peer's, and the share of the matmul's speed."""
    torch.set_num_threads(NUM_THREADS)
    seconds = measure()
    rate = {name: BATCH_SIZE / sec for name, sec in seconds.items()}
    peers = [
        ("forward_vs_tfp", "ours", "TFP compiled", "tfp"),
        ("forward_eager_vs_tfp", "eager", "TFP compiled", "tfp"),
        ("forward_bf16_vs_tfp", "bf16", "TFP compiled", "tfp"),
        ("forward_vs_plain", "eager", "plain PyTorch", "plain"),
    ]
    for name, side, peer, other in peers:
        print_figure(
            name,
            rate[side],
            "images/s",
            peer=peer,
            peer_value=rate[other],
            ratio=rate[side] / rate[other],
        )
    speed, peak = GFLOP_AN_IMAGE * rate["ours"], 2e-9 * MATMUL_SIZE**3 / seconds["matmul"]
    print_figure(
        "forward_matmul_share",
        speed,
        "GFLOP/s",
        peer="torch.matmul, float32",
        peer_value=peak,
        ratio=speed / peak,
    )


if __name__ == "__main__":
    main()
