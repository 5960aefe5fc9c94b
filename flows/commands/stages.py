"""The commands of all stages, by name."""

from flows.stages.registry import STAGES

globals().update({name: stage.command for name, stage in STAGES.items()})
