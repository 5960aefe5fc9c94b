"""Regenerate one drawing of a samples dataset and compare it byte by byte.

A row says which class, seed and sample_index it is; its samples' spec, or in a quota the spec of
its round, says with which others it was computed, because the last bit of a sum may depend on
them. Only that batch is drawn, and nothing but the model is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.sampling.drawer import one_thread, open_drawer
from model.sampling.spec import SampleSpec, find_row, shard_batches, spec_from_json
from pipelines.drawings.parquet import read_images
from pipelines.drawings.reading import pick_rows
from pipelines.processes.progress import doing
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest

SPLIT = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The recipe of a row, and its picture (h, w) uint8."""

    class_name: str
    seed: int
    sample_index: int
    model: str
    image: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """A row's recipe and the picture drawn again."""

    recipe: Recipe
    image: npt.NDArray[np.uint8]

    @property
    def is_equal(self) -> bool:
        """Whether every pixel is the same."""
        return bool(np.array_equal(self.recipe.image, self.image))


@doing("reproduce", "drawing the batch of the row")
def reproduce(samples: Manifest, store: Store, *, row: int) -> Reproduced:
    """Draw row number `row` of the samples again.

    Raises ValueError if there is no such row, or its model is not in the store.
    """
    recipe = read_recipe(samples, store, row=row)
    spec = spec_from_json(_drawn_with(samples, recipe.seed))
    ref = samples.input("model")
    if ref is None:
        raise ValueError(f"samples {samples.name} name no model among their inputs")
    model = store.find("models", ref.name, ref.digest)
    if model is None:
        raise ValueError(f"model {ref.name}@{ref.digest[:12]} is not in {store.url}")
    batch, place = find_batch(spec, recipe.class_name, recipe.sample_index)
    with one_thread():
        drawn = open_drawer(store, model, spec).draw(batch)
    return Reproduced(recipe=recipe, image=drawn.images[place])


def read_recipe(samples: Manifest, store: Store, *, row: int) -> Recipe:
    """Return the recipe of a row of the samples; raise ValueError if there is no such row."""
    names = ["class_name", "seed", "sample_index", "model"]
    table = pick_rows(samples, store, split=SPLIT, rows=[row], columns=names)
    return Recipe(image=read_images(table["image"])[0], **table.select(names).to_pylist()[0])


def find_batch(spec: SampleSpec, class_name: str, sample_index: int) -> tuple[slice, int]:
    """Return the batch that a drawing was computed in, and its place there."""
    row = find_row(spec, class_name, sample_index)
    for batch in shard_batches(spec, row // spec.rows_per_shard):
        if batch.start <= row < batch.stop:
            return batch, row - batch.start
    raise AssertionError("the batches of a shard hold all of its rows")


def _drawn_with(samples: Manifest, seed: int) -> Mapping[str, Any]:
    """Return the spec that a row was drawn with: the samples', or that of a quota's round."""
    if "rounds" not in samples.summary:
        return samples.spec
    drawn_in = next(each for each in samples.summary["rounds"] if each["seed"] == seed)
    if "spec" not in drawn_in:
        raise ValueError(
            f"{samples.name} was made before quotas kept the specs of their rounds: "
            "run sketchmill quota again"
        )
    return drawn_in["spec"]
