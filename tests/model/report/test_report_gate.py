"""What a report with an audit says of filters and gates, and that its own lines load."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ring_chain import NAMES, make_chain, rings

from flows.cli import run_command_line
from model.audit.filters import Filters
from model.audit.gate import Limit, check_gate
from model.audit.run import AuditSpec, accepted_mask, audit_samples, read_audit
from model.report.page import make_report
from model.report.sections import gate_rows, gate_verdict
from pipelines.drawings.grids import grid
from pipelines.store.artifacts import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def report_of(store: Store, filters: Filters, limits=()):
    """Return the page's text, its folder, the audit and the samples."""
    dataset, model, samples = make_chain(store)
    spec = AuditSpec(filters=filters)
    audit = audit_samples(samples, dataset, store, name="rings-audit", spec=spec)
    checks = [check.to_json() for check in check_gate(limits, read_audit(audit, store))]
    made = make_report(dataset, model, samples, store, name="rings", audit=audit, checks=checks)
    folder = store.local_path(made.prefix)
    return (folder / "report.html").read_text(), folder, audit, samples


def test_pictures_are_of_accepted_drawings(store):
    text, folder, audit, samples = report_of(store, Filters(min_ink=110))
    mask = accepted_mask(audit, samples, store)
    images, labels = rings(3, 40)
    assert 0 < mask[labels == 0].sum() < 24
    rows = [images[mask & (labels == label)][:24] for label in range(3)]
    sheet = np.asarray(Image.open(folder / "generated.png"))
    assert (sheet == grid([row for row in rows if len(row)], scale=2)).all()
    assert f"<b>{mask.sum()}</b><span>drawings accepted of 120 generated" in text
    assert "that the filters accept" in text


def test_a_page_of_which_nothing_is_accepted_is_still_made(store):
    text, *_ = report_of(store, Filters(max_ink=1))
    assert "0 of 120 drawings are accepted: 120 too much ink" in text


@pytest.mark.parametrize(("limit", "verdict"), [(0.0, "passed"), (-1.0, "failed")])
def test_the_verdict_of_the_gate_stands_at_the_top(store, limit, verdict):
    limits = [Limit(name="exact_copy_rate", side="max", value=limit)]
    text, *_ = report_of(store, Filters(), limits)
    top = text[: text.index("<h2>Drawings</h2>")]
    assert f"Gate {verdict}." in top
    assert ("exact_copy_rate is 0, at most -1 is allowed" in top) == (verdict == "failed")


def test_checks_that_failed_stand_first_and_one_without_a_number_fails():
    checks = [
        {"name": "a", "subject": "", "side": "max", "limit": 1, "found": 0.5, "is_passed": True},
        {"name": "b", "subject": "x", "side": "min", "limit": 1, "found": None, "is_passed": False},
    ]
    rows = gate_rows(checks)
    assert [row["what"] for row in rows] == ["b of x", "a"]
    assert rows[0]["found"] == "none"
    assert (gate_verdict(checks), gate_verdict(checks[:1]), gate_verdict([])) == (
        "failed", "passed", ""
    )  # fmt: skip


@pytest.mark.slow
def test_a_closed_gate_leaves_a_page_with_the_failed_numbers_and_an_error(store, tmp_path, capsys):
    make_chain(store)
    gate = tmp_path / "gate.toml"
    gate.write_text("[class.min]\nstroke_density = 50\n")
    command = ["report", "--samples", "rings", "--gate", str(gate), "--store", store.url, "--quiet"]
    assert run_command_line(command) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "stroke_density of bee is" in error
    page = Path(re.search(r"as (\S+report\.html) shows", error)[1])
    text = page.read_text()
    assert "Gate failed." in text
    assert text.count('class="FAILED"') == len(NAMES)
    assert "more of single classes" not in text
    assert store.latest("reports", "rings").summary["gate"] == "failed"
    gate.write_text("[class.min]\nstroke_density = 0.5\n")
    assert run_command_line(command) == 0
    made = store.latest("reports", "rings")
    assert made.summary["gate"] == "passed"
    assert "3 more of single classes, passed" in store.read(made, "report.html").decode()


@pytest.mark.slow
def test_the_lines_that_the_page_gives_load_the_drawings(store, tmp_path, monkeypatch):
    import datasets

    text, _, _, samples = report_of(store, Filters())
    lines = html.unescape(re.search(r'id="load">(.*?)</pre>', text, re.DOTALL)[1])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(store.local_path(""))
    found: dict = {}
    exec(lines, found)
    images, labels = rings(3, 40)
    assert samples.prefix in lines
    assert found["drawings"]["label"] == labels.tolist()
    assert (np.asarray(found["drawings"][7]["image"]) == images[7]).all()
