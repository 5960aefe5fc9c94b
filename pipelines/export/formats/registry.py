"""Export formats by name, each imported on first use."""

import functools
import importlib

from pipelines.export.formats.base import Format
from pipelines.export.spec import FORMATS


@functools.cache
def export_format(name: str) -> Format:
    """Return the format of a name, one of pipelines.export.spec.FORMATS."""
    module, _, made = FORMATS[name].partition(":")
    return getattr(importlib.import_module(f"pipelines.export.formats.{module}"), made)()
