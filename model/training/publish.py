"""Publish a finished run as a model artifact: weights, curve, evaluation, card.

    weights.safetensors  the averaged weights        config.json  network config and class names
    spec.json            the training spec           curve.jsonl  loss by drawings seen
    evaluation.json      likelihood of the splits, overall and by class, and of a histogram
    README.md            model card

The files contain no timestamps, but rounding depends on processes, batches and hardware. If two
trainers publish the same model, the store keeps the files of one of them.
"""

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.data import Drawings, batch_rows, order_key
from model.evaluation.evaluate import ALPHA as HISTOGRAM_ALPHA
from model.evaluation.evaluate import fitted_rows, histogram_nats, split_nats, summarize
from model.network.config import ConditionConfig
from model.network.weights import library_versions, model_files
from model.training.run import Run
from model.training.spec import TrainSpec, run_digest, run_inputs, spec_to_json
from model.training.telemetry import CURVE_NAME
from model.training.warm_start import matched_classes, split_rule
from pipelines.drawings.credit import Credit, both, credit_of
from pipelines.processes.progress import Progress, doing, no_progress
from pipelines.store.artifacts import Store
from pipelines.store.manifest import Manifest, artifact_entries, artifact_label
from pipelines.store.versions import DISTRIBUTION, own_version

# Rows evaluated of train and validation, which show overfitting.
GUIDE_ROWS = 2_048


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model was made of: a dataset and, if it did not start from noise, a model."""

    dataset: Manifest
    init: Manifest | None = None

    @property
    def credit(self) -> Credit:
        """License and attribution: of the dataset and of all that the first model learned from."""
        own = credit_of(self.dataset.summary)
        return both(own, credit_of(self.init.summary)) if self.init else own

    def classes(self) -> dict[str, list[str]]:
        """Return the classes whose weights were inherited and the new ones, by these names.

        Empty if training started from noise.
        """
        if self.init is None:
            return {}
        names = self.dataset.summary["class_names"]
        places = matched_classes(names, self.init.summary["class_names"])
        inherited = [name for name, place in zip(names, places, strict=True) if place is not None]
        new = [name for name in names if name not in inherited]
        return {"inherited_classes": inherited, "new_classes": new}


@doing("train", "measuring the model on all splits")
def publish_model(
    run: Run,
    dataset: Manifest,
    store: Store,
    name: str,
    *,
    init: Manifest | None = None,
    folder: Path,
    splits: Mapping[str, Drawings],
    progress: Progress = no_progress,
) -> Manifest:
    """Evaluate and publish the averaged weights, then delete the checkpoints.

    All ranks call this function; the first one writes. Returns the published manifest.
    """
    rows = {
        split: evaluated_rows(run.spec, dataset, split, len(splits[split]))
        for split in ("train", "validation", "test")
    }
    evaluation = _evaluate(run, splits, rows, progress)
    if run.ranks.is_first:
        evaluation["test_histogram"] = _evaluate_histogram(run, splits, rows["test"])
        origin = Origin(dataset, init)
        files = _artifact_files(run, origin, evaluation, folder)
        store.publish_files(_manifest(run, origin, name, files, evaluation), files)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    run.ranks.barrier()
    found = store.find("models", name, run_digest(run.spec, dataset, init))
    assert found is not None
    return found


def evaluated_rows(
    spec: TrainSpec, dataset: Manifest, split: str, num_rows: int
) -> npt.NDArray[np.int64]:
    """Return the rows of a split that are evaluated, in order, the same for every seed."""
    at_most = spec.max_eval_drawings or num_rows
    key = order_key(dataset.digest, split=split, seed=0)
    if split != "test":
        at_most, key = min(at_most, GUIDE_ROWS), "validation"
    if at_most >= num_rows:
        return np.arange(num_rows)
    return np.sort(batch_rows(num_rows, at_most, key=key, step=0))


def _evaluate(
    run: Run,
    splits: Mapping[str, Drawings],
    rows: Mapping[str, npt.NDArray[np.int64]],
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Return the likelihood of rows of each split; progress counts those of all splits."""
    evaluation, before = {}, 0
    total = sum(map(len, rows.values()))
    for split, chosen in rows.items():
        drawings = splits[split]
        message = f"{len(chosen):,} of {len(drawings):,} {split} drawings"
        show = _part_of(progress, before, len(chosen), total, message)
        show("evaluate", 0, 1, "")
        nats = split_nats(
            run.average.network, drawings, ranks=run.ranks, rows=chosen, progress=show
        )
        labels, names = drawings.labels[chosen], drawings.class_names
        evaluation[split] = summarize(nats, labels, class_names=names, num_dims=run.num_dims)
        before += len(chosen)
    if len(rows["test"]) < len(splits["test"]):
        evaluation["test"]["split_drawings"] = len(splits["test"])
    return evaluation


def _part_of(progress: Progress, before: int, count: int, total: int, message: str) -> Progress:
    """Return a callback that shows a rank's share of `count` drawings as part of all."""

    def show(stage: str, done: int, of: int, _message: str) -> None:
        progress(stage, before + count * done // of, total, message)

    return show


def _evaluate_histogram(
    run: Run, splits: Mapping[str, Drawings], rows: npt.NDArray[np.int64]
) -> dict[str, Any]:
    train, test = splits["train"], splits["test"]
    if len(rows) < len(test):
        test = Drawings(test.images[rows], test.labels[rows], test.class_names)
    nats = histogram_nats(train, test)
    names = test.class_names
    found = summarize(nats, test.labels, class_names=names, num_dims=run.num_dims)
    return found | {"alpha": HISTOGRAM_ALPHA, "num_fitted": len(fitted_rows(train))}


def _artifact_files(
    run: Run, origin: Origin, evaluation: Mapping[str, Any], folder: Path
) -> dict[str, bytes]:
    dataset = origin.dataset
    files = model_files(
        run.average.network,
        class_names=dataset.summary["class_names"],
        dataset_digest=dataset.digest,
    )
    files["spec.json"] = _json(spec_to_json(run.spec))
    files["curve.jsonl"] = (folder / CURVE_NAME).read_bytes()
    files["evaluation.json"] = _json(evaluation)
    files["README.md"] = model_card(run, origin, evaluation).encode()
    return files


def _manifest(
    run: Run,
    origin: Origin,
    name: str,
    files: Mapping[str, bytes],
    evaluation: Mapping[str, Any],
) -> Manifest:
    dataset, init = origin.dataset, origin.init
    summary = {
        "class_names": list(dataset.summary["class_names"]),
        "image_shape": list(dataset.summary["image_shape"]),
        "num_parameters": num_parameters(run),
        "trained_nimg": run.nimg,
        "test_bits_per_dim": evaluation["test"]["bits_per_dim"],
        "validation_bits_per_dim": evaluation["validation"]["bits_per_dim"],
        "train_bits_per_dim": evaluation["train"]["bits_per_dim"],
        "histogram_bits_per_dim": evaluation["test_histogram"]["bits_per_dim"],
        "train_sec": round(run.elapsed_sec, 1),
        "images_per_sec": round(run.nimg / max(run.elapsed_sec, 1e-9), 1),
        "num_ranks": run.ranks.size,
        "hardware": _hardware(run),
        **origin.credit.to_json(),
        "split_rule": split_rule(dataset),
        **origin.classes(),
        **({} if run.spec.guidance is None else {"guidance": run.spec.guidance}),
    }
    return Manifest(
        kind="models",
        name=name,
        digest=run_digest(run.spec, dataset, init),
        spec=spec_to_json(run.spec),
        inputs=run_inputs(dataset, init),
        files=artifact_entries(files),
        summary=summary,
        versions=library_versions(),
    )


def model_card(run: Run, origin: Origin, evaluation: Mapping[str, Any]) -> str:
    """Return the model's README.md, a Hugging Face model card."""
    dataset = origin.dataset
    test, train = evaluation["test"], evaluation["train"]
    histogram = evaluation["test_histogram"]
    network = run.spec.network
    is_conditional = network.condition.kind != "none"
    # Of a split that was evaluated whole, the card is what it was before there were samples.
    of_all = f" of {test['split_drawings']}" if "split_drawings" in test else ""

    def bits(found: Mapping[str, Any]) -> str:
        error = f" +- {found['bits_per_dim_stderr']:.4f}" if of_all else ""
        return f"{found['bits_per_dim']:.4f}{error}"

    classes = "\n".join(
        f"| {name} | {found['num_drawings']} | {bits(found)} |"
        for name, found in test["classes"].items()
    )
    return f"""---
library_name: pytorch
tags: [pixelcnn, autoregressive, sketches, unconditional-image-generation]
---
# {"Conditional" if is_conditional else "Unconditional"} PixelCNN++ of drawings in \
{len(dataset.summary["class_names"])} classes

Test likelihood: **{test["bits_per_dim"]:.4f} bits/dim** (standard error
{test["bits_per_dim_stderr"]:.4f}, {test["nats"]:.2f} nats a drawing) on {test["num_drawings"]}\
{of_all}
drawings that training never saw. On {train["num_drawings"]} drawings of the training split:
{bits(train)}. A model without a network (histogram of gray levels by pixel and class)
has {bits(histogram)} on the test drawings.

| | |
| --- | --- |
| dataset | {artifact_label(dataset)} |
{_started_from(origin)}\
| drawings seen in training | {run.nimg} |
| parameters | {num_parameters(run)} |
| made by | {DISTRIBUTION} {own_version()} |
| network | {network.num_resnet} resnets, {network.num_hierarchies} hierarchies, \
{network.num_filters} filters, {network.num_logistic_mix} mixtures |
| withheld labels | {_withheld(network.condition)} |
| published weights | exponential moving average, half-life {run.spec.ema_halflife_nimg} drawings |

Pixels are uint8 with 0 for paper and 255 for ink; the label is a position in `class_names` of
`config.json`. Bits/dim is -log2 p(drawing{" | class" * is_conditional}) / {run.num_dims}, each
drawing counted once.

| class | test drawings | bits/dim |
| --- | ---: | ---: |
{classes}

## Limits
The model knows the classes above and drawings of {network.image_shape[0]}x\
{network.image_shape[1]} pixels. {_learned_from(origin)}

## Attribution
{origin.credit.statement}
"""


def _started_from(origin: Origin) -> str:
    """Return the row of the card's table for the model that training started from."""
    if origin.init is None:
        return ""
    new = ", ".join(origin.classes()["new_classes"]) or "none"
    return f"| started from | {artifact_label(origin.init)}; classes new to it: {new} |\n"


def _learned_from(origin: Origin) -> str:
    """Return a sentence on the origin of the training drawings and its consequences."""
    dataset = origin.dataset
    if dataset.summary.get("is_synthetic", False):
        if origin.init is not None:
            return (
                "It learned from drawings that a program made, after those that\n"
                f"{artifact_label(origin.init)} learned from; see the limits on that model's card."
            )
        return "It learned from drawings that a program made, and says nothing of how people draw."
    whose = "the drawings of its dataset"
    if credit_of(dataset.summary).is_quickdraw:
        whose = "hasty drawings by anonymous people"
    return (
        f"It learned from {whose};\nwhat it draws can be wrong, crude or offensive as theirs are."
    )


def _withheld(condition: ConditionConfig) -> str:
    """Return a phrase on the fraction of drawings trained without their class."""
    if not condition.dropout_p:
        return "none: it cannot be guided"
    return f"of {condition.dropout_p:.0%} of the drawings in training, so it can be guided"


def num_parameters(run: Run) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in run.network.parameters())


def _hardware(run: Run) -> str:
    if run.ranks.device.type == "cuda":
        return torch.cuda.get_device_name(run.ranks.device)
    if run.ranks.device.type == "mps":
        return f"{platform.machine()} GPU (mps)"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads a rank"


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
