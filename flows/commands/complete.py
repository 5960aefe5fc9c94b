"""`sketchmill complete`: the rest of a drawing that is given in part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.options import Common
from flows.session import run_stage

ALL = Common()


def complete(
    png: Path,
    /,
    *,
    model: str,
    class_name: str,
    out: Path = Path("completed.png"),
    num: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
    candidates: int = 1,
    common: Annotated[Common, Parameter(name="*")] = ALL,
) -> None:
    """Keep the opaque pixels of a picture and draw its transparent ones.

    Exact where all given pixels come before all others in reading order (an upper half);
    elsewhere approximate: the model sees given pixels only once it has passed them. More
    candidates bring it nearer.

    Parameters
    ----------
    png
        Picture of the model's size, white ink on black; transparent pixels are to be drawn.
    model
        Name, name@digest, or the first characters of a digest.
    class_name
        What it is a drawing of.
    out
        PNG file: what was given first, then the completions.
    num
        How many completions.
    seed
        Completion i under a seed is always the same.
    temperature
        Below 1 the completions are more alike and cleaner.
    candidates
        Drawn for each completion; one is chosen by how well it explains the given pixels.
    """
    run_stage(
        common,
        plan=lambda: {"model": _resolve(common.store, model).digest, "num": num},
        work=lambda: _complete(
            common.store,
            png,
            model,
            class_name,
            out,
            num=num,
            seed=seed,
            temperature=temperature,
            num_candidates=candidates,
        ),
    )


def _resolve(url: str, ref: str):
    from pipelines.store import open_store

    return open_store(url).resolve("models", ref)


def _complete(
    url: str, png: Path, ref: str, class_name: str, out: Path, *, num: int, **options: Any
) -> Mapping[str, Any]:
    import torch

    from model.evaluate import open_model
    from model.report.pictures import grid, to_png
    from model.sampling.complete import Given, complete, given_from_png, is_prefix
    from pipelines.store import open_store

    manifest = _resolve(url, ref)
    names = list(manifest.summary["class_names"])
    if class_name not in names:
        raise ValueError(f"the model was not trained on {class_name!r}; it knows: {names}")
    network = open_model(open_store(url), manifest)
    given = given_from_png(png.read_bytes(), network.config)
    repeated = Given(given.value.expand(num, -1, -1, -1), given.mask.expand(num, -1, -1))
    labels = torch.full((num,), names.index(class_name))
    condition = None if network.config.condition.kind == "none" else labels
    images = complete(network, repeated, condition, **options)
    shown = (given.value * given.mask[:, None]).to(torch.uint8)[:, 0]
    out.write_bytes(to_png(grid([shown.numpy(), images[:, 0].to(torch.uint8).numpy()])))
    return {
        "model": manifest.digest,
        "out": str(out),
        "completions": num,
        "is_exact": bool(is_prefix(given.mask).all()),
    }
