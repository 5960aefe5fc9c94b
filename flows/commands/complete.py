"""`sketchmill complete`: the rest of a drawing that is given in part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.options import Common, NotNegative
from flows.terminal import run_stage
from pipelines.drawings.limits import DEFAULT

# Of a picture: as many as the pixels of one may take that is not compressed.
MOST_BYTES = 8 * DEFAULT.max_pixels


def complete(
    png: Path | None = None,
    /,
    *,
    model: str,
    class_name: str = "",
    from_: Annotated[str, Parameter(name="--from")] = "",
    split: Literal["train", "validation", "test"] = "test",
    row: int = 0,
    rows_given: int | None = None,
    mask: Path | None = None,
    out: Path = Path("completed.png"),
    num: int = 8,
    seed: NotNegative = 0,
    temperature: float = 1.0,
    guidance: float = 0.0,
    candidates: int = 1,
    dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    common: Common = Common(),
) -> None:
    """Keep what is given of a drawing and draw the rest, on a GPU if there is one.

    The drawing is a picture or a row of a dataset. Given are a picture's opaque pixels (not
    its half-transparent ones), or the white pixels of a mask, or the upper rows. Exact, that
    is draws of p(rest | given), where all given pixels come before all others in reading order,
    as upper rows do; elsewhere approximate: the model sees given pixels only once it has passed
    them. More candidates bring it nearer. The result says which it was (is_exact).

    Parameters
    ----------
    png
        Picture of the model's size, white ink on black; transparent pixels are to be drawn.
    model
        Name, name@digest, or the first characters of a digest.
    class_name
        What it is a drawing of; by default what the dataset says. A model of several labels
        takes several, with commas.
    from_
        A dataset, in place of a picture.
    split
        train, validation or test of the dataset.
    row
        Which drawing of the split, from 0.
    rows_given
        How many upper rows are given; of a dataset's drawing half by default.
    mask
        Picture that is white where pixels are given and black where they are to be drawn.
    out
        PNG file: what was given first, then the completions.
    num
        How many completions.
    seed
        Completion i uses its own noise under a seed, so the same command draws it again.
    temperature
        Below 1 the completions are more alike and cleaner.
    guidance
        How much to prefer what tells the class from others; above 0 no completion is exact.
    candidates
        Drawn for each completion; one is chosen by how well it explains the given pixels.
    dtype
        Of the arithmetic.
    """
    half = {"split": split, "row": row, "rows_given": rows_given}
    wish = {
        "class_names": [name.strip() for name in class_name.split(",") if name.strip()],
        "num": num,
        "seed": seed,
        "temperature": temperature,
        "guidance": guidance,
        "num_candidates": candidates,
        "dtype": dtype,
    }
    files = {"png": png, "mask": mask}
    run_stage(
        common,
        plan=lambda: _plan(common.store, model, num),
        work=lambda: _complete(common.store, model, from_, files, half, wish, out),
    )


def _plan(url: str, ref: str, num: int) -> Mapping[str, Any]:
    from pipelines.store.artifacts import existing_store

    return {"model": existing_store(url).resolve("models", ref).digest, "num": num}


def _complete(
    url: str,
    ref: str,
    dataset_ref: str,
    files: Mapping[str, Path | None],
    half: Mapping[str, Any],
    wish: Mapping[str, Any],
    out: Path,
) -> Mapping[str, Any]:
    import torch

    from flows.stages.base import writable_cache
    from flows.terminal import check_folder, warn
    from model.network.precision import emulation_warning
    from model.ranks import join_ranks
    from model.sampling.completion import CompletionOptions, PartialDrawing, complete_drawing
    from pipelines.drawings.grids import to_png
    from pipelines.store.held import held_store

    check_folder(out)
    with held_store(url, "complete") as store, join_ranks() as alone:
        manifest = store.resolve("models", ref)
        drawing = PartialDrawing(
            dataset=store.resolve("datasets", dataset_ref) if dataset_ref else None,
            png=_content(files["png"]),
            name=str(files["png"]),
            mask=_content(files["mask"]),
            mask_name=str(files["mask"]),
            **half,
        )
        warn(emulation_warning(getattr(torch, wish["dtype"]), alone.device))
        picture, done = complete_drawing(
            drawing,
            CompletionOptions(**wish),
            manifest,
            store,
            cache_dir=writable_cache() / "drawings",
            device=alone.device,
        )
    out.write_bytes(to_png(picture))
    return {"model": manifest.digest, "out": str(out)} | done


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES} bytes: it is no picture of a drawing")
    return content
