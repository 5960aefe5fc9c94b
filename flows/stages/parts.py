"""Parameters of parts of a stage, and of the flow that splits stages into parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator

from flows.stages.export import ExportOptions, ExportParams
from flows.stages.params import SampleParams


@dataclass(frozen=True, kw_only=True)
class ShardsParams:
    """Some shards of a samples artifact, from start up to stop; none published."""

    sample: SampleParams
    start: int = 0
    stop: int = 0


@dataclass(frozen=True, kw_only=True)
class ExportPartParams:
    """One of several parts of an export's files; none published."""

    export: ExportParams
    part: int = 0
    parts: int = 1


def _without_the_drawings(export: Any) -> Any:
    """Leave out what schedules made by earlier versions say of the drawings to export."""
    if not isinstance(export, Mapping):
        return export
    return {name: value for name, value in export.items() if name not in ("ref", "name", "store")}


@dataclass(frozen=True, kw_only=True)
class BulkParams:
    """Draw many drawings and export them.

    tasks     most ranges of shards to draw, and parts of the export to write, at once
    export    formats and gate; what is exported, and under which name, are the samples drawn
    """

    sample: SampleParams = field(default_factory=SampleParams)
    tasks: int = 2
    export: Annotated[ExportOptions, BeforeValidator(_without_the_drawings)] = field(
        default_factory=ExportOptions
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a number of tasks that draws nothing."""
        if self.tasks < 1:
            raise ValueError(f"tasks must be 1 or more, found {self.tasks}")
