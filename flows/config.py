"""Options from config files and environment variables, and the config that repeats a run.

A config file is TOML. A key is a long option without its dashes, at the top or in the table of
its command, so that one file may serve several commands:

    store = "s3://bucket/drawings"

    [build]
    source = "quickdraw"
    classes = ["bee", "sea turtle"]

In the environment `SKETCHMILL_BUILD_SOURCE` is --source of `build`, and `SKETCHMILL_STORE` is
--store of every command that has no variable of its own; empty means not set. A flag wins over
the file, the file over the environment.
"""

import csv
import dataclasses
import difflib
import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from cyclopts import App, ArgumentCollection, Group, Parameter, Token
from cyclopts.argument import Argument
from cyclopts.config import Dict, Env

from flows.help import COMMANDS
from flows.options import HOW
from pipelines.sources.kinds import NAMED
from pipelines.store.printable import printable

PREFIX = "SKETCHMILL_"
# Options whose variable needs no command.
SHARED = ("--store", "--cluster", "--json", "--quiet", "--debug")
# Of a config beside a manifest, after the name of its command.
SUFFIX = ".toml"
# Options that name a local file or folder; a URL and the name of a source stay as they are.
_LOCAL = frozenset({"source", "counts", "filters", "gate"})
# Says where an export is written; a config is to be run elsewhere.
_PLACES = frozenset({"out"})
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set the options that were not given from the file that --config names.

    Raises ValueError for a key that is no option of the command, or a value of another type.
    """
    asked = _option("config", arguments)
    if asked is None or not asked.tokens or not asked.tokens[-1].value:
        return
    path, command = Path(asked.tokens[-1].value), commands[0]
    arguments = ArgumentCollection(each for each in arguments if each is not asked)
    named = {}
    for key, value in read_config(path, command).items():
        argument = _option(key, arguments)
        if argument is None:
            raise ValueError(f"{path}: {command} has no option {key!r}{_nearest(key, arguments)}")
        value = joined(value) if key == "classes" and isinstance(value, list) else value
        _check_type(f"{path}: {key}", value, argument.hint)
        if argument.index is None and value != []:
            named[key] = value
        elif not argument.tokens:
            for index, each in enumerate(value if isinstance(value, list) else [value]):
                argument.append(Token(keyword=key, value=str(each), source=str(path), index=index))
    Dict({command: named}, source=str(path))(app, commands, arguments)


def from_environment(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set the options that were given nowhere else from the environment."""
    plain = ArgumentCollection(each for each in arguments if each.index is None)
    shared = ArgumentCollection(each for each in plain if each.name in SHARED)
    for env, those in ((Env(PREFIX), plain), (Env(PREFIX, command=False), shared)):
        env(app, commands, those)
        for argument in those:
            # cyclopts takes SKETCHMILL_BUILD_NO_X=1 for --x.
            name = "_" + _key(argument).upper().replace("-", "_")
            argument.tokens[:] = [
                token
                for token in argument.tokens
                if token.source != env.source or (token.value and _is_named(token, name, commands))
            ]


def _is_named(token: Token, name: str, commands: tuple[str, ...]) -> bool:
    """Whether a variable is an option's, not another one that begins or ends so."""
    stem = PREFIX.rstrip("_")
    return token.keyword in (stem + name, f"{stem}_{commands[0].upper()}{name}")


def read_config(path: Path, command: str) -> dict[str, Any]:
    """Return the options that a file has for a command.

    Raises ValueError if it is no TOML, or only has options of other commands.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    tables = {key: value for key, value in raw.items() if isinstance(value, dict)}
    if unknown := [key for key in tables if key not in COMMANDS]:
        raise ValueError(
            f"{path}: [{unknown[0]}] is no command: a table is named for one, as [run]"
        )
    shared = {key: value for key, value in raw.items() if key not in tables}
    if tables and not shared and command not in tables:
        found = ", ".join(tables)
        raise ValueError(f"{path} has options of {found} only: add a table [{command}]")
    return shared | tables.get(command, {})


def config_text(command: str, params: Any, pinned: Mapping[str, str]) -> str:
    """Return the config with which a command makes again what these parameters made.

    Options that do not decide what is made are left out, the store among them, defaults are not:
    a later version may have others. A path that is not UTF-8 cannot stand in TOML; a comment asks
    for it. pinned: values by field in place of those in `params`, such as the digest behind a name.
    """
    lines = [
        f"# What sketchmill {command} made this of. To make it again in a store DIR:",
        f"#   sketchmill {command} --config {command}{SUFFIX} --store DIR",
        f"[{command}]",
    ]
    hints = get_type_hints(type(params), include_extras=True)
    for field in dataclasses.fields(params):
        option = Parameter.combine(*_parameters(hints[field.name]))
        value = pinned.get(field.name, getattr(params, field.name))
        # What combine returns is settled: a tuple of groups, and one of names.
        is_how = HOW & set(cast("tuple[Group, ...]", option.group)) or field.name in _PLACES
        if not is_how and value not in ("", None, ()):
            names = cast("tuple[str, ...]", option.name) or (field.name.replace("_", "-"),)
            name, text = names[0].lstrip("-"), _toml(field.name, value)
            is_utf8 = text.encode(errors="ignore").decode() == text
            left_out = f"# --{name} is left out: it is not UTF-8, as a TOML file must be"
            lines.append(f"{name} = {text}" if is_utf8 else left_out)
    return "\n".join(lines) + "\n"


def _parameters(hint: Any) -> list[Parameter]:
    return [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Parameter)]


def _toml(name: str, value: Any) -> str:
    """Return a value as TOML, which writes a text and a list of texts as JSON does.

    But for one character. A source is written as it may be printed, and found from anywhere.
    """
    if name == "splits" and value and not isinstance(value[0], str):
        value = ",".join(f"{split}={part!r}" for split, part in value)
    if name in _LOCAL and value not in NAMED:
        is_url = "://" in value
        value = printable(value) if is_url else str(Path(value).expanduser().absolute())
    if isinstance(value, tuple):
        return f"[{', '.join(_toml('', each) for each in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def joined(names: Sequence[str]) -> str:
    """Return class names as one text that --classes reads.

    >>> joined(["bee", "bread, white"])
    'bee,"bread, white"'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def _option(key: str, arguments: ArgumentCollection) -> Argument | None:
    """Return the option of a key, or the argument that is taken by position."""
    return next((each for each in arguments if _key(each) == key), None)


def _key(argument: Argument) -> str:
    return argument.name.lower() if argument.index is not None else argument.name[2:]


def _nearest(key: str, arguments: ArgumentCollection) -> str:
    found = difflib.get_close_matches(key, [_key(each) for each in arguments], 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _check_type(where: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless a TOML value is of an option's type; what it may be is checked later."""
    if get_origin(hint) is tuple and isinstance(value, list):
        for each in value:
            _check_type(where, each, str)
        return
    kinds = {hint, *get_args(hint)} & {bool, int, float}
    expected = kinds.pop() if kinds and get_origin(hint) is not tuple else str
    fitting = (int, float) if expected is float else expected
    if not isinstance(value, fitting) or (expected is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} = {value!r}: expected {_EXPECTED[expected]}")
