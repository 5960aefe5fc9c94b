"""Errors by whether a retry can help; errors of wrong input are in INPUT_ERRORS."""

import contextlib
import errno
from collections.abc import Iterator

# What was asked for cannot be: a value, or a file or folder that is named in it.
INPUT_ERRORS = (
    ValueError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

# A mistake in the program: trying again cannot help.
MISTAKES = (LookupError, TypeError, AttributeError, AssertionError)


class BusyError(RuntimeError):
    """Another process is at work on the same thing: the same again later may do."""


class FullError(OSError):
    """A disk is full: the same again does once there is room."""


class FinalError(RuntimeError):
    """The input was right, and the same again would end the same."""


# Trying again cannot help.
FINAL_ERRORS = (*INPUT_ERRORS, *MISTAKES, FinalError)


class BadFileError(ValueError):
    """A file is not what its name says; the message says what was found and what to do."""


class LackError(ValueError):
    """This machine lacks memory, threads or a library: no file is to blame, and none left out."""


@contextlib.contextmanager
def reading(where: str, what: str = "drawings") -> Iterator[None]:
    """Make whatever comes of reading a file an error that names it: all reading passes here.

    where  the file, and perhaps the row
    what   it should hold

    A parser raises whatever it stumbles over in a damaged file: that becomes a BadFileError, with
    the parser's own error as its cause. What this machine lacks becomes a LackError. What the
    system or a server says of a file stays what it is.
    """
    try:
        yield
    except (BadFileError, LackError):
        raise
    except ImportError as error:
        raise LackError(f"{where} needs a library that is not here: {error}: install it") from error
    except Exception as error:
        if lacking := what_lacks(error):
            raise LackError(f"{where} cannot be read: {lacking}") from error
        # Arrow's errors of a file's content are plain ones without a number.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            error.filename = error.filename or (where if error.errno else None)
            raise
        raise BadFileError(
            f"{where} cannot be read as {what}: {_said(error)}: it is damaged, or was written in a "
            "way that is not known here: fetch or write it again"
        ) from error


def what_lacks(error: BaseException) -> str:
    """Say what a process has run out of and what to do, "" if the error tells of nothing such.

    >>> what_lacks(ValueError("no")), what_lacks(MemoryError())[:15]
    ('', 'memory ran out:')
    """
    if isinstance(error, LackError):
        return ""
    number, said = getattr(error, "errno", None), str(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _NO_MAP in said:
        return (
            "memory ran out: give this process more (ulimit -v, the container's limit), or close "
            "what else runs here"
        )
    if number == errno.EAGAIN or any(words in said for words in _NO_THREAD):
        return (
            "no more threads or processes may be started here: raise the limit (ulimit -u, the "
            "container's pids), give this process more memory (ulimit -v), or take fewer workers"
        )
    return ""


def _said(error: Exception) -> str:
    """Return what a parser says in its first line; that of a key that is missing is the key."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    line = next(iter(str(error).splitlines()), "").strip().rstrip(".:")
    if isinstance(error, ValueError):
        return line or "no more is known"
    return f"{line} ({type(error).__name__})" if line else type(error).__name__


# What Python and Rust say of threads, and the loader of libraries of memory.
_NO_THREAD = ("can't start new thread", "can't spawn worker thread")
_NO_MAP = "failed to map segment"


class StoreError(ValueError):
    """The store or a name in it is not as it must be; the message says what to do."""


class AbsentError(StoreError):
    """Nothing in the store is what was asked for."""


class ReadOnlyError(StoreError):
    """Something must be written to a store that may only be read."""
