"""The seed's configuration on one GPU: forward pass, training step and sampling over batch sizes.

    peak      what one large bfloat16 matrix product reaches
    forward   log_prob in bfloat16 autocast, images/s, as it is and under torch.compile
    train     forward, backward and Adam's step with dropout, images/s
    sample    the cached sampler with its CUDA graphs, images/s, beside the forward pass at the
              same batch: at most 1 is possible, the sampler does the same arithmetic

A share is of the peak, by 23.86 GFLOP an image (128 filters) and three times that for a training
step. A batch that does not fit the memory is left out. Needs torch, numpy and jaxtyping alone, and
a CUDA device; --device cpu --filters 4 --batches 2 --no-compile tries the script itself.

Run: make bench NAME=gpu, or PYTHONPATH=. python tests/bench/bench_gpu.py
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from figures import hardware, print_figure

from model.network.config import ConditionConfig, PixelCNNConfig
from model.network.likelihood import num_draws
from model.network.pixelcnn import PixelCNN
from model.network.precision import sum_in_float32
from model.sampling.cached import CachedSampler
from model.sampling.drawer import draw_uniforms

GFLOP_AN_IMAGE = 23.86  # at 128 filters, counted in tests/model/test_network.py
TRAIN_FACTOR = 3  # backward costs two forward passes
BATCHES = (64, 256, 1024, 2048, 4096)
REPEATS = 3


class Bench:
    """One device, one model, the figures of both."""

    def __init__(self, device: torch.device, num_filters: int) -> None:
        torch.manual_seed(0)
        self.device = device
        self.config = PixelCNNConfig(
            num_resnet=5,
            num_hierarchies=3,
            num_filters=num_filters,
            num_logistic_mix=5,
            condition=ConditionConfig(kind="embedding", num_classes=345),
        )
        self.model = PixelCNN(self.config).to(device).eval()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
        self.hardware = f"{name}, torch {torch.__version__}, {hardware()}"
        self.peak = self.matmul_tflops()

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the fewest seconds of a call, after one to warm up."""
        call()
        return min(self._timed(call) for _ in range(REPEATS))

    def _timed(self, call: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def matmul_tflops(self) -> float:
        """Return the speed of one large product, TFLOP/s."""
        size = 8192 if self.device.type == "cuda" else 256
        left = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        return 2e-12 * size**3 / self.seconds(lambda: left @ left)

    def batch(self, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and labels on the device."""
        images = torch.randint(0, 256, (num, 1, 28, 28), dtype=torch.uint8)
        return images.to(self.device), (torch.arange(num) % 345).to(self.device)

    def forward(self, num: int, network: torch.nn.Module) -> float:
        """Return images/s of log_prob."""
        images, labels = self.batch(num)

        def call() -> None:
            with torch.inference_mode(), self.autocast():
                network(images, labels)

        return num / self.seconds(call)

    def train(self, num: int, network: torch.nn.Module) -> float:
        """Return images/s of a training step."""
        images, labels = self.batch(num)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                loss = -network(images, labels).mean()
            loss.backward()
            optimizer.step()

        self.model.train()
        try:
            return num / self.seconds(step)
        finally:
            self.model.eval()
            optimizer.zero_grad(set_to_none=True)

    def sample(self, num: int, dtype: torch.dtype) -> float:
        """Return images/s of the sampler; the first batch captures its graphs."""
        sampler = CachedSampler(self.model, batch=num, dtype=dtype)
        uniforms = draw_uniforms(num, num_draws(self.config), 28, 28, seed=0).to(self.device)
        labels = torch.arange(num) % 345
        return num / self.seconds(lambda: sampler.sample(uniforms, labels))

    def autocast(self) -> torch.autocast:
        """Return bfloat16 autocast."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def show(self, name: str, rate: float, *, factor: float = 1.0, forward: float = 0.0) -> None:
        """Print images/s beside the peak, or beside the forward pass if that is given."""
        tflops = 1e-3 * factor * GFLOP_AN_IMAGE * rate
        peer = "one forward pass, images/s" if forward else "8192^3 bfloat16 product, TFLOP/s"
        print_figure(
            name,
            rate,
            "images/s",
            peer=peer,
            peer_value=forward or self.peak,
            ratio=rate / forward if forward else tflops / self.peak,
            on=self.hardware,
        )


@contextlib.contextmanager
def if_it_fits(name: str) -> Iterator[None]:
    """Say so if the memory does not suffice, and free what was taken."""
    try:
        yield
    except torch.OutOfMemoryError:
        print(f"# {name}: does not fit the memory", flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(bench: Bench, batches: list[int], *, compiles: bool) -> None:
    """Print all figures."""
    networks: dict[str, torch.nn.Module] = {"eager": bench.model}
    if compiles:
        networks["compiled"] = torch.compile(bench.model)  # pyrefly: ignore
    best = dict.fromkeys(batches, 0.0)
    for how, network in networks.items():
        for num in batches:
            with if_it_fits(name := f"gpu_forward_{how}_b{num}"):
                rate = bench.forward(num, network)
                best[num] = max(best[num], rate)
                bench.show(name, rate)
            with if_it_fits(name := f"gpu_train_{how}_b{num}"):
                bench.show(name, bench.train(num, network), factor=TRAIN_FACTOR)
    for dtype in (torch.bfloat16, torch.float32):
        for num in batches:
            with if_it_fits(name := f"gpu_sample_{str(dtype).split('.')[1]}_b{num}"):
                rate = bench.sample(num, dtype)
                bench.show(name, rate)
                if best[num]:
                    bench.show(f"{name}_vs_forward", rate, forward=best[num])


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--filters", type=int, default=128, help="128 is the seed's")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench_gpu: torch finds no CUDA device here, so there is nothing to say")
    device = torch.device(given.device)
    sum_in_float32(device)
    bench = Bench(device, given.filters)
    print_figure("gpu_matmul_peak", bench.peak, "TFLOP/s", on=bench.hardware)
    measure(bench, given.batches, compiles=not given.no_compile)


if __name__ == "__main__":
    main()
