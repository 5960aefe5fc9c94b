"""Parameters of the stages: options of the command line, fields of Prefect's form.

They hold names and choices, never data; each stage resolves them to a spec and a digest. What a
field means stands in its class's docstring, which is the help of the command line.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from flows.options import (
    DEFAULT_STORE,
    HIDDEN,
    MAIN,
    Listed,
    NotNegative,
    Positive,
    Repeated,
    Splits,
)
from pipelines.catalogue import SEED_CLASSES
from pipelines.dataset.spec import DEFAULT_SPLITS, DatasetOptions, InputOptions
from pipelines.drawings.limits import Limits
from pipelines.store.manifest import slug
from pipelines.store.printable import printable

# For "/" and names without a letter.
UNNAMED_SOURCE = "source"

RUNNING = Parameter(group=Group("Running", sort_key=1))
MACHINES = Parameter(group=Group("Several machines, as torchrun takes them", sort_key=2))
StoreUrl = Annotated[
    str, Parameter(help="Artifact store: a directory or an object-store URL."), MAIN
]


@dataclass(frozen=True, kw_only=True)
class BuildParams(Limits, InputOptions, DatasetOptions):
    """Make a dataset of the chosen classes: shards and a manifest.

    classes are names, "tfds:26", or "all" that the source has.

    Parameters
    ----------
    source
        doodles, quickdraw, or a path or URL of files in a Quick, Draw! layout, of Parquet with
        pictures and labels, or of a dataset that TFDS has prepared.
    name
        Name in the store; by default made from the source, so that two directories of one name
        share it (their digests differ, "latest" is the one built last).
    workers
        Processes on this machine; ignored if --beam names a runner.
    beam_args
        A flag for Beam, passed on untouched, e.g. --beam=--runner=FlinkRunner; repeatable.
    """

    source: Annotated[str, MAIN] = "doodles"
    classes: Annotated[tuple[str, ...], HIDDEN] = SEED_CLASSES
    name: Annotated[str, MAIN] = ""
    store: StoreUrl = DEFAULT_STORE
    workers: Annotated[int, MAIN] = 1
    beam_args: Annotated[Repeated, MAIN, Parameter(name="--beam")] = ()
    splits: Splits = DEFAULT_SPLITS
    formats: Annotated[Listed, Parameter(name="--format")] = ("parquet",)
    countries: Listed = ()

    def __post_init__(self) -> None:
        """Name the dataset after its source where it has no name."""
        object.__setattr__(self, "name", self.name or source_name(self.source))


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Train a conditional PixelCNN++ on a dataset of the store.

    An interrupted run goes on from its last checkpoint when it is started again. The fields from
    work_dir on say how a run is carried out; none of them changes what is learned.

    Parameters
    ----------
    dataset
        Name, name@digest, or the first characters of a digest.
    preset
        tiny, small, article or large.
    settings
        A field of the training spec as field=value; may be repeated.
    seed
        Decides initialization, order and dropout.
    name
        Name in the store; made from the dataset and the preset by default.
    processes
        Processes on this machine that share each batch; 0 is what suits its cores.
    compile
        Use torch.compile where it works: minutes to compile, then faster.
    micro_batch_size
        Drawings that a process puts through at a time, to save memory; 0 is at most 16 on a CPU,
        all of its part on a GPU.
    work_dir
        Checkpoints, curve and events; by default beside the store.
    device
        auto is a GPU where there is one.
    checkpoint_interval_sec
        Seconds between checkpoints.
    num_grids
        Pictures of drawings in the whole run; 0 is none.
    nodes
        Number of machines that share each batch, or MIN:MAX: the same command on each, and a store
        that all reach. This and the next five are torchrun's.
    node_rank
        This machine's place, from 0; without it they agree on one themselves.
    rendezvous
        host:port of one of them, where all of them meet.
    rendezvous_id
        Name of the run, the same on all of them.
    rendezvous_conf
        key=value,...: is_host=1 on the meeting place, is_host=0 elsewhere.
    local_address
        This machine's address for the others.
    """

    dataset: Annotated[str, MAIN, Parameter(required=True)] = "doodles"
    preset: Annotated[str, MAIN] = "tiny"
    settings: Annotated[tuple[str, ...], MAIN, Parameter(name="--set", negative=())] = ()
    seed: Annotated[int, MAIN] = 0
    name: Annotated[str, MAIN] = ""
    store: StoreUrl = DEFAULT_STORE
    processes: Annotated[NotNegative, MAIN, Parameter(name="--nproc-per-node")] = 0
    compile: Annotated[bool, MAIN, Parameter(negative=())] = False
    micro_batch_size: Annotated[int, MAIN, Parameter(name="--micro-batch")] = 0
    work_dir: Annotated[str, RUNNING] = ""
    device: Annotated[Literal["auto", "cpu", "cuda"], RUNNING] = "auto"
    checkpoint_interval_sec: Annotated[float, RUNNING, Parameter(name="--checkpoint-interval")] = (
        120.0
    )
    num_grids: Annotated[int, RUNNING, Parameter(name="--grids")] = 4
    nodes: Annotated[str, MACHINES, Parameter(name="--nnodes")] = "1"
    node_rank: Annotated[int | None, MACHINES] = None
    rendezvous: Annotated[str, MACHINES, Parameter(name="--rdzv-endpoint")] = ""
    rendezvous_id: Annotated[str, MACHINES, Parameter(name="--rdzv-id")] = ""
    rendezvous_conf: Annotated[str, MACHINES, Parameter(name="--rdzv-conf")] = ""
    local_address: Annotated[str, MACHINES, Parameter(name="--local-addr")] = ""


@dataclass(frozen=True, kw_only=True)
class SampleParams:
    """Draw new labelled drawings into a dataset of the standard layout.

    No classes means all that the model knows. Started again after an interruption, only missing
    shards are made.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    per_class
        How many drawings of each class.
    counts
        CSV file of class,count in place of --classes and --per-class; a spreadsheet's semicolons
        and tabs will do.
    seed
        Drawing i of class c has noise of its own under a seed: the same drawing from any number of
        processes, but for a pixel that another --batch or kind of CPU rounds to another level.
    temperature
        Below 1 the drawings are more alike and cleaner.
    guidance
        How much to prefer what tells a class from the others; 0 is the class's own distribution.
        By default 2.5 for models that learned for it (condition.dropout_p), 0 for others.
    batch_size
        Drawings computed together; it is part of what decides their last digits.
    dtype
        Of the arithmetic; bfloat16 is fast on GPUs and on CPUs that have it.
    rows_per_shard
        Drawings in a Parquet file, the unit that a restart repeats.
    name
        Name in the store; the model's by default.
    processes
        How many at once; 0 is one a GPU, each on its own, or without GPUs one a core.
    """

    model: Annotated[str, Parameter(required=True)] = "doodles-tiny"
    classes: Annotated[tuple[str, ...], HIDDEN] = ()
    per_class: int = 8
    counts: str = ""
    seed: int = 0
    temperature: float = 1.0
    guidance: float | None = None
    batch_size: Annotated[int, Parameter(name="--batch")] = 64
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    rows_per_shard: int = 8_192
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    processes: NotNegative = 0


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """Draw real above generated drawings, the curve, bits/dim and lineage into report.html.

    Parameters
    ----------
    samples
        Name, name@digest, or the first characters of a digest.
    per_class
        Drawings in a row.
    name
        Name in the store; that of the samples by default.
    """

    samples: Annotated[str, Parameter(required=True)] = "doodles-tiny"
    per_class: Positive = 8
    name: str = ""
    store: StoreUrl = DEFAULT_STORE


@dataclass(frozen=True, kw_only=True)
class ChainParams(Limits, InputOptions):
    """Make a dataset, train a model on it, draw new drawings, and show them in a report.

    Run again, it answers at once; after an interruption it goes on.

    Parameters
    ----------
    source
        doodles (made here, no network), quickdraw (Google's bucket), or a path or URL of files
        in a Quick, Draw! layout.
    preset
        Training preset: tiny, small, article or large.
    settings
        A field of the training spec as field=value; may be repeated.
    max_per_class
        Use only the first N drawings of each class.
    tfds_slice
        Use exactly the drawings that a TFDS slice selects, such as "train[:500000]".
    samples_per_class
        How many drawings of each class to make.
    guidance
        How much drawings prefer what tells their class from the others; by default 2.5 for
        models that learned for it (condition.dropout_p, as tiny and small do), 0 for others.
    seed
        Decides the doodles, the splits, the training and the drawings.
    name
        Name in the store; made from the source and the preset by default.
    workers
        Processes that build the dataset.
    processes
        Processes that draw; 0 is one a core.
    """

    source: Annotated[str, MAIN] = "doodles"
    classes: Annotated[tuple[str, ...], HIDDEN] = SEED_CLASSES
    preset: Annotated[str, MAIN] = "tiny"
    settings: Annotated[tuple[str, ...], MAIN, Parameter(name="--set", negative=())] = ()
    max_per_class: Annotated[int | None, MAIN] = None
    tfds_slice: Annotated[str | None, MAIN] = None
    samples_per_class: Annotated[Positive, MAIN] = 8
    guidance: Annotated[float | None, MAIN] = None
    seed: Annotated[int, MAIN] = 0
    name: Annotated[str, MAIN] = ""
    store: StoreUrl = DEFAULT_STORE
    workers: Annotated[int, MAIN] = 1
    processes: Annotated[NotNegative, MAIN] = 0

    @property
    def dataset_name(self) -> str:
        """The dataset's name in the store."""
        return self.name or source_name(self.source)

    @property
    def model_name(self) -> str:
        """The name of the model, its samples and its report."""
        return self.name or f"{source_name(self.source)}-{slug(self.preset)}"

    def build(self) -> BuildParams:
        """Return the first stage's parameters."""
        shared = {f.name for f in dataclasses.fields(self)}
        shared &= {f.name for f in dataclasses.fields(BuildParams)}
        values = {name: getattr(self, name) for name in shared}
        return BuildParams(**values | {"name": self.dataset_name})

    def train(self, dataset: str) -> TrainParams:
        """Return the second stage's parameters; `dataset` is a digest."""
        return TrainParams(
            store=self.store,
            name=self.model_name,
            dataset=dataset,
            preset=self.preset,
            settings=self.settings,
            seed=self.seed,
        )

    def sample(self, model: str) -> SampleParams:
        """Return the third stage's parameters; `model` is a digest."""
        return SampleParams(
            store=self.store,
            name=self.model_name,
            model=model,
            per_class=self.samples_per_class,
            guidance=self.guidance,
            seed=self.seed,
            processes=self.processes,
        )

    def report(self, samples: str) -> ReportParams:
        """Return the last stage's parameters; `samples` is a digest."""
        return ReportParams(store=self.store, name=self.model_name, samples=samples, per_class=8)


def source_name(source: str) -> str:
    """Return a store name for a source: that of its directory.

    >>> source_name("/data/numpy_bitmap/"), source_name("doodles"), source_name("s3://bucket")
    ('numpy-bitmap', 'doodles', 'bucket')
    >>> source_name("https://me:pw@host/train.parquet?token=1"), source_name("https://me:pw@host")
    ('train-parquet', 'host')
    >>> source_name("quickdraw_bitmap/3.0.0")  # as TFDS names versions
    'quickdraw-bitmap'
    """
    place = PurePath(printable(source).split("://", 1)[-1])
    name = place.parent.name if re.fullmatch(r"\d+\.\d+\.\d+", place.name) else place.name
    if "://" not in source and name in ("", ".", ".."):
        name = Path(source).resolve().name
    cleaned = slug(name if re.search("[A-Za-z0-9]", name) else UNNAMED_SOURCE)
    return cleaned[:48].strip("-")
