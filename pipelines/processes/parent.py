"""Run a module in a process that ends with its parent (Linux only; elsewhere it has no effect).

    python -m pipelines.processes.parent MODULE ARGUMENTS     runs MODULE.main(ARGUMENTS)

torchrun puts ranks into sessions of their own, so that no signal to a process group reaches
them; the kernel's signal does. It must be asked for before torch is imported, which takes
seconds in which a parent may die unnoticed. A parent names itself in SKETCHMILL_PARENT_PID, so
that a child that starts too late for the signal can tell.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from pipelines.processes.guard import end_with_parent

PARENT_PID = "SKETCHMILL_PARENT_PID"
# The exit code of an agent whose flags cannot be.
BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Tie this process to its parent, then import a module and run its `main`."""
    # Read first: without the variable, the parent is the one that is alive now.
    parent_pid = int(os.environ.pop(PARENT_PID, os.getppid()))
    end_with_parent(parent_pid)
    module, *rest = sys.argv[1:] if arguments is None else arguments
    return importlib.import_module(module).main(rest)


if __name__ == "__main__":
    sys.exit(main())
