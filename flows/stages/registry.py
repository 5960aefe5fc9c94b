"""The stages by name: one entry each serves the command line, child processes and deployed flows."""

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

_MODULES = (
    *(chain, build, train, evaluate, sample, report, quota, reproduce, complete, classifier),
    *(score, export),
)
# Those that have a command.
STAGES = {module.STAGE.name: module.STAGE for module in _MODULES}
_PARTS = (sample.RANGES, sample.SHARDS, export.AUDIT, export.PART)
DEPLOYED = {stage.name: stage for stage in (*STAGES.values(), *_PARTS) if stage.place}
