"""Stages by name, for the command line, child processes and deployed flows."""

from flows.stages import (
    build,
    chain,
    classifier,
    complete,
    evaluate,
    export,
    quota,
    report,
    reproduce,
    sample,
    score,
    train,
)

_CHAIN = (chain, build, train, sample, report)
_OTHERS = (classifier, complete, evaluate, export, quota, reproduce, score)
# Those that have a command.
STAGES = {module.STAGE.name: module.STAGE for module in (*_CHAIN, *_OTHERS)}
_PARTS = (sample.RANGES, sample.SHARDS, export.AUDIT, export.PART)
DEPLOYED = {stage.name: stage for stage in (*STAGES.values(), *_PARTS) if stage.place}
