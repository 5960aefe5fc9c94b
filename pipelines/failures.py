"""A unit's failure on its way through a runner, which hands back text and no exceptions.

    worker: exception -> UnitError("[[sketchmill:<base64 of JSON>]]") -> the runner's traceback
    here:   the runner's message, whatever is around the mark -> the exception to raise

So the same bad input is the same error on every runner and with any number of workers, and the
person reads the failure's own words. Where it happened goes along as a note, for --debug.
"""

import base64
import json
import re

from pipelines.backends import one_line
from pipelines.errors import INPUT_ERRORS, LackError, what_lacks
from pipelines.printable import shown_trace
from pipelines.scratch import ScratchError
from pipelines.sources.base import BadFileError
from pipelines.store import StoreError

_MARK = re.compile(r"\[\[sketchmill:([A-Za-z0-9+/=]+)\]\]")


class WorkError(RuntimeError):
    """A unit failed; the message is the failure's own, without the runner's."""


class UnitError(RuntimeError):
    """Carries a unit's failure as text that no traceback around it can spoil."""


# What a worker may raise for the user's sake, the nearest kind first; all else is a WorkError.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (BadFileError, LackError, ScratchError, StoreError, *reversed(INPUT_ERRORS))
}


def pack_failure(error: Exception) -> UnitError:
    """Return what a worker raises in place of `error`."""
    lacking = what_lacks(error)
    kind = LackError if lacking else type(error)
    kinds = [name for name, known in _KINDS.items() if issubclass(kind, known)]
    failure = {
        "kind": kinds[0] if kinds else WorkError.__name__,
        "text": lacking or one_line(error) or type(error).__name__,
        "trace": shown_trace(error),
    }
    return UnitError(f"[[sketchmill:{base64.b64encode(json.dumps(failure).encode()).decode()}]]")


def unpack_failure(error: Exception) -> Exception | None:
    """Return the failure of a unit that the runner's exception tells of, None if it is another."""
    if (found := _MARK.search(str(error))) is None:
        return None
    failure = json.loads(base64.b64decode(found[1]))
    original = _KINDS.get(failure["kind"], WorkError)(failure["text"])
    original.add_note(failure["trace"])
    return original
