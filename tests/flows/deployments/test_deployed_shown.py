"""What an operator sees of a run: its name, its table, its pictures, where the report is."""

import hashlib
import re
from dataclasses import replace

import pytest

from flows.deployments import dashboard
from flows.deployments import flows as deployed
from flows.deployments.dashboard import (
    PUBLIC_URL,
    public_url,
    report_markdown,
    result_rows,
    subject,
)
from flows.stages.build import BuildParams
from flows.stages.chain import BulkParams, ChainParams
from flows.stages.export import ExportParams
from flows.stages.report import ReportParams
from flows.stages.sample import SampleParams
from flows.stages.train import TrainParams
from pipelines.store.artifacts import StoreError, open_store
from pipelines.store.manifest import FileEntry, Manifest, artifact_digest, artifact_prefix

DIGEST = "3fa9c0ffee12" + "0" * 52
CLASSES = ("cat", "dog", "cow", "bee")
SAMPLE = SampleParams(name="net", model=DIGEST, classes=CLASSES)
EXPORT = ExportParams(ref=f"samples/net@{DIGEST}")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (BuildParams(name="pets", classes=CLASSES), "pets: cat, dog +2"),
        (TrainParams(name="net", dataset=DIGEST), "net of 3fa9c0ffee12"),
        (SAMPLE, "net of 3fa9c0ffee12: cat, dog +2"),
        (SampleParams(name="net", model="latest"), "net of latest"),
        (replace(SAMPLE, shards="2-4"), "2-4 of 3fa9c0ffee12: cat, dog +2"),
        (ReportParams(name="net", samples=DIGEST), "net of 3fa9c0ffee12"),
        (EXPORT, "samples/net@3fa9c0ffee12"),
        (replace(EXPORT, part="1/4"), "1/4 of samples/net@3fa9c0ffee12"),
        (ChainParams(source="doodles", classes=CLASSES[:2]), "doodles-tiny: cat, dog"),
        (BulkParams(sample=SAMPLE), "net of 3fa9c0ffee12: cat, dog +2"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_name_of_a_run_says_classes_and_digest(params, expected):
    assert subject(params) == expected


def test_every_flow_is_named_by_its_parameters():
    flows = [each for each in vars(deployed).values() if hasattr(each, "flow_run_name")]
    assert len(flows) == 11
    named = {each.name for each in flows if each.flow_run_name == deployed.run_name}
    assert {each.name for each in flows} - named == {"rebuild"}  # which names itself


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"pets": ["cat", "dog", "cow"]}, "rebuild pets: cat, dog +1"),
        ({"a": ["bee"], "b": ["sun"], "c": ["owl"]}, "rebuild a: bee; b: sun; +1"),
        (None, "rebuild doodles-tiny: cat, dog +2"),
        ({}, "rebuild doodles-tiny: cat, dog +2"),
    ],
)
def test_a_rebuild_is_named_after_the_class_lists_that_it_makes(lists, expected, monkeypatch):
    names = []
    monkeypatch.setattr(deployed, "name_run", names.append)
    monkeypatch.setattr(deployed, "_chain", lambda params, places: DIGEST)
    monkeypatch.setattr(deployed.Variable, "get", lambda name: lists)
    deployed.rebuild.fn(ChainParams(source="doodles", classes=CLASSES))
    made = ", ".join(f"{name} @{DIGEST[:12]}" for name in list(lists or {"doodles-tiny": 0})[:2])
    assert names[0] == expected
    assert names[1].startswith(f"rebuild {made}")


def test_a_warm_rebuild_starts_each_list_from_its_latest_model(monkeypatch):
    chains = []
    monkeypatch.setattr(deployed, "name_run", lambda name: None)
    monkeypatch.setattr(deployed, "_chain", lambda params, places: chains.append(params) or DIGEST)
    lists = {"pets": ["cat", "dog"], "birds": ["owl"]}
    deployed.rebuild.fn(ChainParams(source="quickdraw"), class_lists=lists, warm=True)
    deployed.rebuild.fn(ChainParams(source="quickdraw"), class_lists={"fish": ["fish"]})
    trained = [(each.name, each.train(DIGEST).init) for each in chains]
    assert trained == [("pets", "auto"), ("birds", "auto"), ("fish", "none")]


def test_table_of_a_result_begins_with_its_digest():
    result = {
        "digest": "d",
        "place": "/p",
        "bytes": 5,
        "summary": {
            "counts": {"train": {"bee": 2}},
            "test_bits_per_dim": 1.5,
            "bits_per_dim_by_class": {"bee": 1.4},
        },
    }
    rows = [(row["what"], row["value"]) for row in result_rows(result)]
    assert rows[0] == ("digest", "d")
    assert rows[3:] == [("train bee", 2), ("test_bits_per_dim", 1.5), ("bits_per_dim bee", 1.4)]


def test_table_of_an_export_has_its_counts_by_class_alone():
    result = {"digest": "d", "place": "/p", "bytes": 5, "summary": {"counts": {"bee": 2}}}
    assert result_rows(result)[-1] == {"what": "bee", "value": 2}


def a_report(store, num_pictures: int, size: int) -> dict:
    digest = artifact_digest("reports", {"pictures": num_pictures, "bytes": size}, ())
    prefix = artifact_prefix("reports", "net", digest)
    names = [*(f"pictures/class-{k}.png" for k in range(num_pictures)), "generated.png"]
    content = b"x" * size
    for name in names:
        store.put(f"{prefix}/{name}", content)
    sha256 = hashlib.sha256(content).hexdigest()
    files = tuple(FileEntry(path=name, bytes=size, sha256=sha256) for name in names)
    summary = {"page": "report.html"}
    spec = {"pictures": num_pictures, "bytes": size}
    store.publish(
        Manifest(kind="reports", name="net", digest=digest, spec=spec, files=files, summary=summary)
    )
    return {
        "kind": "reports",
        "name": "net",
        "digest": digest,
        "place": f"s3://bucket/{prefix}",
        "files": [*names, "report.html"],
        "summary": summary,
    }


def test_report_has_its_small_pictures_and_its_path_where_nobody_serves_the_store(monkeypatch):
    monkeypatch.delenv(PUBLIC_URL, raising=False)
    store = open_store("memory://")
    result = a_report(store, 2, size=3)
    text = report_markdown(result, store)
    assert text.count("](data:image/png;base64,eHh4)") == 2
    assert f"Report: `s3://bucket/reports/net/{result['digest']}/report.html`" in text
    assert not re.search(r"\]\((s3|file):", text)
    assert public_url(result, "report.html") == ""


def test_large_pictures_are_told_by_their_place(monkeypatch):
    monkeypatch.delenv(PUBLIC_URL, raising=False)
    store = open_store("memory://")
    text = report_markdown(a_report(store, 9, size=dashboard.MAX_EMBEDDED_BYTES // 4), store)
    assert text.count("data:image") == 4
    assert "More pictures: `s3://bucket" in text


def test_report_is_linked_where_the_store_is_served(monkeypatch):
    monkeypatch.setenv(PUBLIC_URL, "https://mill.example/store/")
    store = open_store("memory://")
    result = a_report(store, 1, size=3)
    text = report_markdown(result, store)
    place = f"https://mill.example/store/reports/net/{result['digest']}/report.html"
    assert f"[Report]({place})" in text


def test_damaged_picture_is_not_shown():
    store = open_store("memory://")
    result = a_report(store, 1, size=3)
    store.put(f"reports/net/{result['digest']}/pictures/class-0.png", b"xyx")
    with pytest.raises(StoreError, match="does not match its SHA-256"):
        report_markdown(result, store)


def test_display_that_fails_disturbs_no_work(monkeypatch, caplog):
    def fail(**_):
        raise ConnectionError("no server")

    monkeypatch.setattr(dashboard, "get_client", fail)
    dashboard.name_run("train net")
    assert "not shown in Prefect: ConnectionError" in caplog.text
