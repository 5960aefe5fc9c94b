"""Options that every sub-command takes."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

# Numbers that count something; 0 mostly means what suits.
NotNegative = Annotated[int, Parameter(validator=Number(gte=0))]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]

DEFAULT_STORE = "./store"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Where things are kept and how the command speaks.

    store: directory, s3://, gs:// or memory:// URL of the artifact store
    json: print one JSON object as the last line of standard output
    quiet: no progress
    dry_run: print what would be done, then stop
    debug: show tracebacks and the libraries' logs
    """

    store: Annotated[str, Parameter(help="Artifact store: a directory or an object-store URL.")] = (
        DEFAULT_STORE
    )
    json: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Print one JSON object on the last line of stdout.",
        ),
    ] = False
    quiet: Annotated[bool, Parameter(negative=(), show_default=False, help="Show no progress.")] = (
        False
    )
    dry_run: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Print the resolved spec and the plan, then stop."
        ),
    ] = False
    debug: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Show tracebacks and logs.")
    ] = False
