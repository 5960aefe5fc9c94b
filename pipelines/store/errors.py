"""Exception types by whether a retry can succeed; invalid input is one of INPUT_ERRORS."""

import contextlib
import errno
from collections.abc import Iterator
from importlib.util import find_spec

# Invalid requests: a value, or a file or folder that it names.
INPUT_ERRORS = (
    ValueError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

# A bug in the program: a retry cannot help.
MISTAKES = (LookupError, TypeError, AttributeError, AssertionError)


class BusyError(RuntimeError):
    """Another process works on the same object; a later retry may succeed."""


class EngineError(RuntimeError):
    """An engine did not do the work, or lost some of it; the same command makes what is missing."""


class FullError(OSError):
    """A disk is full; a retry succeeds once space is free."""


class FinalError(RuntimeError):
    """The input was valid, but a retry would fail in the same way."""


# Module -> the extra of this package that installs it.
EXTRA_OF = {
    **dict.fromkeys(("apache_beam", "cairocffi"), "build"),
    **dict.fromkeys(("torch", "safetensors", "jaxtyping"), "train"),
    **dict.fromkeys(("tensorboard", "torchmetrics"), "train"),
    **dict.fromkeys(("matplotlib", "jinja2"), "report"),
    **dict.fromkeys(("prefect", "fastapi", "sqlalchemy", "asyncpg", "cronsim"), "flows"),
    **dict.fromkeys(("httpx", "yaml"), "flows"),
    **dict.fromkeys(("dask", "distributed"), "dask"),
    **dict.fromkeys(("tensorflow", "tensorflow_datasets"), "tfds"),
    "huggingface_hub": "hub",
}

# A retry cannot help.
FINAL_ERRORS = (*INPUT_ERRORS, *MISTAKES, FinalError)


class BadFileError(ValueError):
    """A file does not have the content that its name implies; the message says what to do."""


class LackError(ValueError):
    """This machine lacks memory, threads or a library; no input file is at fault or skipped."""


@contextlib.contextmanager
def reading(where: str, what: str = "drawings") -> Iterator[None]:
    """Convert errors of reading a file into errors that name it; all readers use this.

    where  the file, and perhaps the row
    what   it should hold

    A parser may raise any exception on a damaged file: it becomes the cause of a BadFileError.
    Missing memory, threads or libraries become a LackError. Errors of the operating system and of
    servers pass unchanged.
    """
    try:
        yield
    except (BadFileError, LackError):
        raise
    except ImportError as error:
        said = what_lacks(error) or f"it needs a library that is not here: {error}: install it"
        raise LackError(f"{where} cannot be read: {said}") from error
    except Exception as error:
        if lacking := what_lacks(error):
            raise LackError(f"{where} cannot be read: {lacking}") from error
        # Arrow raises plain OSError without errno for invalid file content.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            error.filename = error.filename or (where if error.errno else None)
            raise
        raise BadFileError(
            f"{where} cannot be read as {what}: {_said(error)}: it is damaged, or was written in a "
            "way that is not known here: fetch or write it again"
        ) from error


def what_lacks(error: BaseException) -> str:
    """Return what a process lacks, and what to do; "" for any other error.

    >>> what_lacks(ValueError("no")), what_lacks(MemoryError())[:15]
    ('', 'memory ran out:')
    """
    if isinstance(error, LackError):
        return ""
    number, said = getattr(error, "errno", None), str(error)
    if isinstance(error, ModuleNotFoundError):
        return missing_extras(*(error.name or "").split(".")[:1])
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


def missing_extras(*modules: str) -> str:
    """Return how to install those of some modules that are absent; "" if none of ours is.

    >>> missing_extras("json", "os")
    ''
    """
    absent = [name for name in modules if name in EXTRA_OF and not find_spec(name)]
    extras = ",".join(dict.fromkeys(EXTRA_OF[name] for name in absent))
    return f"this needs {', '.join(absent)}: pip install 'sketchmill[{extras}]'" if absent else ""


def _said(error: Exception) -> str:
    """Return the first line of a parser's message; for a missing key that is the key."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    line = next(iter(str(error).splitlines()), "").strip().rstrip(".:")
    if isinstance(error, ValueError):
        return line or "no more is known"
    return f"{line} ({type(error).__name__})" if line else type(error).__name__


# Messages of Python and Rust about threads, and of the dynamic loader about memory.
_NO_THREAD = ("can't start new thread", "can't spawn worker thread")
_NO_MAP = "failed to map segment"


class StoreError(ValueError):
    """The store or a name in it is invalid; the message says what to do."""


class AbsentError(StoreError):
    """The store has no artifact that matches the request."""


class ReadOnlyError(StoreError):
    """A write was attempted on a read-only store."""
