"""The sample stage: labelled drawings from a model, all of them or a range of shards."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.options import (
    DEFAULT_STORE,
    HIDDEN,
    RUNNING,
    SAMPLING,
    EngineOptions,
    ModelClasses,
    NotNegative,
    StoreUrl,
    grouped,
)
from flows.stages.base import (
    Address,
    Inputs,
    Result,
    Stage,
    check_drawing_engine,
    engine_of,
    find_model,
    pinned,
    where,
    write_config,
)
from flows.terminal import current, warn
from pipelines.catalogue import resolve_names
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore
from pipelines.store.leases import holding
from pipelines.store.manifest import Manifest
from pipelines.store.text_files import read_rows

# What people and spreadsheets write above the two columns.
_CLASS_HEADINGS = {"class", "classes", "class name", "class_name", "category", "label", "name"}
_COUNT_HEADINGS = {"count", "counts", "drawings", "number", "num", "n"}
# Thousands of task runs overload a Prefect server; 200 ranges keep all workers busy.
MAX_RANGES = 200
AskedArithmetic = Literal["auto", "portable", "torch"]
SHARED_SAMPLING = ("seed", "temperature", "guidance", "arithmetic")
_SAMPLING = (*SHARED_SAMPLING, "batch_size", "dtype", "rows_per_shard")


@grouped({SAMPLING: _SAMPLING})
@dataclass(frozen=True, kw_only=True)
class SampleParams(EngineOptions):
    """Draw new labelled drawings into a dataset of the standard layout.

    The default is all classes of the model. A run resumes after an interruption: only missing
    shards are sampled.

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    per_class
        Number of drawings of each class.
    counts
        CSV file of class,count in place of --classes and --samples-per-class; semicolons and
        tabs separate as well.
    seed
        Seed of the noise. Drawing i of a class has its own: it is the same from any number of
        processes.
    temperature
        Below 1 the drawings are more alike and cleaner.
    guidance
        How much to prefer what tells a class from the others; 0 is the class's own distribution. By
        default the model's own, or 2.5; 0 for models that cannot be guided (condition.dropout_p).
    arithmetic
        How sums are computed. portable: in float32, on CPUs, with the same bits on each. torch: on a
        GPU if there is one; another --batch or processor may round a pixel to another level. auto:
        portable; torch where there is a GPU or no C compiler, for another --dtype, and for networks
        that portable does not know.
    batch_size
        Number of drawings computed together by torch.
    dtype
        Precision of the arithmetic; bfloat16 is fast on GPUs and on CPUs that have it.
    rows_per_shard
        Number of drawings in a shard, a Parquet file; an interrupted shard is drawn anew.
    name
        Name in the store. By default that of the model.
    processes
        Number of processes; 0 means one per GPU, or one per core without GPUs. Ignored with
        --cluster or --beam, where each worker draws shards one at a time.
    shards
        Draw only these shards, such as 0-99, as one of several machines that share the store; the
        last one publishes.
    """

    model: Annotated[str, Parameter(required=True)] = "doodles-tiny"
    classes: Annotated[tuple[str, ...], HIDDEN] = ()
    per_class: Annotated[int, Parameter(name="--samples-per-class")] = 8
    counts: str = ""
    seed: int = 0
    temperature: float = 1.0
    guidance: float | None = None
    arithmetic: AskedArithmetic = "auto"
    batch_size: Annotated[int, Parameter(name="--batch")] = 64
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    rows_per_shard: int = 8_192
    name: str = ""
    store: StoreUrl = DEFAULT_STORE
    processes: Annotated[NotNegative, RUNNING] = 0
    shards: Annotated[str, RUNNING] = ""


def read_counts(path: Path) -> dict[str, int]:
    """Read a CSV file of class,count; a first line "class,count" is a heading.

    The separator is a comma, a semicolon or a tab; names that contain it are quoted. Raises
    ValueError naming the line for anything else.
    """
    counts: dict[str, int] = {}
    rows = read_rows(path)
    if rows and _is_heading(rows[0][1]):
        del rows[0]
    for line, row in rows:
        if len(row) != 2 or not row[1].isdecimal():
            hint = "; quote a name that has a comma" if len(row) > 2 else ""
            raise ValueError(
                f"{path}, line {line}: expected class,count, found {','.join(row)}{hint}"
            )
        name = row[0]
        if name in counts:
            raise ValueError(f"{path}, line {line}: class {name!r} is counted twice")
        counts[name] = int(row[1])
    if not counts:
        raise ValueError(f"{path} counts no class")
    return counts


def _is_heading(row: list[str]) -> bool:
    folded = [cell.casefold() for cell in row]
    return len(row) == 2 and folded[0] in _CLASS_HEADINGS and folded[1] in _COUNT_HEADINGS


def ranges_of(missing: Sequence[int], num_shards: int) -> list[tuple[int, int]]:
    """Return ranges of equal size, at most MAX_RANGES, that hold a missing shard.

    The boundaries depend only on the number of shards, so planning again after some shards are
    complete returns the same ranges. Complete shards of a range are skipped.

    >>> ranges_of([0, 1, 6], 7)
    [(0, 1), (1, 2), (6, 7)]
    >>> len(ranges_of(range(0, 4000, 2), 4000))
    200
    """
    size = max(1, -(-num_shards // MAX_RANGES))
    starts = sorted({shard // size * size for shard in missing})
    return [(start, min(start + size, num_shards)) for start in starts]


def sample_spec(params: SampleParams, model: Manifest):
    """Return what decides the drawings.

    Raises ValueError for a class that the model lacks, or if it cannot be guided.
    """
    from model.sampling.spec import SampleSpec, model_labels

    known = tuple(model.summary["class_names"])
    names, per_class = params.classes or known, params.per_class
    if params.counts and params.classes:
        raise ValueError("give either --classes or --counts: the file names the classes")
    if params.counts:
        counts = read_counts(Path(params.counts))
        names, per_class = tuple(counts), tuple(counts.values())
    spec = SampleSpec(
        class_names=resolve_names(names, known),
        per_class=per_class,
        seed=params.seed,
        temperature=params.temperature,
        guidance=guidance(params.guidance, model),
        batch_size=params.batch_size,
        dtype=params.dtype,
        rows_per_shard=params.rows_per_shard,
        arithmetic=arithmetic(params.arithmetic, params.dtype, model),
    )
    model_labels(spec.class_names, known)
    return spec


def guidance(wanted: float | None, model: Manifest) -> float:
    """Return the guidance for a model, by default as the model was trained for.

    Raises ValueError if it cannot be guided so.
    """
    from model.network.config import PixelCNNConfig, check_guidance, default_guidance

    config = PixelCNNConfig.from_json_dict(model.spec.get("network", {}))
    if wanted is None:
        wanted = default_guidance(config, own=model.summary.get("guidance"))
    check_guidance(wanted, config)
    return wanted


def arithmetic(
    wanted: AskedArithmetic,
    dtype: Literal["float32", "bfloat16", "float64"],
    model: Manifest,
) -> Literal["portable", "torch"]:
    """Return the arithmetic for a model, by default the faster one on this machine."""
    from model.network.config import PixelCNNConfig
    from model.sampling.spec import default_arithmetic

    if wanted != "auto":
        return wanted
    network = model.spec.get("network")
    # What is not in the manifest of an imported model would have to be read.
    return default_arithmetic(PixelCNNConfig.from_json_dict(network), dtype) if network else "torch"


def _slowness(params: SampleParams, model: Manifest) -> str:
    """Return why torch draws on a CPU what portable arithmetic would draw faster, or ""."""
    from model.network.config import PixelCNNConfig
    from model.sampling.spec import lack_here

    network = model.spec.get("network")
    is_asked = params.arithmetic != "auto" or params.dtype != "float32"
    lacking = "" if is_asked or not network else lack_here(PixelCNNConfig.from_json_dict(network))
    return lacking and f"torch draws, several times slower than portable arithmetic: {lacking}"


def parse_range(text: str) -> tuple[int, int]:
    """Read "first-last" or one number; raise ValueError for anything else.

    >>> parse_range("0-99"), parse_range("7")
    ((0, 99), (7, 7))
    """
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError as error:
        raise ValueError(f"--shards {text}: expected first-last, such as 0-99") from error


def _check(params: SampleParams) -> None:
    check_drawing_engine(params)
    if params.shards:
        parse_range(params.shards)


def _inputs(params: SampleParams, store: Store) -> Inputs:
    return {"model": find_model(store, params.model)}


def _address(params: SampleParams, inputs: Inputs) -> Address:
    from model.sampling.spec import samples_digest

    model = inputs["model"]
    digest = samples_digest(sample_spec(params, model), model)
    return "samples", params.name or model.name, digest


def _plan(params: SampleParams, inputs: Inputs, store: Store) -> Result:
    """Return the resolved spec and whether the store has the samples."""
    kind, name, digest = _address(params, inputs)
    return {
        "spec": dataclasses.asdict(sample_spec(params, inputs["model"])),
        "model": inputs["model"].digest,
        "samples": digest,
        "name": name,
        "is_drawn": store.find(kind, name, digest) is not None,
    }


def _work(params: SampleParams, inputs: Inputs, store: HeldStore) -> Manifest | Result:
    import torch

    from model.network.precision import default_device, emulation_warning
    from model.sampling.card import SHEET_NAME
    from model.sampling.shards import sample_dataset

    warn(emulation_warning(getattr(torch, params.dtype), default_device()))
    if default_device().type == "cpu":
        warn(_slowness(params, inputs["model"]))
    if params.shards:
        return _work_range(params, inputs, store)
    model, spec = inputs["model"], sample_spec(params, inputs["model"])
    is_drawn = store.find(*_address(params, inputs)) is not None
    made = sample_dataset(
        spec,
        model,
        store,
        params.name or model.name,
        processes=params.processes,
        engine=engine_of(params, store),
        progress=current(),
    )
    if not is_drawn:
        current()("picture", 1, 1, f"{where(store, made)}/{SHEET_NAME}")
    return made


def _work_range(params: SampleParams, inputs: Inputs, store: HeldStore) -> Result:
    """Draw some shards; publish if they were the last that the store lacked.

    Machines that share nothing but the store take ranges of their own. Raises ValueError if there
    are no such shards.
    """
    from model.sampling.shards import make_shards, missing_shards, publish_samples
    from model.sampling.units import samples_prefix

    first, last = parse_range(params.shards)
    model = inputs["model"]
    spec = sample_spec(params, model)
    kind, name, digest = _address(params, inputs)
    if not 0 <= first <= last < spec.num_shards:
        raise ValueError(
            f"--shards {first}-{last}: the plan has the shards 0-{spec.num_shards - 1}"
        )
    with holding(store, [samples_prefix(spec, model, name)], "sample"):
        if not store.reuse(kind, name, digest):
            make_shards(
                spec,
                model,
                store,
                name,
                shards=range(first, last + 1),
                processes=params.processes,
                engine=engine_of(params, store),
                progress=current(),
            )
        missing = len(missing_shards(spec, model, store, name))
        if not missing:
            made = publish_samples(spec, model, store, name)
            write_config(STAGE.name, params, made, store, pinned(params, inputs))
    return {
        "samples": digest,
        "name": name,
        "shards": spec.num_shards,
        "missing_shards": missing,
        "is_published": not missing,
    }


def _result(_params: SampleParams, made: Manifest, _store: HeldStore) -> Result:
    drawings = sum(entry.rows or 0 for entry in made.files)
    return {"samples": made.digest, "name": made.name, "drawings": drawings}


def _find_ranges(params: SampleParams, inputs: Inputs, store: HeldStore) -> Result:
    """Return how many shards there are, how many the store lacks, and ranges that hold these.

    The arithmetic is chosen here for all who draw them, on whatever machines.
    """
    from model.sampling.shards import missing_shards

    model = inputs["model"]
    spec = sample_spec(params, model)
    missing = missing_shards(spec, model, store, params.name or model.name)
    return {
        "shards": spec.num_shards,
        "missing": len(missing),
        "ranges": ranges_of(missing, spec.num_shards),
        "arithmetic": spec.arithmetic,
    }


STAGE = Stage(
    name="sample",
    title="Draw new labelled drawings from a model.",
    params=SampleParams,
    check=_check,
    inputs=_inputs,
    address=_address,
    plan=_plan,
    work=_work,
    result=_result,
    place="sample",
    classes=ModelClasses,
)
SHARDS = dataclasses.replace(
    STAGE, name="sample-shards", title="Draw a range of shards.", place="shards"
)
RANGES = Stage(
    name="plan",
    title="Find the shards of samples that the store lacks; end with ranges of them.",
    params=SampleParams,
    inputs=_inputs,
    work=_find_ranges,
    store="read",
    place="plan",
)
