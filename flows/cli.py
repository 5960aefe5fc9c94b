"""From a list of classes to a dataset, a trained PixelCNN++ and new labelled drawings.

The command line `sketchmill`. A sub-command's module is imported only when it is called. Exit
codes: 0 success, 1 failure, 2 bad usage or bad input, 130 after Ctrl-C, 143 after SIGTERM, 141
(silently) after SIGPIPE. Errors are one line on stderr; `--debug` shows the traceback.

Slow imports come after the signal handlers are installed, so that Ctrl-C works at any moment.
"""

import os
import signal
import sys
from types import FrameType

from flows.help import COMMANDS, OPTIONS

READER_GONE = 128 + signal.SIGPIPE
_STOPPED = "stopped; the same command goes on"
_STDOUT, _STDERR = 1, 2
# Raised by obstore if it cannot start a thread.
_PANIC = "PanicException"

# Commands other than stages -> module.
_MODULES = dict.fromkeys(("ls", "show", "verify", "lineage", "diff"), "artifacts")
_MODULES |= dict.fromkeys(("gc", "pin", "unpin", "pull", "push"), "retention")
_MODULES |= dict.fromkeys(("deploy", "serve"), "deployments")
_MODULES |= {name: name for name in ("classes", "sources", "inspect", "doctor")}
# Hidden aliases of commands, and of options by command.
FORMER_COMMANDS = {"judge": "classifier"}
FORMER_OPTIONS = {
    "sample": {"--per-class": "--samples-per-class"},
    "quota": {"--per-class": "--samples-per-class", "--judge": "--classifier"},
    "report": {"--judge": "--classifier"},
    "export": {"--judge": "--classifier", "--rows-per-file": "--rows-per-shard"},
    "complete": {"--from": "--dataset"},
}


def make_app():
    """Return the command line; no sub-command's module is imported yet."""
    from cyclopts import App, CycloptsPanel, Group, Parameter

    from flows.config import from_environment, from_file
    from flows.options import FIRST, converted, shown_default
    from pipelines.store.printable import shown
    from pipelines.store.versions import own_version

    app = App(
        name="sketchmill",
        help=__doc__.splitlines()[0],
        help_epilogue="`sketchmill COMMAND --help` shows a command's options, with examples.",
        # Asked when it is printed. Cyclopts' own default is that of a distribution named `flows`.
        version=own_version,
        version_flags=["--version"],
        config=(from_file, from_environment),
        group_parameters=FIRST,
        default_parameter=Parameter(converter=converted, show_default=shown_default),
        error_formatter=lambda error: CycloptsPanel(shown(str(error))),
    )
    groups = dict.fromkeys(each.group for each in COMMANDS.values())
    panels = {name: Group(name, sort_key=key) for key, name in enumerate((*groups, OPTIONS))}
    for key, (name, command) in enumerate(COMMANDS.items()):
        app.command(
            f"flows.commands.{_MODULES.get(name, 'stages')}:{name}",
            name=name,
            help=command.text,
            help_epilogue=command.epilogue,
            group=panels[command.group],
            sort_key=key,
        )
    app.register_install_completion_command(
        help="Install completion of commands and options for your shell.", group=panels[OPTIONS]
    )
    for flag in ("--help", "--version"):
        app[flag].group = panels[OPTIONS]
    return app


def main(argv: list[str] | None = None) -> None:
    """Run the command line below two guards and exit with its code.

    Exits within ten seconds of SIGINT or SIGTERM, cleanly if possible, and leaves no process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    from pipelines.processes import guard

    code = 128 + signal.SIGINT
    try:
        guard.stand_before_work(_stop, _STOPPED)
        code = run_command_line(sys.argv[1:] if argv is None else argv)
    except _Stop:
        pass
    finally:
        if _Stop.is_told:
            os._exit(code)  # not waiting for threads of Beam, nor for Prefect to send its events
    sys.exit(code)


def run_command_line(argv: list[str]) -> int:
    """Run one command; return the exit code instead of leaving the process."""
    import logging

    from cyclopts import CycloptsError

    from flows.options import Output
    from flows.terminal import ShownFormatter, displaying

    debug, argv = "--debug" in argv, with_present_names(argv)
    name = next(iter(argv), "sketchmill")
    is_quiet = any(each.partition("=")[0] == "--quiet" for each in argv)
    if logging.lastResort is not None:  # of commands that set up no log
        logging.lastResort.setFormatter(ShownFormatter())
    try:
        with displaying(name, quiet=is_quiet):  # before the slow import of the command's module
            command, given, _ = make_app().parse_args(argv, exit_on_error=False)
        # Which a config file or the environment may also set.
        output = next((x for x in given.arguments.values() if isinstance(x, Output)), Output())
        debug = debug or output.debug
        with displaying(name, quiet=output.quiet):
            command(*given.args, **given.kwargs)
            sys.stdout.flush()
    except CycloptsError:
        return 2  # cyclopts has printed what was wrong
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)  # noqa: T201
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return READER_GONE
        return _explain(error, debug=debug)
    except BaseException as error:  # a panic of obstore's is no Exception
        if type(error).__name__ != _PANIC:
            raise
        return _explain(error, debug=debug)
    return 0


def with_present_names(argv: list[str]) -> list[str]:
    """Return arguments with the present names in place of former ones.

    >>> with_present_names(["sample", "--per-class=2"]), with_present_names(["judge", "--json"])
    (['sample', '--samples-per-class=2'], ['classifier', '--json'])
    """
    if not argv:
        return []
    command = FORMER_COMMANDS.get(argv[0], argv[0])
    present = FORMER_OPTIONS.get(command, {})
    options = (each.partition("=") for each in argv[1:])
    return [command, *(present.get(name, name) + is_ + value for name, is_, value in options)]


class _Stop(KeyboardInterrupt):
    """Ends the work as Ctrl-C does."""

    is_told = False


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Raise in the main thread so that ranks can save; mute stderr, since the guard reports."""
    if not _Stop.is_told:
        _Stop.is_told = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)
        raise _Stop


def _is_output_closed() -> bool:
    """Return whether the reader of stdout (head, less) is gone; discard further output if so."""
    import select

    watch = select.poll()
    watch.register(_STDOUT, 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDOUT)
    os.close(nowhere)
    return True


def _explain(error: BaseException, *, debug: bool) -> int:
    """Print an error as one line; return 2 for input errors, 1 for failures."""
    from pipelines.store.backends import one_line
    from pipelines.store.errors import INPUT_ERRORS, FullError, what_lacks
    from pipelines.store.printable import shown_trace

    if debug:
        print(shown_trace(error), file=sys.stderr)  # noqa: T201
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        error = FullError(f"{error.strerror}, for they are full: let TMPDIR name one that is not")
    lacking = what_lacks(error)
    is_input = bool(lacking) or isinstance(error, INPUT_ERRORS)
    text = lacking or one_line(error) or type(error).__name__
    hint = "" if is_input else " (--debug shows where)"
    print(f"sketchmill: {text}{hint}", file=sys.stderr)  # noqa: T201
    return 2 if is_input else 1
