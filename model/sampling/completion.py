"""Completion of drawings with given pixels (inpainting), for `sketchmill complete`.

The drawing comes from a picture or from a dataset. The given pixels are defined by the picture's
transparency, a mask, or a number of upper rows; they stay unchanged.

The model samples in raster order, each pixel conditional on the previous ones, given or sampled:

    prefix  every given pixel precedes every sampled one (upper rows, the first pixels of a row):
            completions are exact samples of p(rest | given)
    mask    a given pixel does not influence the sampled pixels before it: one candidate is a
            sample of the product of p(sampled pixel | pixels before it), not of p(rest | given)

With several candidates a mask's completion is selected by importance resampling (Rubin 1987):
candidate k has the weight of the product of p(given pixel | pixels before it), the factor that
sampling omits. This converges to p(rest | given) with the number of candidates; the approximation
is good if many candidates have large weights. For a prefix all weights are equal. At a temperature
other than 1, or with guidance, the same holds for the changed conditionals, but the weights stay
the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from model.data import open_split
from model.network.conditioning import label_condition
from model.network.config import PixelCNNConfig
from model.network.likelihood import num_draws, pick_option
from model.network.pixelcnn import PixelCNN
from model.network.weights import open_model
from model.sampling.cached import BATCH_SIZE, Given, Sampled, sample_in_batches
from model.sampling.drawer import draw_choices, draw_uniforms
from model.sampling.given import (
    check_given,
    check_opaque,
    given_from_png,
    given_rows,
    is_prefix,
    mask_from_png,
    picture_from_png,
)
from model.sampling.spec import Dtype, SampleSpec, model_labels
from pipelines.drawings.grids import PAPER, grid
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

Images = Num[Tensor, "batch channels height width"]


def complete(
    model: PixelCNN,
    given: Given,
    condition: Tensor | None = None,
    *,
    seed: int,
    first_index: int = 0,
    num_candidates: int = 1,
    temperature: float = 1.0,
    guidance: float = 0.0,
    dtype: torch.dtype | None = None,
    batch_size: int = BATCH_SIZE,
) -> Images:
    """Return a completion of each drawing in `given`; uint8 where low..high fits, else int64.

    Completion i depends on (seed, first_index + i), its condition and num_candidates, up to
    rounding, which depends on the batch size: n drawings are split into equal batches. Raises
    ValueError if shapes do not fit the model, a given value is not one of its levels, or
    num_candidates is not positive.
    """
    check_given(given, model.config)
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, found {num_candidates}")
    height, width, _ = model.config.image_shape
    num = len(given.mask)
    uniforms = draw_uniforms(
        num * num_candidates,
        num_draws(model.config),
        height,
        width,
        seed=seed,
        first_index=first_index * num_candidates,
    )
    repeated = Given(*(_repeat(part, num_candidates) for part in (given.value, given.mask)))
    if condition is not None:
        condition = _repeat(condition, num_candidates)
    sampled = sample_in_batches(
        model,
        uniforms,
        condition,
        given=repeated,
        temperature=temperature,
        guidance=guidance,
        dtype=dtype,
        batch_size=batch_size,
    )
    if num_candidates == 1:
        return sampled.images
    choice = draw_choices(num, seed=seed, first_index=first_index)
    return _resample(sampled, repeated, choice, num_candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialDrawing:
    """The source of a partial drawing: a picture, or a row of a dataset's split.

    png         content of the picture
    name        file name of the picture, for errors
    dataset     the dataset, with split and row
    mask        content of the mask picture, white where given
    mask_name   file name of the mask
    rows_given  number of given upper rows
    """

    png: bytes | None = None
    name: str = "the half drawing"
    dataset: Manifest | None = None
    split: str = "test"
    row: int = 0
    mask: bytes | None = None
    mask_name: str = "the mask"
    rows_given: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOptions:
    """Number of completions and sampling settings.

    class_names  the condition: one class, several for a multi-label model, empty for the class of
                 the dataset's row
    """

    class_names: Sequence[str] = ()
    num: int = 8
    seed: int = 0
    temperature: float = 1.0
    guidance: float = 0.0
    num_candidates: int = 1
    dtype: Dtype = "float32"


@doing("complete", "drawing the rest")
def complete_drawing(
    partial: PartialDrawing,
    options: CompletionOptions,
    model: Manifest,
    store: Store,
    *,
    cache_dir: Path,
    device: torch.device | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a picture of the given pixels and the completions, and a summary as JSON values.

    Raises ValueError if the drawing, the classes or the options do not fit the model.
    """
    if options.num < 1:
        raise ValueError(f"the number of completions must be at least 1, found {options.num}")
    network = open_model(store, model)
    check_takes_classes(network.config)
    given, own_class = read_partial(partial, network.config, store, cache_dir=cache_dir)
    names = tuple(options.class_names) or ((own_class,) if own_class else ())
    condition = classes_condition(names, model.summary["class_names"], network.config)
    wide = torch.float64 if options.dtype == "float64" else torch.float32
    images = complete(
        network.to(device or torch.device("cpu"), wide),
        Given(given.value.expand(options.num, -1, -1, -1), given.mask.expand(options.num, -1, -1)),
        None if condition is None else condition.expand(options.num, *condition.shape[1:]),
        seed=options.seed,
        num_candidates=options.num_candidates,
        temperature=options.temperature,
        guidance=options.guidance,
        dtype=getattr(torch, options.dtype),
    )
    shown = torch.where(given.mask[:, None], given.value.long(), network.config.low)
    is_exact = not options.guidance and options.temperature == 1.0
    done = {
        "class_names": list(names) if condition is not None else [],
        "completions": options.num,
        "given_pixels": int(given.mask.sum()),
        "is_exact": is_exact and bool(is_prefix(given.mask).all()),
    }
    return _picture([shown, images.cpu().long()], network.config), done


def read_partial(
    partial: PartialDrawing, config: PixelCNNConfig, store: Store, *, cache_dir: Path
) -> tuple[Given, str | None]:
    """Return a partial drawing as a batch of one, and its class if it comes from a dataset.

    Raises ValueError unless there is exactly one source and at most one definition of the given
    pixels, or if the drawing does not fit the model.
    """
    if (partial.png is None) == (partial.dataset is None):
        raise ValueError("expected either a picture or a row of a dataset")
    if partial.mask is not None and partial.rows_given is not None:
        raise ValueError("expected either a mask or a number of given rows, found both")
    class_name = alpha = None
    if partial.dataset is not None:
        value, class_name = _dataset_row(partial, partial.dataset, store, cache_dir)
    else:
        assert partial.png is not None
        value, alpha = picture_from_png(partial.png, config, partial.name)
    if partial.mask is not None:
        given = Given(value, mask_from_png(partial.mask, config, partial.mask_name))
    elif partial.rows_given is not None:
        given = given_rows(value, partial.rows_given)
    elif partial.png is not None:
        given = given_from_png(partial.png, config, partial.name)
    else:
        given = given_rows(value, value.shape[2] // 2)
    check_given(given, config)
    if alpha is not None:
        check_opaque(alpha, given, partial.name)
    return given, class_name


def check_takes_classes(config: PixelCNNConfig) -> None:
    """Raise ValueError if the model's condition is not defined by class names."""
    if config.condition.kind in ("vector", "spatial"):
        raise ValueError(
            f"the model is conditioned on a {config.condition.kind}, not on a class: complete "
            "drawings with model.sampling.completion, which takes any condition"
        )


def classes_condition(
    class_names: Sequence[str], known: Sequence[str], config: PixelCNNConfig
) -> Tensor | None:
    """Return the condition of one drawing of these classes, None for an unconditional model.

    Raises ValueError for an unknown class, an empty list, or several classes if the model takes
    one.
    """
    if config.condition.kind == "none":
        return None
    if not class_names:
        raise ValueError("the model is conditioned on a class: name the class of the drawing")
    if len(class_names) > 1 and config.condition.kind != "multi_label":
        raise ValueError(
            f"the model takes one class, found {len(class_names)}: {', '.join(class_names)}"
        )
    spec = SampleSpec(class_names=tuple(class_names), per_class=1)  # which refuses a name twice
    labels = model_labels(spec.class_names, known)
    condition = label_condition(config, labels)
    assert condition is not None
    return condition.sum(0, keepdim=True) if config.condition.kind == "multi_label" else condition


def _dataset_row(
    partial: PartialDrawing, dataset: Manifest, store: Store, cache_dir: Path
) -> tuple[Tensor, str]:
    drawings = open_split(store, dataset, split=partial.split, cache_dir=cache_dir)
    if not 0 <= partial.row < len(drawings):
        raise ValueError(
            f"row must be in 0..{len(drawings) - 1}, the {partial.split} split of "
            f"{dataset.name}; found {partial.row}"
        )
    value, label = drawings.tensors(np.array([partial.row], np.int64))
    return value, drawings.class_names[int(label)]


def _picture(parts: Sequence[Tensor], config: PixelCNNConfig) -> np.ndarray:
    """Return rows of drawings with dark ink on paper; color images have three channels last."""
    scale = 255 / (config.high - config.low)
    bytes_of = [((part - config.low) * scale).round().to(torch.uint8).numpy() for part in parts]
    if config.num_channels == 1:
        return grid([part[:, 0] for part in bytes_of])
    # `grid` shows 0 as paper.
    channels = [grid([PAPER - part[:, i] for part in bytes_of]) for i in range(3)]
    return np.stack(channels, axis=-1)


def _resample(sampled: Sampled, given: Given, choice: Tensor, num_candidates: int) -> Images:
    """Return one candidate of each drawing, sampled by weight."""
    mask = given.mask.to(sampled.log_prob_map.device)
    weights = (sampled.log_prob_map.double() * mask).sum((1, 2)).view(-1, num_candidates)
    chosen = pick_option(weights[:, :, None, None], choice.to(weights.device)[:, None, None])
    candidates = sampled.images.unflatten(0, (-1, num_candidates))
    return candidates[torch.arange(len(weights), device=weights.device), chosen.flatten()]


def _repeat(values: Tensor, times: int) -> Tensor:
    return values.repeat_interleave(times, dim=0)
