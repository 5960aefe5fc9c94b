"""Failures by whether a retry can help; wrong input is one of INPUT_ERRORS."""

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
