"""Parameters of the flows: what the command line takes, what Prefect's form shows.

They hold names and choices, never data; each stage resolves them to a spec and a digest.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from flows.options import DEFAULT_STORE
from pipelines.catalogue import SEED_CLASSES
from pipelines.dataset.spec import DEFAULT_SPLITS
from pipelines.drawings.limits import DEFAULT
from pipelines.store.manifest import slug
from pipelines.store.printable import printable

# For "/" and names without a letter.
UNNAMED_SOURCE = "source"


@dataclass(frozen=True, kw_only=True)
class BuildParams:
    """Make a dataset. Fields that DatasetSpec has too mean what they mean there.

    source   doodles, quickdraw, or a path or URL of files in a Quick, Draw! layout
    classes  names, or "tfds:26", or "all" that the source has
    workers  processes on this machine; ignored if beam_args name a runner
    """

    store: str = DEFAULT_STORE
    name: str = "doodles"
    source: str = "doodles"
    classes: tuple[str, ...] = SEED_CLASSES
    seed: int = 0
    image_size: int = 28
    splits: tuple[tuple[str, float], ...] = DEFAULT_SPLITS
    formats: tuple[str, ...] = ("parquet",)
    layout: Literal["packed", "linked"] = "packed"
    rows_per_shard: int | None = None
    compression_level: int = 1
    tfrecord_images: Literal["png", "raw"] = "png"
    tfds_slice: str | None = None
    max_per_class: int | None = None
    fraction: float = 1.0
    recognized_only: bool = False
    countries: tuple[str, ...] = ()
    blank: Literal["keep", "drop"] | None = None
    min_ink: int = 1
    max_ink: int | None = None
    duplicates: Literal["keep", "drop"] | None = None
    near_duplicates: int | None = None
    with_metadata: bool = False
    on_bad_file: Literal["fail", "skip"] = "fail"
    on_bad_row: Literal["fail", "skip"] = "fail"
    max_bad_rows: int | None = None
    max_points: int = DEFAULT.max_points
    max_line_bytes: int = DEFAULT.max_line_bytes
    max_pixels: int = DEFAULT.max_pixels
    max_row_groups: int = DEFAULT.max_row_groups
    license: str = ""
    attribution: str = ""
    workers: int = 1
    beam_args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Train a model on a dataset of the store; settings are spec fields as "field=value".

    processes         ranks on this machine; 0: what suits the cores and the batch
    nodes             machines that train together, or MIN:MAX; this and the next five are
                      torchrun's --nnodes, --rdzv-endpoint and so on
    compile           torch.compile, where it works
    micro_batch_size  drawings a rank puts through at a time; 0: at most 16 on a CPU, its whole part
                      of the batch on a GPU
    work_dir          checkpoints and curve; empty: beside the store, or the user's cache
    num_grids         pictures of drawings in the whole run; 0: none
    """

    store: str = DEFAULT_STORE
    name: str = "doodles-tiny"
    dataset: str = "doodles"
    preset: str = "tiny"
    settings: tuple[str, ...] = ()
    seed: int = 0
    processes: int = 0
    nodes: str = "1"
    node_rank: int | None = None
    rendezvous: str = ""
    rendezvous_id: str = ""
    rendezvous_conf: str = ""
    local_address: str = ""
    compile: bool = False
    micro_batch_size: int = 0
    work_dir: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_interval_sec: float = 120.0
    num_grids: int = 4


@dataclass(frozen=True, kw_only=True)
class SampleParams:
    """Draw new drawings from a model of the store; no classes means all it knows.

    counts    CSV file of class,count in place of classes and per_class; empty: none
    guidance  None is the model's own: DEFAULT_GUIDANCE if it learned to be guided, else 0
    """

    store: str = DEFAULT_STORE
    name: str = "doodles-tiny"
    model: str = "doodles-tiny"
    classes: tuple[str, ...] = ()
    per_class: int = 8
    counts: str = ""
    seed: int = 0
    temperature: float = 1.0
    guidance: float | None = None
    batch_size: int = 64
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    rows_per_shard: int = 8_192
    processes: int = 0


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """Show a samples dataset under the drawings its model learned from."""

    store: str = DEFAULT_STORE
    name: str = "doodles-tiny"
    samples: str = "doodles-tiny"
    per_class: int = 8


@dataclass(frozen=True, kw_only=True)
class ChainParams:
    """The whole chain. An empty name is made from the source and the preset.

    on_bad_file to attribution mean what they mean in DatasetSpec.
    """

    store: str = DEFAULT_STORE
    name: str = ""
    source: str = "doodles"
    classes: tuple[str, ...] = SEED_CLASSES
    preset: str = "tiny"
    settings: tuple[str, ...] = ()
    max_per_class: int | None = None
    tfds_slice: str | None = None
    samples_per_class: int = 8
    guidance: float | None = None
    seed: int = 0
    on_bad_file: Literal["fail", "skip"] = "fail"
    on_bad_row: Literal["fail", "skip"] = "fail"
    max_bad_rows: int | None = None
    max_points: int = DEFAULT.max_points
    max_line_bytes: int = DEFAULT.max_line_bytes
    max_pixels: int = DEFAULT.max_pixels
    max_row_groups: int = DEFAULT.max_row_groups
    license: str = ""
    attribution: str = ""
    workers: int = 1
    processes: int = 0

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
        return BuildParams(
            store=self.store,
            name=self.dataset_name,
            source=self.source,
            classes=self.classes,
            seed=self.seed,
            max_per_class=self.max_per_class,
            tfds_slice=self.tfds_slice,
            on_bad_file=self.on_bad_file,
            on_bad_row=self.on_bad_row,
            max_bad_rows=self.max_bad_rows,
            max_points=self.max_points,
            max_line_bytes=self.max_line_bytes,
            max_pixels=self.max_pixels,
            max_row_groups=self.max_row_groups,
            license=self.license,
            attribution=self.attribution,
            workers=self.workers,
        )

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
