"""The installed command, run with a limit on its memory; its peak is measured."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
# More than a test takes that holds, less than the machine has.
MOST_BYTES = 6 * GIB
# The peak of a process counts what its parent had: this one has next to nothing.
_MEASURED = f"""
import os, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_AS, ({MOST_BYTES}, {MOST_BYTES}))
ran = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(ran.pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss * 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command did; `peak` is the resident memory, in bytes, of its largest process."""

    code: int
    output: str
    errors: str
    peak: int


def run_measured(folder: Path, aside: Path, *arguments: str | Path) -> Ran:
    """Run `sketchmill` in `folder`; its cache, and what measures it, lie in `aside`."""
    measured = [sys.executable, "-c", _MEASURED, str(aside / "peak")]
    program = str(Path(sys.executable).with_name("sketchmill"))
    # OpenBLAS takes memory for each core.
    environment = {"SKETCHMILL_CACHE": str(aside / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*measured, program, *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    peak = int((aside / "peak").read_text())
    return Ran(code=done.returncode, output=done.stdout, errors=done.stderr, peak=peak)
