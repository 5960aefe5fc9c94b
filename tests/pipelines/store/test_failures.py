"""A failure is the same error in the process that waits for it."""

import json

import pytest

from pipelines.store.errors import (
    AbsentError,
    BadFileError,
    FinalError,
    LackError,
    StoreError,
)
from pipelines.store.failures import failure_from_json, failure_to_json
from pipelines.store.scratch import ScratchError


class OtherError(RuntimeError):
    """What this process calls a failure that is neither bad input nor final."""


class ClosedError(FinalError):
    """As a gate's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadFileError("x"), BadFileError),
        (ScratchError("x"), ScratchError),
        (AbsentError("x"), StoreError),
        (ValueError("x"), ValueError),
        (FileNotFoundError("x"), FileNotFoundError),
        (PermissionError("x"), PermissionError),
        (ClosedError("x"), FinalError),
        (RuntimeError("x"), OtherError),
        (OSError("x"), OtherError),
    ],
)
def test_bad_input_and_what_is_final_keep_their_kind(error, kind):
    found = failure_from_json(failure_to_json(error), OtherError)
    assert (type(found), str(found)) == (kind, "x")


def test_a_machine_that_lacks_memory_is_said_to():
    found = failure_from_json(failure_to_json(MemoryError()), OtherError)
    assert type(found) is LackError
    assert "memory ran out" in str(found)


def test_where_it_happened_is_a_note():
    try:
        raise KeyError
    except KeyError as error:
        text = failure_to_json(error, where="rank 3:\n")
    found = failure_from_json(text, OtherError)
    assert str(found) == "KeyError"
    assert found.__notes__[0].startswith("rank 3:\nTraceback")


def test_a_kind_that_is_not_in_the_table_is_not_looked_up():
    text = json.dumps({"kind": "SystemExit", "text": "x", "trace": ""})
    assert type(failure_from_json(text, OtherError)) is OtherError
