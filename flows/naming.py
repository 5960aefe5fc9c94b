"""Names of flow runs: what is made, of which classes or which input, and at the end its digest.

build pets: cat, dog +17                  train pets of 3fa9c0ffee12
build pets: cat, dog +17 @3fa9c0ffee12    once it is there
"""

import re
from collections.abc import Sequence
from typing import Any

from prefect.runtime import flow_run

from flows.exporting import ExportParams
from flows.params import BuildParams, ChainParams, ReportParams, SampleParams, TrainParams
from flows.parts import BulkParams, ExportPartParams, ShardsParams

SHOWN_CLASSES = 2
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def run_name() -> str:
    """Return the name of the flow run that begins; its first parameter says what is made."""
    return f"{flow_run.flow_name} {subject(next(iter(flow_run.parameters.values())))}"


def result_name(flow_name: str, name: str, classes: Sequence[str], digest: str) -> str:
    """Return the name of a run that has made something.

    >>> result_name("build", "pets", ("cat", "dog"), "3fa9c0ffee12" + "0" * 52)
    'build pets: cat, dog @3fa9c0ffee12'
    """
    return f"{flow_name} {name}{_of_classes(classes)} @{digest[:12]}"


def subject(params: Any) -> str:
    """Return what parameters are about, in a few words.

    >>> subject(BuildParams(name="pets", classes=("cat", "dog", "cow")))
    'pets: cat, dog +1'
    >>> subject(ShardsParams(sample=SampleParams(model="ab" * 32), start=20, stop=40))
    '20-40 of abababababab'
    """
    if isinstance(params, BuildParams):
        return f"{params.name}{_of_classes(params.classes)}"
    if isinstance(params, ChainParams):
        return f"{params.model_name}{_of_classes(params.classes)}"
    if isinstance(params, TrainParams):
        return f"{params.name} of {short(params.dataset)}"
    if isinstance(params, ReportParams):
        return f"{params.name} of {short(params.samples)}"
    return _subject_of_bulk(params)


def rebuild_name(chain: ChainParams, lists: Any) -> str:
    """Return the name of a rebuild: the class lists that it makes, or the chain without any.

    >>> rebuild_name(ChainParams(), {"pets": ["cat", "dog"], "birds": ["owl"], "fish": ["fish"]})
    'rebuild pets: cat, dog; birds: owl; +1'
    """
    if not isinstance(lists, dict) or not lists:
        return f"rebuild {subject(chain)}"
    shown = [f"{name}{_of_classes(lists[name])}" for name in [*lists][:SHOWN_CLASSES]]
    more = len(lists) - len(shown)
    return f"rebuild {'; '.join(shown)}" + (f"; +{more}" if more > 0 else "")


def few(items: Sequence[str]) -> str:
    """Return the first items and how many more there are.

    >>> few(("bee", "cat", "sun", "tree"))
    'bee, cat +2'
    """
    more = len(items) - SHOWN_CLASSES
    return ", ".join(items[:SHOWN_CLASSES]) + (f" +{more}" if more > 0 else "")


def short(ref: str) -> str:
    """Return a ref with its digest cut to 12 characters.

    >>> short("samples/pets@" + "ab" * 32)
    'samples/pets@abababababab'
    """
    return _DIGEST.sub(r"\1", ref)


def _subject_of_bulk(params: Any) -> str:
    if isinstance(params, SampleParams):
        return f"{params.name} of {short(params.model)}{_of_classes(params.classes)}"
    if isinstance(params, ShardsParams):
        return f"{params.start}-{params.stop} of {short(params.sample.model)}"
    if isinstance(params, ExportParams):
        return short(params.ref)
    if isinstance(params, ExportPartParams):
        return f"{params.part} of {params.parts} of {short(params.export.ref)}"
    assert isinstance(params, BulkParams), params
    return subject(params.sample)


def _of_classes(classes: Sequence[str]) -> str:
    return f": {few(classes)}" if classes else ""
