"""What the first rank to fail died of, in a file that the process which started it reads.

One rank's failure is soon every rank's: the others end because they cannot reach it, and may be
quicker to end. So a rank that lost another says nothing, and of the rest the first is heard.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from pipelines.backends import one_line
from pipelines.errors import INPUT_ERRORS, FinalError
from pipelines.printable import shown_trace


@contextlib.contextmanager
def telling_failure(path: Path | None, *, rank: int) -> Iterator[None]:
    """Write what a rank fails of to `path`, unless another has written there; None: nowhere."""
    try:
        yield
    except Exception as error:
        if path is not None and not _is_lost_peer(error):
            _write_first(path, _describe(error, rank))
        raise


def read_failure(path: Path, other: type[Exception]) -> Exception | None:
    """Return what the first rank to fail raised, None if none has told.

    Wrong input is a ValueError, as for who finds it at once, and training that diverges, which
    it does again, a FinalError; all else is of the class `other`.
    Where it happened goes along as a note, for --debug.
    """
    try:
        failure = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    kind = {"ValueError": ValueError, "FinalError": FinalError}.get(failure["kind"], other)
    error = kind(failure["text"])
    error.add_note(f"rank {failure['rank']}:\n{failure['trace']}")
    return error


def _is_lost_peer(error: Exception) -> bool:
    """Return whether another rank did not answer; gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _describe(error: Exception, rank: int) -> str:
    failure = {
        "rank": rank,
        "kind": _kind(error),
        "text": one_line(error) or type(error).__name__,
        "trace": shown_trace(error),
    }
    return json.dumps(failure)


def _kind(error: Exception) -> str:
    if isinstance(error, INPUT_ERRORS):
        return "ValueError"
    return "FinalError" if isinstance(error, ArithmeticError) else ""


def _write_first(path: Path, text: str) -> None:
    """Make a file with this text appear at once, or leave the one that is there."""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    mine.write_text(text)
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links here: then the last is heard
        mine.replace(path)
    mine.unlink(missing_ok=True)
