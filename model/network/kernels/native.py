"""Just-in-time compilation of this package's C code for the local CPU (under a second).

The code runs in torch's threads, with torch's OpenMP. Without a C compiler `library` returns None
and the slower torch operators are used; the same, with a warning, if the compiler fails.
"""

import ctypes
import functools
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)
_COMPILE = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-w")


class Images(ctypes.Structure):
    """The C struct `images`: channels-last numbers in memory; strides count numbers."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *(
            (name, ctypes.c_long)
            for name in ("rows", "cols", "channels", "image_stride", "row_stride", "col_stride")
        ),
    )


def images(x: Tensor) -> Images:
    """Return the address and strides of images [batch, channels, rows, cols]; keep them alive."""
    _, channels, rows, cols = x.shape
    image_stride, channel_stride, row_stride, col_stride = x.stride()
    assert channel_stride == 1 or channels == 1
    return Images(x.data_ptr(), rows, cols, channels, image_stride, row_stride, col_stride)


def channels_last(x: Tensor) -> Tensor:
    """Return x with contiguous channels."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


@functools.cache
def library(name: str, *flags: str) -> ctypes.CDLL | None:
    """Return the compiled library of a C file of this package, None if unavailable.

    flags: more for the compiler
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(__file__).with_name(name)
            compiled = _compiled(shlex.split(compiler), flags, source, Path(folder))
            return ctypes.CDLL(str(compiled))
    except (OSError, subprocess.SubprocessError) as error:
        detail = str(getattr(error, "stderr", "") or error).strip()
        _LOG.warning("%s is not used, falling back to slower torch operators: %s", name, detail)
        return None


def _compiled(compiler: list[str], flags: tuple[str, ...], source: Path, folder: Path) -> Path:
    compiled, linked = folder / "compiled.o", folder / "linked.so"
    # Not linked with OpenMP, so that torch's loaded one is used: two would oversubscribe the cores.
    for command in (
        (*_COMPILE, *flags, "-c", str(source), "-o", str(compiled)),
        ("-shared", str(compiled), "-o", str(linked)),
    ):
        subprocess.run((*compiler, *command), check=True, capture_output=True, text=True)
    return linked
