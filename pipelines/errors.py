"""Failures by whether a retry can help; wrong input is one of INPUT_ERRORS."""

import errno

# What was asked for cannot be: a value, or a file or folder that is named in it.
INPUT_ERRORS = (
    ValueError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class BusyError(RuntimeError):
    """Another process is at work on the same thing: the same again later may do."""


class FullError(OSError):
    """A disk is full: the same again does once there is room."""


class FinalError(RuntimeError):
    """The input was right, and the same again would end the same."""


class LackError(ValueError):
    """This machine lacks memory, threads or a library: no file is to blame, and none left out."""


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
    if number == errno.EAGAIN or _NO_THREAD in said:
        return (
            "no more threads or processes may be started here: raise the limit (ulimit -u, the "
            "container's pids), give this process more memory (ulimit -v), or take fewer workers"
        )
    return ""


# What Python says of threads, and the loader of libraries of memory.
_NO_THREAD, _NO_MAP = "can't start new thread", "failed to map segment"
