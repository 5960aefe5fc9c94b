"""The stages by name: one entry each serves the chain, child processes and deployed flows."""

from flows.stages.audit import audit
from flows.stages.base import Stage
from flows.stages.build import BuildParams, build
from flows.stages.export import ExportParams, export
from flows.stages.report import ReportParams, report
from flows.stages.sample import SampleParams, sample
from flows.stages.train import TrainParams, train

STAGES = {
    stage.name: stage
    for stage in (
        Stage("build", "Make a dataset of the chosen classes.", BuildParams, build),
        Stage("train", "Train a conditional PixelCNN++ on a dataset.", TrainParams, train),
        Stage("sample", "Draw new labelled drawings from a model.", SampleParams, sample),
        Stage("report", "Show real above generated drawings in one page.", ReportParams, report),
        Stage("audit", "Audit samples, check a gate and show both.", ExportParams, audit),
        Stage("export", "Write drawings in the formats of other tools.", ExportParams, export),
    )
}
# In this order; each takes the digest of the one before.
CHAIN = ("build", "train", "sample", "report")
