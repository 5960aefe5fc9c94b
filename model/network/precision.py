"""Numeric precision: bfloat16 support of the device, float32 accumulation, flushing of denormals.

CPUs with AMX, AVX-512 BF16 or Arm's BF16 multiply bfloat16 natively. Others, including AVX-512
without BF16, emulate it 8 times (convolutions) to 50 times (products) slower than float32. On a
GPU a product accumulates in float32, but cuBLAS may add the parts of a split sum in bfloat16;
`sum_in_float32` disables that.
"""

import contextlib
import functools
import logging
import platform
from collections.abc import Iterator

import torch

_log = logging.getLogger(__name__)


def default_device() -> torch.device:
    """Return the current GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 natively."""
    return _CPU_HAS_BFLOAT16


def _look_at_cpu() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN's own check asks for AVX-512 only.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    has_onednn = torch.backends.mkldnn.is_available()
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


# Evaluated once, outside of torch.compile's tracing.
_CPU_HAS_BFLOAT16 = _look_at_cpu()


def fast_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context that disables autocast on a CPU that only emulates bfloat16.

    float32 is both faster and more accurate there.
    """
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and not cpu_has_bfloat16():
        return torch.autocast("cpu", enabled=False)
    return contextlib.nullcontext()


def emulation_warning(dtype: torch.dtype, device: torch.device) -> str:
    """Return a warning if this CPU emulates arithmetic of this dtype; empty otherwise."""
    if dtype != torch.bfloat16 or device.type != "cpu" or cpu_has_bfloat16():
        return ""
    return (
        "this CPU has no bfloat16 arithmetic and emulates it, up to 50 times slower than float32: "
        "use float32 unless the same rounding is wanted"
    )


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Log a warning, once per process, if arithmetic is emulated."""
    if message := emulation_warning(dtype, device):
        _warn_once(message)


def sum_in_float32(device: torch.device) -> None:
    """Accumulate bfloat16 products on a GPU in float32.

    This is a process-wide torch setting; a no-op except on CUDA.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Flush float32 numbers below 1.2e-38 to 0, if the CPU supports it.

    Gradients of pixels that the network predicts with certainty are denormal, and some processors
    take a hundred times as long for them: on an Intel Xeon (Sapphire Rapids) the tenth step of the
    `article` network took 83 s instead of 7. The setting applies to this thread and to threads
    that it starts within the block, not to torch's existing ones; it is restored on exit.
    """
    before = _takes_denormals_as_zero()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _takes_denormals_as_zero() -> bool:
    return not (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item()


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning(message)
