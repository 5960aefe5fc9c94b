"""bfloat16 where it pays, what is rounded to it, and numbers too small to be worth their time.

A CPU multiplies bfloat16 numbers itself with AMX, AVX-512 BF16 or Arm's BF16; others, AVX-512
without BF16 among them, emulate it: 8 times (convolutions) to 50 times (products) slower than
the float32 that it is meant to speed up. On a GPU a product sums in float32; cuBLAS may add
the parts of a split sum in bfloat16 unless told not to, which `sum_in_float32` does.
"""

import contextlib
import functools
import logging
import platform
from collections.abc import Iterator

import torch

_log = logging.getLogger(__name__)


def default_device() -> torch.device:
    """Return the current GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 numbers itself."""
    return _CPU_HAS_BFLOAT16


def _look_at_cpu() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN's own check asks for AVX-512 alone.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    has_onednn = torch.backends.mkldnn.is_available()
    return has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


# Found once, where torch.compile does not trace it.
_CPU_HAS_BFLOAT16 = _look_at_cpu()


def fast_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context without autocast on a CPU that only emulates bfloat16.

    float32 it is there: more digits, less time.
    """
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and not cpu_has_bfloat16():
        return torch.autocast("cpu", enabled=False)
    return contextlib.nullcontext()


def emulation_warning(dtype: torch.dtype, device: torch.device) -> str:
    """Return what to say of arithmetic that this CPU only emulates; empty if it does not."""
    if dtype != torch.bfloat16 or device.type != "cpu" or cpu_has_bfloat16():
        return ""
    return (
        "this CPU has no bfloat16 arithmetic and emulates it, up to 50 times slower than float32: "
        "use float32 unless the same rounding is wanted"
    )


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Log it, once a process, if arithmetic will be emulated."""
    if message := emulation_warning(dtype, device):
        _warn_once(message)


def sum_in_float32(device: torch.device) -> None:
    """Let products of bfloat16 numbers on a GPU be summed up in float32 throughout this process.

    It is torch's setting of the whole process; elsewhere than on CUDA nothing happens.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take float32 numbers below 1.2e-38 for 0, where the CPU can be told to.

    Gradients of pixels that the network is sure of are as small, and some processors need a
    hundred times as long for them: on an Intel Xeon (Sapphire Rapids) the tenth step of the seed's
    network took 83 s instead of 7. It is a setting of this thread, put back at the end, and of
    the threads that it starts meanwhile: those that torch has already keep theirs.
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
