"""The complete stage: draw the missing part of a drawing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.options import DEFAULT_STORE, HIDDEN, SAMPLING, NotNegative, StoreUrl, grouped, listed
from flows.stages.base import Inputs, Result, Stage, argument, find_model, writable_cache
from flows.terminal import check_folder, warn
from pipelines.drawings.limits import DEFAULT
from pipelines.store.artifacts import Store
from pipelines.store.held import HeldStore

# Of a picture: as many as the pixels of one may take that is not compressed.
MOST_BYTES = 8 * DEFAULT.max_pixels
_SAMPLING = ("num", "seed", "temperature", "guidance", "candidates", "dtype")


@grouped({SAMPLING: _SAMPLING})
@dataclass(frozen=True, kw_only=True)
class CompleteParams:
    """Keep what is given of a drawing and draw the rest, on a GPU if there is one.

    The drawing is a picture or a row of a dataset. Given are a picture's opaque pixels (not
    its half-transparent ones), or the white pixels of a mask, or the upper rows. Exact, that
    is draws of p(rest | given), where all given pixels come before all others in reading order,
    as upper rows do; elsewhere approximate: the model sees given pixels only once it has passed
    them. More candidates bring it nearer. The result says which it was (is_exact).

    Parameters
    ----------
    model
        Name, name@digest, or the first characters of a digest.
    class_name
        Class of the drawing. By default the label in the dataset. A multi-label model takes
        several, separated by commas.
    dataset
        Dataset that has the drawing, in place of a picture: name, name@digest, or the first
        characters of a digest.
    split
        Split of the dataset.
    row
        Index of the drawing in the split, from 0.
    rows_given
        Number of given upper rows. By default half of them, for a dataset's drawing.
    mask
        Picture that is white where pixels are given and black where they are to be drawn.
    out
        PNG file to write: the given part first, then the completions.
    num
        Number of completions.
    seed
        Seed of the noise; the same command draws the same completions again.
    temperature
        Below 1 the completions are more alike and cleaner.
    guidance
        How much to prefer what tells a class from the others; above 0 no completion is exact.
    candidates
        Number of candidates for each completion; the likelihood of the given pixels selects one.
    dtype
        Precision of the arithmetic; bfloat16 is fast on GPUs and on CPUs that have it.
    """

    png: Annotated[Path | None, HIDDEN] = None
    model: Annotated[str, Parameter(required=True)] = ""
    class_name: str = ""
    dataset: str = ""
    split: Literal["train", "validation", "test"] = "test"
    row: int = 0
    rows_given: int | None = None
    mask: Path | None = None
    out: Path = Path("completed.png")
    num: int = 8
    seed: NotNegative = 0
    temperature: float = 1.0
    guidance: float = 0.0
    candidates: int = 1
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    store: StoreUrl = DEFAULT_STORE


def _inputs(params: CompleteParams, store: Store) -> Inputs:
    dataset = {"dataset": store.resolve("datasets", params.dataset)} if params.dataset else {}
    return {"model": find_model(store, params.model)} | dataset


def _work(params: CompleteParams, inputs: Inputs, store: HeldStore) -> Result:
    import torch

    from model.network.precision import emulation_warning
    from model.ranks import join_ranks
    from model.sampling.completion import CompletionOptions, PartialDrawing, complete_drawing
    from pipelines.drawings.grids import to_png

    drawing = PartialDrawing(
        dataset=inputs.get("dataset"),
        split=params.split,
        row=params.row,
        rows_given=params.rows_given,
        png=_content(params.png),
        name=str(params.png),
        mask=_content(params.mask),
        mask_name=str(params.mask),
    )
    options = CompletionOptions(
        class_names=listed(params.class_name),
        num=params.num,
        seed=params.seed,
        temperature=params.temperature,
        guidance=params.guidance,
        num_candidates=params.candidates,
        dtype=params.dtype,
    )
    with join_ranks() as alone:
        warn(emulation_warning(getattr(torch, params.dtype), alone.device))
        picture, done = complete_drawing(
            drawing,
            options,
            inputs["model"],
            store,
            cache_dir=writable_cache() / "drawings",
            device=alone.device,
        )
    params.out.write_bytes(to_png(picture))
    return {"model": inputs["model"].digest, "out": str(params.out)} | done


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(
            f"{path} has more than {MOST_BYTES} bytes: it is not a picture of a drawing"
        )
    return content


STAGE = Stage(
    name="complete",
    params=CompleteParams,
    check=lambda params: check_folder(params.out),
    inputs=_inputs,
    plan=lambda params, inputs, _store: {"model": inputs["model"].digest, "num": params.num},
    work=_work,
    store="read",
    argument=argument(
        "png",
        Path | None,
        "Picture of the model's size, white ink on black; transparent pixels are to be drawn.",
        default=None,
    ),
)
