"""Fixtures and guards that all tests share."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

from pipelines.processes import progress

# Before any test module imports torch: small tensors lose by threading, and two workers share
# two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A lone rank takes both cores; a thread that waits for another gives its core up, not spins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# TensorFlow's log closes the stream that it found, here pytest's, when Prefect sets up logging;
# the process's own it leaves open.
with contextlib.suppress(ImportError):
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)

# Commands that run in this process say nothing of how long they take: tests compare what they say.
progress.TELL_SEC = float("inf")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names a folder of real data outside this project")
    return Path(value)


@pytest.fixture(scope="session")
def quickdraw_sample() -> Path:
    """Folder of real Quick, Draw! files, good and broken."""
    return _folder("QUICKDRAW_SAMPLE")


@pytest.fixture(scope="session")
def pixelcnn_oracle() -> Path:
    """Folder of TFP models with weights and log-likelihoods."""
    return _folder("PIXELCNN_ORACLE")
