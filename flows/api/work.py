"""Stages in Python: what the commands do, with their parameters as keywords."""

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.store.manifest import Manifest


def run_stage(stage: str, /, *, quiet: bool = False, **params: Any) -> Manifest | Mapping[str, Any]:
    """Do what a command does, and return the manifest of what it made or found in the store.

    stage   run, build, train, sample, report, classifier, complete, evaluate, export, quota,
            reproduce or score
    quiet   show no progress on stderr
    params  the fields of the stage's parameters (flows.stages): those of BuildParams for "build";
            classes=["bee", "sun"] is a list. The option --samples-per-class is per_class there

    Stages that only measure return what their command prints with --json, and so does "run".
    Raises ValueError for an unknown stage or parameter and for a value of another type, and what
    the command would end with.
    """
    from flows.stages.registry import STAGES
    from flows.terminal import displaying, quiet_prefect

    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}{_hint(stage, STAGES)}")
    given = _checked_params(stage, STAGES[stage].params, params)
    if stage == "run":
        quiet_prefect()
    with displaying(stage, quiet=quiet):
        return STAGES[stage].run(given)


def _checked_params(stage: str, kind: type, params: Mapping[str, Any]) -> Any:
    """Return a stage's parameters; raise ValueError for an unknown one or a value of another type.

    >>> from flows.stages.build import BuildParams
    >>> _checked_params("build", BuildParams, {"classes": ["bee"]}).classes
    ('bee',)
    >>> _checked_params("build", BuildParams, {"clases": ["bee"]})
    Traceback (most recent call last):
    ...
    ValueError: build has no parameter 'clases'; did you mean 'classes'?
    """
    from pydantic import TypeAdapter, ValidationError

    from pipelines.sources.files import without_secrets
    from pipelines.store.printable import shown

    known = [each.name for each in dataclasses.fields(kind)]
    for name in params:
        if name not in known:
            raise ValueError(f"{stage} has no parameter {name!r}{_hint(name, known)}")
    plain = {k: os.fspath(v) if isinstance(v, Path) else v for k, v in params.items()}
    try:
        given = TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        name, wanted = first["loc"][0], first["msg"].replace("a valid tuple", "a list")
        raise ValueError(f"{stage}: {name}: {wanted}, found {shown(str(first['input']))}") from None
    if "source" in known:  # which the chain shows to Prefect
        given = dataclasses.replace(given, source=without_secrets(given.source))
    return given


def _hint(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f": there are {', '.join(known)}"
