"""Failures that say whether the same again can help; wrong input is a ValueError."""


class BusyError(RuntimeError):
    """Another process is at work on the same thing: the same again later may do."""


class FinalError(RuntimeError):
    """The input was right, and the same again would end the same."""
