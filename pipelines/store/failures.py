"""Serialize failures as JSON, from the process where they occur to the process that waits.

    {"kind": "BadFileError", "text": "bee.npy: ...", "trace": "Traceback ..."}

Beam workers, ranks, sampling processes and the stages of deployed flows report failures in this
form. The kind is looked up in a fixed table; no code is transferred. The same bad input therefore
raises the same error with one process and with many. The trace becomes a note, for --debug.
"""

import json

from pipelines.store.backends import one_line
from pipelines.store.errors import (
    INPUT_ERRORS,
    BadFileError,
    FinalError,
    LackError,
    StoreError,
    what_lacks,
)
from pipelines.store.printable import shown_trace
from pipelines.store.scratch import ScratchError

# The most specific kind first.
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(BadFileError, LackError, ScratchError, StoreError, FinalError),
        *reversed(INPUT_ERRORS),
    )
}


def failure_to_json(error: Exception, *, where: str = "") -> str:
    """Return the failure as a JSON object; `where` is prepended to its trace."""
    lacking = what_lacks(error)
    kind = LackError if lacking else type(error)
    failure = {
        "kind": next((name for name, known in _KINDS.items() if issubclass(kind, known)), ""),
        "text": lacking or one_line(error) or type(error).__name__,
        "trace": where + shown_trace(error),
    }
    return json.dumps(failure)


def failure_from_json(text: str, other: type[Exception]) -> Exception:
    """Return the failure: bad input and FinalError as their own types, all else as `other`."""
    failure = json.loads(text)
    error = _KINDS.get(failure["kind"], other)(failure["text"])
    error.add_note(failure["trace"])
    return error
