"""A training step of the seed's configuration beside TFP's, on a CPU, batch 32.

Run: make bench NAME=train (about ten minutes and 8 GB)
     make bench NAME=train ARGS=--compiled compiles a step too, which takes as long again or longer

Every measurement runs in a process of its own, one after the other, so that memory is its own.
`ratio` says how many times better ours is. TFP's step is a compiled graph; ours is not, as it is not
unless one asks for it. The peer "plain PyTorch" is plain_pixelcnn.py. There is no figure of bfloat16
on a CPU that only emulates it.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import print_figure

BATCH_SIZE = 32
NUM_STEPS = 3
SEED = {"num_resnet": 5, "num_hierarchies": 3, "num_filters": 128, "num_logistic_mix": 5}


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 28, 28) uint8, three quarters paper, and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (512, 28, 28), dtype=np.uint8)
    images[rng.random(images.shape) < 0.75] = 0
    return images, rng.integers(0, 20, 512)


def seconds_a_step(step: Callable[[], object]) -> float:
    """Return the fastest of NUM_STEPS steps after one that warms up."""
    step()
    found = []
    for _ in range(NUM_STEPS):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return min(found)


def measure_ours(*settings: str, compile: bool = False) -> dict[str, float]:
    """Measure a step of this project's training, the loader's part, and the peak memory."""
    import torch

    from model.data import Drawings, batch_rows
    from model.options import RunOptions
    from model.presets import preset
    from model.ranks import join_ranks
    from model.run import Run
    from model.spec import apply_overrides, fit_to_dataset
    from pipelines.schema import Manifest

    names = tuple(f"class {index}" for index in range(20))
    summary = {"class_names": names, "image_shape": (28, 28)}
    dataset = Manifest(kind="datasets", name="bench", digest="0" * 64, spec={}, summary=summary)
    spec = apply_overrides(fit_to_dataset(preset("seed"), dataset), settings)
    images, labels = drawings()
    with join_ranks("cpu") as ranks:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.size))
        content = Drawings(images, labels, names)
        options = RunOptions(compile=compile)
        run = Run(spec, content, dataset_digest=dataset.digest, ranks=ranks, options=options)
        sec = seconds_a_step(run.advance)
        start = time.perf_counter()
        for step in range(100):
            content.tensors(batch_rows(10**6, BATCH_SIZE, key="k", step=step) % len(labels))
        loader_sec = (time.perf_counter() - start) / 100
    return {"sec": sec, "loader_sec": loader_sec, "peak_gb": peak_gb(), "rank": ranks.rank}


def measure_tfp() -> dict[str, float]:
    """Measure tf_keras' train_on_batch of tfd.PixelCNN, as TFP's documentation trains it."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_probability as tfp
    import tf_keras

    dist = tfp.distributions.PixelCNN(
        image_shape=(28, 28, 1), conditional_shape=(), dropout_p=0.5, **SEED
    )
    image = tf_keras.layers.Input(shape=(28, 28, 1))
    label = tf_keras.layers.Input(shape=())
    model = tf_keras.Model([image, label], dist.log_prob(image, conditional_input=label))
    model.add_loss(-tf_keras.backend.mean(model.outputs[0]))
    model.compile(optimizer=tf_keras.optimizers.Adam(1e-3))
    images, labels = drawings()
    batch = [images[:BATCH_SIZE, :, :, None].astype("float32"), labels[:BATCH_SIZE].astype("f4")]
    return {"sec": seconds_a_step(lambda: model.train_on_batch(batch)), "peak_gb": peak_gb()}


def measure_plain() -> dict[str, float]:
    """Measure the plain implementation: forward, backward, Adam."""
    import torch
    from plain_pixelcnn import PlainPixelCNN

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = PlainPixelCNN(num_classes=20, **SEED)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    images, labels = drawings()
    image = torch.from_numpy(images[:BATCH_SIZE, None])
    label = torch.from_numpy(labels[:BATCH_SIZE])

    def step() -> float:
        optimizer.zero_grad()
        loss = -model(image, label).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"sec": seconds_a_step(step), "peak_gb": peak_gb()}


def peak_gb() -> float:
    """Return this process's peak memory in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "ours": measure_ours,
    "bfloat16": lambda: measure_ours("precision=bfloat16"),
    "compiled": lambda: measure_ours(compile=True),
    "tfp": measure_tfp,
    "plain": measure_plain,
}


def run_part(part: str, *launcher: str) -> dict[str, float]:
    """Measure one part in a process of its own (or several, under torchrun)."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, *launcher, str(Path(__file__)), part, str(result)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | quiet)
        return json.loads(result.read_text())


def print_rate(name: str, part: dict, words: str, peer: dict) -> None:
    """Print images/s of one part beside another's."""
    rate, peer_rate = BATCH_SIZE / part["sec"], BATCH_SIZE / peer["sec"]
    ratio = rate / peer_rate
    print_figure(name, rate, "images/s", peer=words, peer_value=peer_rate, ratio=ratio)


def main(*, compiled: bool) -> None:
    from model.precision import cpu_has_bfloat16  # with torch, which is not a peer's memory

    words = "TFP train_on_batch"
    ours, tfp = run_part("ours"), run_part("tfp")
    print_rate("train_step_vs_tfp", ours, words, tfp)
    ratio = tfp["peak_gb"] / ours["peak_gb"]
    peer_gb = tfp["peak_gb"]
    print_figure(
        "train_memory_vs_tfp", ours["peak_gb"], "GB", peer=words, peer_value=peer_gb, ratio=ratio
    )
    print_figure("train_loader_share", ours["loader_sec"] / ours["sec"], "of a step")
    print_rate("train_step_vs_plain_torch", ours, "plain PyTorch", run_part("plain"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    print_rate("train_2_ranks_vs_1", run_part("ours", *torchrun), "1 rank, all cores", ours)
    if cpu_has_bfloat16():
        print_rate("train_step_bfloat16_vs_tfp", run_part("bfloat16"), words, tfp)
    if compiled:
        print_rate("train_step_compiled_vs_tfp", run_part("compiled"), words, tfp)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        found = PARTS[sys.argv[1]]()
        if not found.get("rank"):
            Path(sys.argv[2]).write_text(json.dumps(found))
    else:
        main(compiled="--compiled" in sys.argv)
