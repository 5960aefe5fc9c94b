"""The commands of the stages, by the names of these."""

from flows.stages.registry import STAGES

globals().update({name: stage.command for name, stage in STAGES.items()})
