"""infra/compose*.yaml as Docker Compose reads them: files put together, variables put in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

INFRA = Path(__file__).parents[2] / "infra"
# ${NAME}, ${NAME:-default}, ${NAME:?message}; $$ is a dollar sign.
VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::([-?])([^}]*))?\}")


def load(*names: str) -> dict[str, Any]:
    """Return compose files put together: mappings are merged, everything else is replaced."""
    merged: dict[str, Any] = {}
    for name in names:
        merged = _merge(merged, yaml.safe_load((INFRA / name).read_text()))
    return merged


def put_in(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its variables put in; raise ValueError for one that must be set."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if match[0] == "$$":
            return "$"
        if not values.get(name) and kind == "?":
            raise ValueError(f"{name}: {rest}")
        return values.get(name) or (rest if kind == "-" else "")

    return VARIABLE.sub(value, text)


def put_in_all(node: Any, values: Mapping[str, str]) -> Any:
    """Return a part of a compose file with the variables of all its texts put in.

    A name without a value is passed on if it is set, and absent otherwise.
    """
    if isinstance(node, Mapping):
        given = {k: values.get(k) if v is None else v for k, v in node.items()}
        return {k: put_in_all(v, values) for k, v in given.items() if v is not None}
    if isinstance(node, list):
        return [put_in_all(each, values) for each in node]
    return put_in(node, values) if isinstance(node, str) else node


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{k: _merge(below.get(k), v) for k, v in above.items()}}
    return above
