"""Cards of the Hugging Face Hub, from an artifact's manifest and its own README.md.

A card is YAML that the Hub and `datasets` read, and the page of the artifact below it. Its fields
are those of `huggingface_hub`: license, tags and size of a dataset with the files of each split;
license, datasets, metrics and results of a model.

The Hub has no word for a class-conditional model of images: it is one of unconditional image
generation there, as it needs no text and no picture.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from pipelines.drawings.credit import UNSTATED, Credit, credit_of
from pipelines.store.artifacts import Store
from pipelines.store.errors import reading
from pipelines.store.manifest import Manifest, artifact_label, drawings_by_split

_Card = TypeVar("_Card", DatasetCard, ModelCard)

# Google's own dataset on the Hub, which models of its drawings name.
QUICKDRAW_ID = "google/quickdraw"

_CARD_NAME = "README.md"
_HF_FOLDER = "hf"
_ORIGIN = "\n## Where this comes from\n"
# The Hub's sizes, each the smallest number of drawings that is beyond the one before.
_SIZES = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    *((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")),
)
_LARGEST = "1B<n<10B"
_GENERATION, _CLASSIFICATION = "unconditional-image-generation", "image-classification"
# Splits of a model's results; it has learned from the training split.
_MEASURED = ("test", "validation")


def dataset_card(manifest: Manifest, store: Store) -> str:
    """Return the card of a dataset, samples or an export.

    `load_dataset` opens its Parquet files, in an export those of the format hf.
    """
    card = _parsed(DatasetCard, manifest, store, _CARD_NAME)
    fields = card.data.to_dict() | _loader_fields(manifest, store)
    credit, is_synthetic = credit_of(manifest.summary), bool(manifest.summary.get("is_synthetic"))
    tags = [*fields.get("tags", ()), *credit.hub_tags(), *["synthetic"] * is_synthetic]
    fields |= {
        **dict.fromkeys(("license_name", "license_link")),
        **_license(credit),
        "pretty_name": manifest.name,
        "task_categories": [_CLASSIFICATION],
        "size_categories": [size_category(sum(drawings_by_split(manifest).values()))],
        "tags": _once(tags),
    }
    card.data = DatasetCardData(**fields)
    return _joined(card, manifest)


def model_card(manifest: Manifest, store: Store, *, trained_on: str = "") -> str:
    """Return the card of a model.

    trained_on  the OWNER/NAME of its dataset on the Hub
    """
    card = _parsed(ModelCard, manifest, store, _CARD_NAME)
    credit = _credit(manifest, store)
    is_classifier = manifest.summary.get("role") == "judge"
    results = _accuracy(manifest) if is_classifier else _likelihoods(manifest)
    for result in results:
        result.dataset_type = trained_on or result.dataset_type
    card.data = ModelCardData(
        **_license(credit),
        library_name="pytorch",
        pipeline_tag=_CLASSIFICATION if is_classifier else _GENERATION,
        tags=_once([*(card.data.get("tags", ())), *credit.hub_tags()]),
        datasets=_once([trained_on, QUICKDRAW_ID if credit.is_quickdraw else ""]) or None,
        metrics=_once(result.metric_type for result in results) or None,
        model_name=manifest.name,
        eval_results=results or None,
    )
    return _joined(card, manifest)


def size_category(num_drawings: int) -> str:
    """Return the Hub's name of a size.

    >>> size_category(999), size_category(1_000), size_category(50_000_000)
    ('n<1K', '1K<n<10K', '10M<n<100M')
    """
    return next((name for limit, name in _SIZES if num_drawings < limit), _LARGEST)


def _likelihoods(manifest: Manifest) -> list[EvalResult]:
    """Return the bits/dim of a generative model, those of its splits that it was measured on."""
    measured = {split: manifest.summary.get(f"{split}_bits_per_dim") for split in _MEASURED}
    return [
        _result(manifest, split, "bits_per_dim", "Bits per dimension", value)
        for split, value in measured.items()
        if value is not None
    ]


def _accuracy(manifest: Manifest) -> list[EvalResult]:
    """Return the accuracy of a classifier."""
    value = manifest.summary.get("test_accuracy")
    return [] if value is None else [_result(manifest, "test", "accuracy", "Accuracy", value)]


def _result(manifest: Manifest, split: str, metric: str, title: str, value: float) -> EvalResult:
    dataset = manifest.input("dataset")
    label = f"{dataset.name}@{dataset.digest[:12]}" if dataset else "unknown"
    return EvalResult(
        task_type=_CLASSIFICATION if metric == "accuracy" else _GENERATION,
        dataset_type=dataset.name if dataset else "unknown",
        dataset_name=label,
        dataset_split=split,
        dataset_args={"digest": dataset.digest} if dataset else None,
        metric_type=metric,
        metric_name=title,
        metric_value=value,
    )


def _credit(manifest: Manifest, store: Store) -> Credit:
    """Return what a model states, or else its dataset: a classifier's summary states nothing."""
    own, ref = credit_of(manifest.summary), manifest.input("dataset")
    if own != UNSTATED or ref is None:
        return own
    dataset = store.find("datasets", ref.name, ref.digest)
    return credit_of(dataset.summary) if dataset else own


def _license(credit: Credit) -> dict[str, Any]:
    """Return the license; one that the Hub does not name has a link, if SPDX has a page of it."""
    fields, place = yaml.safe_load("\n".join(credit.hub_lines())), credit.croissant().get("license")
    has_page = isinstance(place, str) and place.startswith("https://")
    if fields["license"] == "other" and has_page:
        fields["license_link"] = place
    return fields


def _loader_fields(manifest: Manifest, store: Store) -> dict[str, Any]:
    """Return the fields that `load_dataset` reads, of the format hf seen from above its folder."""
    inner = f"{_HF_FOLDER}/{_CARD_NAME}"
    if inner not in {entry.path for entry in manifest.files}:
        return {}
    data = _parsed(DatasetCard, manifest, store, inner).data.to_dict()
    for config in data.get("configs", ()):
        for files in config["data_files"]:
            files["path"] = f"{_HF_FOLDER}/{files['path']}"
    return data


def _parsed(card_class: type[_Card], manifest: Manifest, store: Store, path: str) -> _Card:
    """Return a page of an artifact and the YAML above it, {} if there is none."""
    text = store.read(manifest, path)
    with reading(f"{manifest.prefix}/{path}", "a card"):
        page = text.decode()
        return card_class(page if page.startswith("---\n") else f"---\n{{}}\n---\n{page}")


def _joined(card: DatasetCard | ModelCard, manifest: Manifest) -> str:
    """Return the card's text, with a paragraph on the artifact that it is of."""
    # A copy of a repository has such a paragraph already.
    yaml_block, page = card.data.to_yaml(), card.text.partition(_ORIGIN)[0].strip("\n")
    return f"""---
{yaml_block}
---

{page}
{_ORIGIN}Artifact `{manifest.kind}/{artifact_label(manifest)}` of a sketchmill store. `manifest.json` has its
full digest, its spec and inputs, and the size and SHA-256 of every file. `README.md` and
`croissant.json`, if there is one, are written for this repository; every other file is the
store's, byte for byte.
"""


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, names)))
