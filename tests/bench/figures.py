"""Figures of benchmarks: one JSON object a line, with the hardware they were taken on."""

import json
import os
import platform
from pathlib import Path


def hardware() -> str:
    """Return the processor's name and the number of cores this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def print_figure(
    name: str,
    value: float,
    unit: str,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    ratio: float | None = None,
    on: str | None = None,
) -> None:
    """Print one figure; `ratio` says how many times better than the peer ours is.

    on: the hardware, where the processor is not what was measured
    """
    figure = {
        "name": name,
        "value": round(value, 6),
        "unit": unit,
        "peer": peer,
        "peer_value": None if peer_value is None else round(peer_value, 6),
        "ratio": None if ratio is None else round(ratio, 4),
        "hardware": on or hardware(),
    }
    print(json.dumps(figure), flush=True)
