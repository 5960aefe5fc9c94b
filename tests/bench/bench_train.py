"""A training step of the seed's configuration beside TFP's, on a CPU, batch 32.

Run: make bench NAME=train (about twenty-five minutes and 16 GB)
     make bench NAME=train ARGS=--compiled compiles a step too, which takes as long again or longer

Every side has a process of its own, so that memory is its own. Ours and a peer's take steps in
turn, each waiting while the other works, and the middle one of their ratios counts: a neighbor of
this machine slows both. `ratio` says how many times better ours is. TFP's step is a compiled graph;
ours is not, as it is not unless one asks for it. One process is the slower way here: `sketchmill
train` starts a rank a core unless told otherwise, which is faster and takes more memory. The peer
"plain PyTorch" is plain_pixelcnn.py. Who asks for bfloat16 on a CPU that only emulates it is given
float32, so train_step_bfloat16_vs_tfp is a figure of float32 there.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from figures import print_figure

if TYPE_CHECKING:  # torch would be a part of the peers' memory
    from model.ranks import Ranks

BATCH_SIZE = 32
NUM_ROUNDS = 5
SEED = {"num_resnet": 5, "num_hierarchies": 3, "num_filters": 128, "num_logistic_mix": 5}


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 28, 28) uint8, three quarters paper, and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (512, 28, 28), dtype=np.uint8)
    images[rng.random(images.shape) < 0.75] = 0
    return images, rng.integers(0, 20, 512)


class Side:
    """A process of one side, which takes a step whenever it is told to."""

    def __init__(self, part: str, *launcher: str) -> None:
        """Start it and let it take a step, which warms it up."""
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, *launcher, str(Path(__file__)), part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | quiet,
        )
        self.step()

    def step(self) -> float:
        """Return the seconds of one step."""
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> dict[str, float]:
        """Let it end and return what else it measured."""
        self._process.stdin.close()
        found = json.loads(self._process.stdout.readline())
        if self._process.wait():
            raise RuntimeError(f"a side ended with {self._process.returncode}")
        return found


def take_steps(step: Callable[[], object], answers: TextIO, ranks: "Ranks | None" = None) -> None:
    """Take a step for each line of stdin, with all ranks, and answer with its seconds."""
    is_first = ranks is None or ranks.is_first
    while True:
        told = bool(sys.stdin.readline()) if is_first else False
        if not (told if ranks is None else any(ranks.sum([told]))):
            return
        start = time.perf_counter()
        step()
        if is_first:
            print(time.perf_counter() - start, file=answers, flush=True)


def serve_ours(answers: TextIO, *settings: str, compile: bool = False) -> None:
    """Take steps of this project's training; measure the loader's part and the peak memory."""
    from model.data import Drawings, batch_rows
    from model.options import RunOptions
    from model.ranks import join_ranks
    from model.training.presets import preset
    from model.training.run import Run
    from model.training.spec import apply_overrides, fit_to_dataset
    from model.training.train import torch_settings
    from pipelines.store.manifest import Manifest

    names = tuple(f"class {index}" for index in range(20))
    summary = {"class_names": names, "image_shape": (28, 28)}
    dataset = Manifest(kind="datasets", name="bench", digest="0" * 64, spec={}, summary=summary)
    spec = apply_overrides(fit_to_dataset(preset("article"), dataset), settings)
    images, labels = drawings()
    options = RunOptions(compile=compile)
    with join_ranks("cpu") as ranks, torch_settings(options, ranks):
        content = Drawings(images, labels, names)
        run = Run(spec, content, dataset_digest=dataset.digest, ranks=ranks, options=options)
        take_steps(run.advance, answers, ranks)
        start = time.perf_counter()
        for step in range(100):
            content.tensors(batch_rows(10**6, BATCH_SIZE, key="k", step=step) % len(labels))
        loader_sec = (time.perf_counter() - start) / 100
        (gb,) = ranks.sum([peak_gb()])
        if ranks.is_first:
            say_rest(answers, peak_gb=gb, loader_sec=loader_sec)


def serve_tfp(answers: TextIO) -> None:
    """Take steps of tf_keras' train_on_batch of tfd.PixelCNN, as TFP's documentation trains it."""
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
    take_steps(lambda: model.train_on_batch(batch), answers)
    say_rest(answers, peak_gb=peak_gb())


def serve_plain(answers: TextIO) -> None:
    """Take steps of the plain implementation: forward, backward, Adam."""
    import torch
    from plain_pixelcnn import PlainPixelCNN

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)  # as ours: else steps take ever longer on an Intel CPU
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

    take_steps(step, answers)
    say_rest(answers, peak_gb=peak_gb())


def say_rest(answers: TextIO, **measured: float) -> None:
    """Answer with what was measured besides the steps."""
    print(json.dumps(measured), file=answers, flush=True)


def peak_gb() -> float:
    """Return this process's peak memory in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


PARTS: dict[str, Callable[[TextIO], None]] = {
    "ours": serve_ours,
    "bfloat16": lambda answers: serve_ours(answers, "precision=bfloat16"),
    "compiled": lambda answers: serve_ours(answers, compile=True),
    "tfp": serve_tfp,
    "plain": serve_plain,
}


def compare(name: str, ours: Side, words: str, peer: Side) -> float:
    """Let both take steps in turn, print the middle round's figure, return our fastest step."""
    rounds = sorted(
        ((ours.step(), peer.step()) for _ in range(NUM_ROUNDS)), key=lambda r: r[1] / r[0]
    )
    sec, peer_sec = rounds[len(rounds) // 2]
    print_figure(
        name,
        BATCH_SIZE / sec,
        "images/s",
        peer=words,
        peer_value=BATCH_SIZE / peer_sec,
        ratio=peer_sec / sec,
    )
    return min(sec for sec, _ in rounds)


def main(*, compiled: bool) -> None:
    words = "TFP train_on_batch"
    ours, tfp = Side("ours"), Side("tfp")
    sec = compare("train_step_vs_tfp", ours, words, tfp)
    rest = ours.end()
    for part in ("bfloat16", "compiled") if compiled else ("bfloat16",):
        side = Side(part)
        compare(f"train_step_{part}_vs_tfp", side, words, tfp)
        side.end()
    tfp_gb = tfp.end()["peak_gb"]
    gb = rest["peak_gb"]
    print_figure("train_memory_vs_tfp", gb, "GB", peer=words, peer_value=tfp_gb, ratio=tfp_gb / gb)
    print_figure("train_loader_share", rest["loader_sec"] / sec, "of a step")
    ours, plain = Side("ours"), Side("plain")
    compare("train_step_vs_plain_torch", ours, "plain PyTorch", plain)
    plain.end()
    pair = Side("ours", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    compare("train_2_ranks_vs_1", pair, "1 rank, all cores", ours)
    ours.end()
    print_figure("train_2_ranks_memory", pair.end()["peak_gb"], "GB")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in PARTS:
        # Libraries may print: what they say goes to stderr, our answers alone to stdout.
        with os.fdopen(os.dup(1), "w") as answers:
            os.dup2(2, 1)
            PARTS[sys.argv[1]](answers)
    else:
        main(compiled="--compiled" in sys.argv)
