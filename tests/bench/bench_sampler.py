"""The cached sampler at the field's example configuration, next to its bounds and its peer.

    one thread        over batch sizes, in seconds of that thread; a forward pass beside it
    all cores         one process a core, against tfd.PixelCNN's compiled `sample`
    naive             this project's plain sampler, from measured forward passes
    guided            what guidance adds, on one thread
    presets           portable arithmetic for each preset, on one thread, beside torch's

tfd.PixelCNN samples by 785 full passes, which would take 20 minutes for 8 images: measured are
passes of its own compiled loop body, the rest is multiplied. What was measured is also drawn, into
baselines/sampler.svg.

Run: make bench NAME=sampler, of presets alone with ARGS="--presets tiny small"
"""

import argparse
import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.utils.flop_counter
from figures import print_figure

from model.network.conditioning import label_condition
from model.network.config import DEFAULT_GUIDANCE, ConditionConfig, PixelCNNConfig
from model.network.likelihood import num_draws
from model.network.pixelcnn import PixelCNN
from model.sampling.cached import CachedSampler
from model.sampling.drawer import class_uniforms, draw_uniforms
from model.sampling.portable import PortableSampler
from model.training.presets import preset

BASELINES = Path(__file__).parent / "baselines"
SEED = PixelCNNConfig(
    num_resnet=5,
    num_hierarchies=3,
    num_filters=128,
    num_logistic_mix=5,
    condition=ConditionConfig(kind="scalar", dropout_p=0.1),
)
NUM_PIXELS = 28 * 28
# tfd.PixelCNN draws all pixels from noise once and then passes once for each.
TFP_PASSES = NUM_PIXELS + 1
BATCHES = (1, 4, 8, 16, 32, 64, 128)
GUIDED_BATCH = 64
PRESETS, PRESET_ROWS, NUM_CLASSES = ("tiny", "small", "article"), 64, 20


def seed_model() -> PixelCNN:
    torch.manual_seed(0)
    return PixelCNN(SEED).eval()


def preset_model(name: str) -> PixelCNN:
    """Return a preset's network for twenty classes, with random weights."""
    network = preset(name).network
    condition = dataclasses.replace(network.condition, num_classes=NUM_CLASSES)
    torch.manual_seed(0)
    return PixelCNN(dataclasses.replace(network, condition=condition)).eval()


def gflop_per_image(model: PixelCNN) -> float:
    """Return the multiply-adds of one forward pass of direct convolutions, times two."""
    counter = torch.utils.flop_counter.FlopCounterMode(display=False)
    labels = label_condition(model.config, np.zeros(1, np.int64))
    # On a CPU model.network.kernels.winograd needs fewer, which the counter does not know.
    meta = copy.deepcopy(model).to("meta")
    with torch.no_grad(), counter:
        meta.distribution_params(torch.zeros(1, 1, 28, 28, device="meta"), labels.to("meta"))
    return counter.get_total_flops() / 1e9


def peak_gflops(num: int = 1_024, repeats: int = 20) -> float:
    """Return what one large float32 matrix product reaches on one thread."""
    a, b = torch.randn(num, num), torch.randn(num, num)
    out = torch.mm(a, b)
    start = time.thread_time()
    for _ in range(repeats):
        torch.mm(a, b, out=out)
    return repeats * 2e-9 * num**3 / (time.thread_time() - start)


def forward_sec(model: PixelCNN, batch: int, repeats: int) -> float:
    """Return the thread seconds of one forward pass with likelihoods, the best of `repeats`."""
    images, labels = torch.randint(0, 256, (batch, 1, 28, 28)), torch.arange(batch) % 10
    return min(timed(lambda: model(images, labels))["thread"] for _ in range(repeats))


def sample_sec(model: PixelCNN, batch: int, *, guidance: float = 0.0) -> dict[str, float]:
    """Return the seconds of drawing one batch, the best of two; memory is allocated before."""
    sampler = CachedSampler(model, batch=batch, guidance=guidance)
    uniforms = draw_uniforms(batch, num_draws(SEED), 28, 28, seed=0)
    runs = [timed(lambda: sampler.sample(uniforms, torch.arange(batch) % 10)) for _ in range(2)]
    return {clock: min(run[clock] for run in runs) for clock in runs[0]}


def timed(call) -> dict[str, float]:
    """Return wall and thread seconds; of one thread the latter do not count other programs."""
    wall, thread = time.perf_counter(), time.thread_time()
    with torch.no_grad():
        call()
    return {"wall": time.perf_counter() - wall, "thread": time.thread_time() - thread}


def measure_here(batch: int, num_threads: int) -> dict[str, float]:
    """Measure one batch size in this process; what is compared is measured in turn."""
    torch.set_num_threads(num_threads)
    model = seed_model()
    if num_threads > 1:
        return sample_sec(model, batch)
    before, forward = peak_gflops(), forward_sec(model, batch, repeats=1)
    sampled = sample_sec(model, batch)
    forward = min(forward, forward_sec(model, batch, repeats=1))
    if batch == GUIDED_BATCH:
        sampled["guided"] = sample_sec(model, batch, guidance=DEFAULT_GUIDANCE)["thread"]
    return sampled | {"forward": forward, "peak": max(before, peak_gflops())}


def measure_processes(batch: int, num: int, num_threads: int = 1) -> list[dict[str, float]]:
    """Measure `num` processes at the same time, each with a batch of its own."""
    command = [sys.executable, __file__, "--child", f"{batch},{num_threads}"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(num)]
    return [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]


def tfp_sec(batch: int) -> float:
    """Return the seconds that tfd.PixelCNN.sample takes for a batch, from measured passes.

    The network of `sample`'s loop with the mixture's parameters, compiled by tf.function, with
    all threads; its draw and the rest of the loop are left out, in its favor.
    """
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras  # noqa: F401  (tfp's layers need it)

    dist = tfp.distributions.PixelCNN(
        image_shape=(28, 28, 1),
        conditional_shape=(),
        num_resnet=SEED.num_resnet,
        num_hierarchies=SEED.num_hierarchies,
        num_filters=SEED.num_filters,
        num_logistic_mix=SEED.num_logistic_mix,
        dropout_p=0.0,
    )
    labels = tf.zeros((batch,))
    images = tf.random.uniform((batch, 28, 28, 1), -1.0, 1.0)
    run = tf.function(lambda x: dist.network([x, labels], training=False))
    run(images)
    passes = []
    for _ in range(3):
        start = time.perf_counter()
        run(images)[0].numpy()
        passes.append(time.perf_counter() - start)
    return min(passes) * TFP_PASSES


def print_one_thread(batch: int, row: dict[str, float], gflop: float) -> None:
    name, sample, forward = f"b{batch}", row["thread"] / batch, row["forward"] / batch
    print_figure(
        f"forward_vs_sample_{name}",
        sample,
        "s/image",
        peer="one forward pass of the same model",
        peer_value=forward,
        ratio=forward / sample,
    )
    print_figure(
        f"sample_flops_{name}",
        gflop / sample,
        "GFLOP/s",
        peer="1024^3 matrix product, one thread",
        peer_value=row["peak"],
        ratio=gflop / sample / row["peak"],
    )
    naive, peer = forward * NUM_PIXELS, "sample_naive, from measured forward passes"
    print_figure(
        f"naive_{name}", sample, "s/image", peer=peer, peer_value=naive, ratio=naive / sample
    )
    if "guided" in row:
        guided = row["guided"] / batch
        print_figure(
            f"guided_{name}",
            guided,
            "s/image",
            peer="the same without guidance",
            peer_value=sample,
            ratio=sample / guided,
        )


def print_tfp(batch: int, layouts: dict[str, float]) -> None:
    """Print our best use of all cores against the peer's; `layouts` are seconds an image."""
    for name, seconds in layouts.items():
        print_figure(f"sample_cores_b{batch}_{name}", seconds, "s/image")
    ours, theirs = min(layouts.values()), tfp_sec(batch) / batch
    print_figure(
        f"sample_vs_tfp_b{batch}",
        ours,
        "s/image",
        peer="tfd.PixelCNN.sample, extrapolated from measured passes",
        peer_value=theirs,
        ratio=theirs / ours,
    )


def all_core_layouts(batch: int, num_cores: int) -> dict[str, float]:
    """Return seconds an image of `batch` images on all cores: by processes, and by threads."""
    parts = measure_processes(batch // num_cores, num_cores)
    threads = measure_processes(batch, 1, num_threads=num_cores)
    return {
        f"{num_cores}_processes": max(part["wall"] for part in parts) / batch,
        f"{num_cores}_threads": threads[0]["wall"] / batch,
    }


def print_preset(name: str) -> None:
    """Print what a thread draws in a second in both arithmetics, taking turns, best of three."""
    torch.set_num_threads(1)
    model, labels = preset_model(name), np.arange(PRESET_ROWS) % NUM_CLASSES
    shape = (num_draws(model.config), 28, 28)
    uniforms = class_uniforms(labels, np.arange(PRESET_ROWS), shape, seed=0)
    condition, gflop = label_condition(model.config, labels), gflop_per_image(model)
    print_figure(f"{name}_gflop_per_pass", gflop, "GFLOP")
    for guidance in (0.0, DEFAULT_GUIDANCE) if model.config.condition.dropout_p else (0.0,):
        ours = PortableSampler(model, guidance=guidance)
        theirs = CachedSampler(model, batch=PRESET_ROWS, guidance=guidance)
        portable, torchs, peak = [], [], 0.0
        for _ in range(3):
            peak = max(peak, peak_gflops())
            portable.append(timed(partial(ours.draw, labels, uniforms.numpy()))["thread"])
            torchs.append(timed(partial(theirs.sample, uniforms, condition))["thread"])
        rate, peer = PRESET_ROWS / min(portable), PRESET_ROWS / min(torchs)
        kind = "guided" if guidance else "plain"
        print_figure(
            f"{name}_{kind}",
            rate,
            "drawings a CPU-second",
            peer="torch's arithmetic, batch 64",
            peer_value=peer,
            ratio=rate / peer,
        )
        reached = rate * gflop * (2 if guidance else 1)
        print_figure(
            f"{name}_{kind}_flops",
            reached,
            "GFLOP/s",
            peer="1024^3 matrix product, one thread",
            peer_value=peak,
            ratio=reached / peak,
        )


def plot(rows: dict[int, dict[str, float]], by_processes: dict[int, float]) -> None:
    """Draw images a second over batch size and over processes."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    batches = list(rows)
    left.plot(batches, [b / rows[b]["thread"] for b in batches], "o-", label="sampling")
    left.plot(batches, [b / rows[b]["forward"] for b in batches], "s--", label="forward pass")
    left.set(xscale="log", xlabel="batch size", ylabel="images/s", title="one thread")
    left.set_xticks(batches, [str(b) for b in batches])
    left.legend()
    right.bar([str(n) for n in by_processes], list(by_processes.values()))
    right.set(xlabel="processes of one thread", ylabel="images/s", title="batch 32 each")
    BASELINES.mkdir(exist_ok=True)
    figure.savefig(BASELINES / "sampler.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help="batch,threads: measure in this process")
    parser.add_argument("--presets", nargs="*", help="measure these presets only")
    given = parser.parse_args()
    if given.child:
        batch, threads = map(int, given.child.split(","))
        print(json.dumps(measure_here(batch, threads)))
        return
    for name in PRESETS if given.presets is None else given.presets:
        print_preset(name)
    if given.presets is not None:
        return
    gflop = gflop_per_image(seed_model())
    print_figure("gflop_per_image", gflop, "GFLOP")
    rows = {}
    for batch in BATCHES:
        rows[batch] = measure_processes(batch, 1)[0]
        print_one_thread(batch, rows[batch], gflop)
    num_cores = len(os.sched_getaffinity(0))
    for batch in (8, 64):
        print_tfp(batch, all_core_layouts(batch, num_cores))
    counts = {n: measure_processes(32, n) for n in range(1, num_cores + 1)}
    rates = {n: 32 * n / max(p["wall"] for p in parts) for n, parts in counts.items()}
    plot(rows, rates)


if __name__ == "__main__":
    main()
