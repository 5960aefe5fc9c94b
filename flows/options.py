"""Options shared by several commands, and the types of options with a syntax of their own.

A stage's parameters are its options: one frozen dataclass, whose docstring is the help. Types
here say how a field that is no plain value is written on the command line.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from cyclopts import Group, Parameter, Token, convert
from cyclopts.validators import Number

from pipelines.catalogue import SEED_CLASSES, class_lines, read_classes_file, split_names
from pipelines.dataset.spec import parse_splits
from pipelines.sources.kinds import NAMED, source_help

DEFAULT_STORE = "./store"
# Panels of the help, in this order.
FIRST = Group("Parameters", sort_key=0)
DATA = Group("Data", sort_key=1)
FILES = Group("Files of the dataset", sort_key=2)
INPUT = Group("Bad input and license", sort_key=3)
LIMITS = Group("Limits of the input", sort_key=4)
TRAINING = Group("Training", sort_key=5)
SAMPLING = Group("Sampling", sort_key=6)
AUDIT = Group("Audit", sort_key=7)
WORK = Group("Running", help="How the work is done, not what is made.", sort_key=8)
TORCHRUN = Group("Several machines, as torchrun takes them", sort_key=9)
COMMON = Group("Common", sort_key=10)
# Panels of options that do not decide what is made: the config that repeats a run has none.
HOW = frozenset({WORK, TORCHRUN, COMMON})
MAIN = Parameter(group=FIRST)
RUNNING = Parameter(group=WORK)
# A field that the command line does not offer or parses elsewhere.
HIDDEN = Parameter(parse=False)

# Counts; 0 usually selects a default.
NotNegative = Annotated[int, Parameter(validator=Number(gte=0))]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]


Kind = TypeVar("Kind", bound=type)


def grouped(panels: Mapping[Group, Sequence[str]]) -> Callable[[Kind], Kind]:
    """Return a decorator that puts fields of a class, its own or inherited, into panels."""

    def decorate(kind: Kind) -> Kind:
        hints = get_type_hints(kind, include_extras=True)
        for group, names in panels.items():
            for name in names:
                kind.__annotations__[name] = Annotated[hints[name], Parameter(group=group)]
        return kind

    return decorate


def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    return tuple(field.name for field in dataclasses.fields(kind))


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated option.

    >>> listed("hf, png,")
    ('hf', 'png')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def shown_default(value: object) -> str | None:
    """Return how --help shows a default: nothing for a flag, or for what means "not given".

    >>> shown_default(28), shown_default(()), shown_default(""), shown_default(False)
    ('28', None, None, None)
    """
    return str(value) if value not in ("", (), None) and value is not False else None


def converted(hint: Any, tokens: Sequence[Token]) -> Any:
    """Return the value of an option; raise ValueError for 1.5 where a whole number is expected.

    Cyclopts alone rounds it.
    """
    is_whole = int in {hint, *get_args(hint)}
    if broken := next((each.value for each in tokens if is_whole and "." in each.value), None):
        raise ValueError(f"expected a whole number, not {broken!r}")
    return convert(hint, tokens)


def _written(parse: Callable[[str], Any], show: Callable[[Any], str]) -> Parameter:
    """Return how a tuple is written as one text."""

    def convert(_type: Any, tokens: Sequence[Token]) -> Any:
        return parse(",".join(token.value for token in tokens))

    def show_given(value: Any) -> str | None:
        return show(value) if value else None

    return Parameter(converter=convert, n_tokens=1, negative=(), show_default=show_given)


Listed = Annotated[tuple[str, ...], _written(listed, ",".join), Parameter(metavar="LIST")]


def label_names(text: str) -> tuple[str, ...]:
    """Return names in their order: quoted where they have a comma, or those of @FILE.

    >>> label_names('cat, "salt, pepper"')
    ('cat', 'salt, pepper')
    """
    return class_lines(Path(text[1:])) if text.startswith("@") else split_names(text)


Splits = Annotated[
    tuple[tuple[str, float], ...],
    _written(parse_splits, lambda splits: ",".join(f"{name}={part:g}" for name, part in splits)),
    Parameter(metavar="NAME=PART,..."),
]
LabelNames = Annotated[
    tuple[str, ...], _written(label_names, ",".join), Parameter(metavar="LIST|@FILE")
]
Repeated = Annotated[
    tuple[str, ...], Parameter(allow_leading_hyphen=True, negative=(), metavar="FLAG")
]
CLUSTER_HELP = (
    "Address of a Dask scheduler, e.g. tcp://scheduler:8786, whose workers do the work; all of them "
    "reach the store and the source. Whoever reaches the cluster can run code on it."
)
Cluster = Annotated[str, Parameter(help=CLUSTER_HELP, group=WORK)]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where units of work are done.

    Parameters
    ----------
    beam_args
        Flag passed to Beam unchanged, e.g. --beam=--runner=FlinkRunner; may be repeated.
    """

    cluster: Cluster = ""
    beam_args: Annotated[Repeated, RUNNING, Parameter(name="--beam")] = ()


Settings = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), metavar="FIELD=VALUE")]


Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
ConfigFile = Annotated[
    Path | None, Parameter(env_var="SKETCHMILL_CONFIG", show_env_var=False, negative=())
]


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Options of every command.

    Parameters
    ----------
    config
        TOML file of options, which the command line overrides: long names without dashes, at the
        top or in a table named for the command. An option is also read from the environment, as
        SKETCHMILL_BUILD_SEED is --seed of build, and SKETCHMILL_STORE is --store of all.
    json
        Print one JSON object on the last line of stdout.
    quiet
        Show no progress.
    dry_run
        Print what would be done, then stop.
    debug
        Show tracebacks and logs.
    """

    config: ConfigFile = None
    json: Flag = False
    quiet: Flag = False
    dry_run: Flag = False
    debug: Flag = False


STORE_HELP = "Artifact store: a directory or an object-store URL."


@Parameter(name="*", group=COMMON)
@dataclass(frozen=True, slots=True, kw_only=True)
class Common(Output):
    """Options of every command, and the store that it works on."""

    store: Annotated[str, Parameter(help=STORE_HELP)] = DEFAULT_STORE


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Which classes: a list on the command line, a file, or the twenty of the article."""

    classes: Annotated[
        str | None,
        Parameter(
            help='Class names, e.g. "bee,sea turtle,tfds:308", or all; a name that has a comma '
            "is quoted. By default 20 classes, from bee to tree."
        ),
    ] = None
    classes_file: Annotated[
        Path | None,
        Parameter(
            help='File of class names in place of --classes, one a line, quoted or not; "#" at '
            "the start of a line or between blanks begins a comment."
        ),
    ] = None

    def written(self, default: tuple[str, ...] = SEED_CLASSES) -> tuple[str, ...]:
        """Return the names as written; the source resolves them."""
        if self.classes is not None and self.classes_file is not None:
            raise ValueError("give --classes or --classes-file, not both")
        if self.classes is not None:
            return split_names(self.classes) or (self.classes,)
        return class_lines(self.classes_file) if self.classes_file else default

    def into(self, params: Any) -> Any:
        """Return parameters of these classes, and a source that may be printed."""
        from pipelines.sources.files import without_secrets  # which takes a moment

        source = without_secrets(params.source)
        return dataclasses.replace(params, classes=self.written(), source=source)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClasses(Classes):
    """Which classes of those that a model knows."""

    classes: Annotated[
        str | None,
        Parameter(
            help='Class names, e.g. "bee,sea turtle"; a name that has a comma is quoted. By '
            "default all classes of the model."
        ),
    ] = None

    def into(self, params: Any) -> Any:
        """Return parameters of these classes; the model knows its own."""
        return dataclasses.replace(params, classes=self.written(()))


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceClasses(Classes):
    """Which classes of those that a source has."""

    classes: Annotated[
        str | None,
        Parameter(
            help='Class names, e.g. "bee,sea turtle"; a name that has a comma is quoted. By '
            "default all classes of the source."
        ),
    ] = None


def read_class_list(file: Path, source: str) -> list[str]:
    """Return the names in a file: Google's, or as they are written for a source with its own.

    Raises ValueError for a name that Google's source has not, or if it is no file of text.
    """
    return list(read_classes_file(file) if source in NAMED else class_lines(file))


SourceText = Annotated[str, Parameter(help=f"Source of the drawings: {source_help()}"), MAIN]
StoreUrl = Annotated[str, Parameter(help=STORE_HELP, group=COMMON)]
