"""Lineage, the in-toto statement and Croissant: what they say is what lies in the store."""

import dataclasses
import hashlib
import json

import mlcroissant
import pytest

from pipelines.export.run import export_dataset
from pipelines.export.spec import ExportSpec
from pipelines.store.lineage import ancestors, lineage_text, provenance_json, trace
from pipelines.store.manifest import InputRef, Manifest, artifact_digest

SPEC = ExportSpec(formats=("hf", "idx"))


@pytest.fixture
def chain(store, make_dataset):
    """Samples of a model of a dataset, and their export."""
    dataset = make_dataset(store, {"train": (5,)}).manifest
    inputs = (InputRef(role="dataset", kind="datasets", name=dataset.name, digest=dataset.digest),)
    digest = artifact_digest("models", {"layers": 1}, inputs)
    model = store.publish(
        Manifest(kind="models", name="tiny", digest=digest, spec={"layers": 1}, inputs=inputs)
    )
    drawn = make_dataset(store, {"train": (6,)}, kind="samples", seed=1).manifest
    inputs = (InputRef(role="model", kind="models", name=model.name, digest=model.digest),)
    samples = dataclasses.replace(drawn, name="made", inputs=inputs)
    for entry in drawn.files:
        store.put(f"{samples.prefix}/{entry.path}", store.get(f"{drawn.prefix}/{entry.path}"))
    samples = store.publish(samples)
    return export_dataset(samples, store, SPEC, name="made"), samples, model, dataset


def test_the_tree_leads_down_to_the_source(store, chain):
    export, samples, model, dataset = chain
    assert lineage_text(trace(export, store)).splitlines() == [
        f"exports/made@{export.digest[:12]}",
        f"`-- samples: samples/made@{samples.digest[:12]}",
        f"    `-- model: models/tiny@{model.digest[:12]}",
        f"        `-- dataset: datasets/small@{dataset.digest[:12]}",
        "            `-- source: source/random@555555555555",
    ]


def test_the_tree_ends_at_the_files_of_a_source(store, chain):
    *_, dataset = chain
    files = [
        {"file": "bee.npy", "digest": "sha256:" + "a" * 64},
        {"file": "sun.npy", "digest": "etag:abc"},
    ]
    described = dataclasses.replace(dataset, summary={**dataset.summary, "source_files": files})
    assert lineage_text(trace(described, store)).splitlines()[1:] == [
        "`-- source: source/random@555555555555",
        f"    |-- file: bee.npy@{'a' * 12}",
        "    `-- file: sun.npy@abc",
    ]
    statement = json.loads(provenance_json(described, store))
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [each["digest"] for each in found] == [
        {"sha256": "5" * 64},
        {"sha256": "a" * 64},
        {"etag": "abc"},
    ]


def test_an_input_that_was_deleted_is_named_as_gone(store, chain):
    export, samples, _, _ = chain
    store.delete(f"{samples.prefix}/manifest.json")
    assert lineage_text(trace(export, store)).splitlines()[1].endswith("(gone)")


def test_two_inputs_make_two_branches(store, chain):
    export, samples, _, _ = chain
    both = dataclasses.replace(samples, inputs=(*samples.inputs, *export.inputs))
    text = lineage_text(trace(both, store))
    assert "\n|-- model: " in text
    assert "\n|   `-- dataset: " in text
    assert "\n`-- samples: " in text


def test_the_statement_names_every_file_and_every_ancestor(store, chain):
    export, samples, model, dataset = chain
    statement = json.loads(store.get(f"{export.prefix}/provenance.json"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in statement["subject"]:
        content = store.get(f"{export.prefix}/{subject['name']}")
        assert hashlib.sha256(content).hexdigest() == subject["digest"]["sha256"], subject
    named = {subject["name"] for subject in statement["subject"]}
    assert named == {entry.path for entry in export.files} - {"provenance.json"}
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = [dependency["digest"]["sha256"] for dependency in dependencies]
    assert digests == [samples.digest, model.digest, dataset.digest, "5" * 64]
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["spec"] == {
        **SPEC.to_json()
    }


def test_each_ancestor_comes_once(store, chain):
    export, _, _, _ = chain
    doubled = dataclasses.replace(export, inputs=export.inputs * 2)
    assert len(list(ancestors(trace(doubled, store)))) == 4


@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # its pandas calls
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # mlcroissant's own
@pytest.mark.parametrize("kind", ["samples", "datasets"])
def test_croissant_is_valid_and_says_whether_drawings_are_synthetic(store, make_dataset, kind):
    drawn = make_dataset(store, {"train": (6,)}, kind=kind)
    export = export_dataset(drawn.manifest, store, SPEC, name="small")
    root = store.local_path(export.prefix)
    read = mlcroissant.Dataset(root / "croissant.json")
    assert not read.metadata.ctx.issues.errors
    raw = json.loads((root / "croissant.json").read_text())
    assert raw["rai:hasSyntheticData"] is (kind == "samples")
    assert ("synthetic" in raw["keywords"]) is (kind == "samples")
    assert "creativecommons.org/licenses/by/4.0" in raw["license"]
    assert "Google" in raw["citeAs"]
    labels = [record["drawings/label"] for record in read.records("drawings")]
    assert labels == drawn.labels["train"].tolist()


def test_the_readmes_say_synthetic_and_carry_the_attribution_on(store, chain):
    export, _, _, _ = chain
    for name in ("README.md", "hf/README.md"):
        text = store.get(f"{export.prefix}/{name}").decode()
        assert "synthetic" in text
        assert "CC BY 4.0" in text
        assert "Google" in text
