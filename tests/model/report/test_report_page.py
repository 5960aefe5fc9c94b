"""The page: self-contained, without scripts, and right in a browser, wide and narrow."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ring_chain import make_chain

from model.audit.filters import Filters
from model.audit.gate import check_gate, gate_from
from model.audit.run import AuditSpec, audit_samples
from model.report.page import make_report
from model.report.plots import compare_svg, confusion_svg
from model.report.sections import audit_table, class_counts, class_table
from pipelines.store.artifacts import open_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The store, the chain, its report with an audit and a gate, and the page's path."""
    store = open_store(str(tmp_path_factory.mktemp("report") / "store"))
    dataset, model, samples = make_chain(store)
    spec = AuditSpec(filters=Filters(min_ink=60, drop_duplicates=True))
    audit = audit_samples(samples, dataset, store, name="rings-audit", spec=spec)
    numbers = json.loads(store.get(f"{audit.prefix}/audit.json"))
    limits = gate_from({"max": {"near_copy_rate": 0.9, "blank_rate": -1}}, source="gate")
    checks = [check.to_json() for check in check_gate(limits, numbers)]
    report = make_report(dataset, model, samples, store, name="rings", audit=audit, checks=checks)
    return store, (dataset, model, samples), store.local_path(report.prefix) / "report.html"


class Tags(HTMLParser):
    """Collects the tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_no_script_and_no_network(reported):
    tags = Tags(reported[2].read_text()).found
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            value = attributes.get(name) or attributes.get(f"xlink:{name}") or "data:"
            assert value.startswith(("data:image/png;base64,", "data:", "#")), (tag, value[:60])


def test_the_page_shows_every_part(reported):
    _, (dataset, model, samples), page = reported
    text = page.read_text()
    for heading in ("Drawings", "Contact sheet", "Audit", "Gate", "Filters", "Likelihood"):
        assert re.search(rf"<h[23]>{heading}</h[23]>", text), heading
    for manifest in (dataset, model, samples):
        assert manifest.digest in text
    assert "load_dataset" in text
    assert "@misc{rings_" in text
    assert "near_copy_rate" in text
    assert re.search(r'class="FAILED">FAILED', text)
    assert "`-- model: models/rings@" in text


def test_names_from_outside_are_escaped(reported):
    text = reported[2].read_text()
    assert "<turtle>" not in text
    assert "sea &lt;turtle&gt; &amp;" in text
    assert (reported[2].parent / "pictures" / "sea-turtle-co.png").is_file()


def test_equal_input_gives_the_same_page(reported, tmp_path):
    _, _, page = reported
    store = open_store(str(tmp_path / "again"))
    dataset, model, samples = make_chain(store)
    spec = AuditSpec(filters=Filters(min_ink=60, drop_duplicates=True))
    audit = audit_samples(samples, dataset, store, name="rings-audit", spec=spec)
    numbers = json.loads(store.get(f"{audit.prefix}/audit.json"))
    limits = gate_from({"max": {"near_copy_rate": 0.9, "blank_rate": -1}}, source="gate")
    checks = [check.to_json() for check in check_gate(limits, numbers)]
    report = make_report(dataset, model, samples, store, name="rings", audit=audit, checks=checks)
    assert store.get(f"{report.prefix}/report.html") == page.read_bytes()


def test_without_an_audit_the_page_has_no_audit(reported):
    store, chain, _ = reported
    report = make_report(*chain, store, name="plain")
    text = store.get(f"{report.prefix}/report.html").decode()
    assert "<h2>Audit</h2>" not in text
    assert "<h2>Contact sheet</h2>" in text


def test_drop_reasons_are_shown_by_class(reported):
    _, (dataset, _, _), _ = reported
    rows = {row["name"]: row["dropped"] for row in class_counts(dataset)}
    assert rows["bee"] == "3 blank, 1 too much ink"
    assert rows["The Eiffel Tower"] == "-"


def test_tables_show_only_numbers_that_are_there():
    row = {"num_drawings": 5, "ink_mean": 40.0, "darkness": 0.5, "near_copy_rate": 0.1}
    numbers = {"exact_copy_rate": 0.25, "real_exact_copy_rate": 0.01, "classes": {"bee": row}}
    assert audit_table(numbers) == [
        {"what": "equal to a training drawing", "found": "25.00 %", "real": "1.00 %"}
    ]
    judged = row | {"judge_agreement": 0.5, "real_judge_agreement": 0.9, "real_ink_mean": 50.0}
    assert class_table(numbers)[0]["judge"] == "-"
    shown = class_table({"classes": {"bee": judged}})[0]
    assert (shown["judge"], shown["ink"]) == ("50 % / 90 %", "40 / 50")


def test_comparisons_are_svg_with_every_class():
    numbers = {"ink_mean": 50.0, "ink_low": 30.0, "ink_high": 80.0}
    row = numbers | {f"real_{name}": value + 5 for name, value in numbers.items()}
    drawn = compare_svg(
        {"sun": row, "swan": row}, "ink_mean", low="ink_low", high="ink_high", label="x"
    )
    assert drawn.startswith("<svg")
    assert "sun" in drawn
    assert "swan" in drawn
    assert "swan" in confusion_svg([[3, 1], [0, 0]], ["sun", "swan"])


def screenshot(page: Path, target: Path, width: int, height: int) -> np.ndarray:
    """Open a page in a new headless Chromium and return its pixels."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={target.parent / 'profile'}",
        f"--window-size={width},{height}", f"--screenshot={target}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(target).convert("L"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_the_page_within_its_width(reported, tmp_path, width):
    """Headless Chromium has no window below 500 pixels; a phone's 390 is a frame within one."""
    _, _, page = reported
    pixels = screenshot(page, tmp_path / "page.png", width, 6000)
    assert pixels.shape[1] == width
    inked = (pixels < 200).mean(axis=1)
    assert (inked[:600] > 0).mean() > 0.3  # the header and the first pictures
    assert (inked[3000:5000] > 0).any()  # and it goes on far below
    margin = pixels[:, -6:]
    assert (margin > 240).all(), "something reaches over the right edge"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_phone_shows_the_page_within_its_width(reported, tmp_path):
    _, _, page = reported
    frame = tmp_path / "phone.html"
    style = "border:0;width:390px;height:6000px;display:block"
    frame.write_text(
        f'<body style="margin:0;background:#000"><iframe src="{page.as_uri()}" style="{style}">'
    )
    pixels = screenshot(frame, tmp_path / "page.png", 500, 6000)
    assert (pixels[:, 392:] == 0).all()
    assert (pixels[:, 386:390] > 240).all(), "something reaches over the right edge"
    assert (pixels[:3000, :380] < 200).any(axis=1).mean() > 0.3


@pytest.mark.slow
def test_a_changed_audit_is_another_report(reported):
    store, (dataset, model, samples), _ = reported
    audit = audit_samples(samples, dataset, store, name="rings-audit", spec=AuditSpec())
    first = make_report(dataset, model, samples, store, name="rings", audit=audit)
    plain = make_report(dataset, model, samples, store, name="rings")
    assert first.digest != plain.digest
    assert dataclasses.asdict(first)["inputs"][-1]["role"] == "audit"
