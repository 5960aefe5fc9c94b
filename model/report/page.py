"""The report artifact: an HTML page, one picture per class, and metrics.

`report.html` needs no network and no script. `pictures/<class>.png` shows real drawings of the test
split above generated ones; `generated.png` is a contact sheet of generated drawings alone. With an
audit the page compares statistics of the two sets; with filters the page shows accepted drawings
only.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from model.audit.run import accepted_mask, read_audit
from model.report.plots import compare_svg, confusion_svg, curve_svg, per_class_svg
from model.report.sections import (
    SPLITS,
    attribution,
    audit_table,
    class_counts,
    class_table,
    closest_pairs,
    gate_rows,
    gate_verdict,
    how_to_cite,
    how_to_load,
    is_real,
    key_numbers,
    lineage_steps,
    lineage_tree,
    rejections,
)
from model.sampling.card import SHEET_NAME
from pipelines.drawings.grids import Images, grid, to_png, two_rows
from pipelines.drawings.reading import first_of_each_class, no_images
from pipelines.store.artifacts import Store
from pipelines.store.errors import reading
from pipelines.store.manifest import FileEntry, InputRef, Manifest, artifact_digest, slug
from pipelines.store.versions import versions_of

# Part of the digest: a changed page is another report of the same inputs.
PAGE_VERSION = 4
REPORT_NAME = "report.html"
# Drawings of a class on the contact sheet.
SHEET_COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The artifacts of a report; `audit` and the gate's `checks` are set if audited.

    first   samples of the model that training started from
    """

    dataset: Manifest
    model: Manifest
    samples: Manifest
    audit: Manifest | None = None
    first: Manifest | None = None
    checks: Sequence[Mapping[str, Any]] = ()

    def artifacts(self) -> dict[str, Manifest]:
        """Return the artifacts by role."""
        found = {"dataset": self.dataset, "model": self.model, "samples": self.samples}
        others = {"audit": self.audit, "first": self.first}
        return found | {role: each for role, each in others.items() if each}


def report_digest(spec: Mapping[str, Any], inputs: tuple[InputRef, ...]) -> str:
    """Return the digest of the report for this spec and inputs."""
    return artifact_digest("reports", spec, inputs)


def report_spec(*, per_class: int, checks: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the spec of a report."""
    spec: dict[str, Any] = {"page_version": PAGE_VERSION, "per_class": per_class}
    return spec | ({"checks": [dict(check) for check in checks]} if checks else {})


def report_inputs(
    dataset: Manifest,
    model: Manifest,
    samples: Manifest,
    audit: Manifest | None = None,
    first: Manifest | None = None,
) -> tuple[InputRef, ...]:
    """Return the lineage of a report."""
    subject = Subject(dataset=dataset, model=model, samples=samples, audit=audit, first=first)
    roles = subject.artifacts()
    return tuple(artifact.ref(role) for role, artifact in roles.items())


def make_report(
    dataset: Manifest,
    model: Manifest,
    samples: Manifest,
    store: Store,
    *,
    name: str,
    per_class: int = 8,
    audit: Manifest | None = None,
    first: Manifest | None = None,
    checks: Sequence[Mapping[str, Any]] = (),
) -> Manifest:
    """Render and publish the report, or return it if it already exists in the store.

    audit   of the samples (model.audit.run), for its sections
    first   samples of the model that training started from, for a section of their own
    checks  of a gate (model.audit.gate), as JSON values
    """
    subject = Subject(
        dataset=dataset, model=model, samples=samples, audit=audit, first=first, checks=checks
    )
    spec = report_spec(per_class=per_class, checks=checks)
    inputs = report_inputs(dataset, model, samples, audit, first)
    digest = report_digest(spec, inputs)
    if found := store.reuse("reports", name, digest):
        return found
    contents = dict(_contents(subject, store, per_class))
    manifest = Manifest(
        kind="reports",
        name=name,
        digest=digest,
        spec=spec,
        inputs=inputs,
        files=tuple(_entry(path, content) for path, content in contents.items()),
        summary={"page": REPORT_NAME, "class_names": list(dataset.summary["class_names"])}
        | ({"gate": gate_verdict(checks)} if checks else {}),
        versions=versions_of("matplotlib", "jinja2", "pillow"),
    )
    return store.publish_files(manifest, contents)


def _contents(subject: Subject, store: Store, per_class: int) -> Iterator[tuple[str, bytes]]:
    real = first_of_each_class(subject.dataset, store, split="test", per_class=per_class)
    most = max(per_class, SHEET_COLUMNS)
    audit, samples = subject.audit, subject.samples
    accepted = accepted_mask(audit, samples, store) if audit else None
    drawn = first_of_each_class(samples, store, split="train", per_class=most, accepted=accepted)
    made = {name: images[:per_class] for name, images in drawn.items()}
    pictures = {
        name: to_png(two_rows(real.get(name, no_images()), made[name]))
        for name in made
        if len(made[name])
    }
    file_names = _picture_names(pictures)
    for name, picture in pictures.items():
        yield f"pictures/{file_names[name]}.png", picture
    rows = [drawn[name][:SHEET_COLUMNS] for name in pictures]
    sheet = to_png(grid(rows or [no_images()], scale=2))
    yield "generated.png", sheet
    values = _page_values(subject, store, pictures=pictures, real=real, made=made)
    values |= {"sheet": _base64(sheet), "sheet_columns": SHEET_COLUMNS}
    values |= _start_values(subject, store)
    yield REPORT_NAME, _render(values | _audit_values(subject, store)).encode()


def _render(values: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = files("model.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)


def _page_values(
    subject: Subject,
    store: Store,
    *,
    pictures: Mapping[str, bytes],
    real: Mapping[str, Images],
    made: Mapping[str, Images],
) -> dict[str, Any]:
    """Return the template values of dataset, model and samples."""
    dataset, model, samples = subject.dataset, subject.model, subject.samples
    with reading(f"{model.prefix}/evaluation.json", "an evaluation"):
        test = json.loads(store.read(model, "evaluation.json"))["test"]
        by_class = test["classes"]
        bpd = {name: row["bits_per_dim"] for name, row in by_class.items()}
        error = {name: row["bits_per_dim_stderr"] for name, row in by_class.items()}
    return {
        "title": f"{samples.name}: drawings of {len(pictures)} classes",
        "real_word": "real" if is_real(dataset) else "source",
        "numbers": key_numbers(dataset, samples, test, audit=subject.audit),
        "classes": [
            {
                "name": name,
                "note": f"{bpd[name]:.3f} bits/dim" if name in bpd else "",
                "png": _base64(picture),
                "real": len(real.get(name, ())),
                "generated": len(made[name]),
            }
            for name, picture in pictures.items()
        ],
        "curve_svg": _safe(curve_svg(_curve(model, store))),
        "per_class_svg": _safe(per_class_svg(bpd, error)),
        "splits": SPLITS,
        "counts": class_counts(dataset),
        "lineage": lineage_steps(subject.artifacts()),
        "tree": lineage_tree(samples, store),
        "usage": how_to_load(samples),
        "citation": how_to_cite(dataset, model, samples),
        "attribution": attribution(dataset, model),
    }


def _start_values(subject: Subject, store: Store) -> dict[str, Any]:
    """Return the template values of the model that training started from, if it did."""
    summary, first = subject.model.summary, subject.first
    init = subject.model.input("init")
    sheet = store.read(first, SHEET_NAME) if first else b""
    return {
        "init": f"{init.name}@{init.digest[:12]}" if init else "",
        "inherited": summary.get("inherited_classes", ()),
        "new": summary.get("new_classes", ()),
        "first": _base64(sheet),
        "first_classes": first.summary["class_names"] if first else (),
    }


def _audit_values(subject: Subject, store: Store) -> dict[str, Any]:
    """Return the template values of the audit; `audit` is None without one."""
    if subject.audit is None:
        return {"audit": None}
    numbers = read_audit(subject.audit, store)
    names = list(subject.dataset.summary["class_names"])
    classes = {name: numbers["classes"][name] for name in names if name in numbers["classes"]}
    numbers["classes"] = classes  # in the order of the labels
    pairs, captions = closest_pairs(numbers, subject.samples, subject.dataset, store)
    confusion = numbers.get("confusion")
    ink = compare_svg(
        classes, "ink_mean", low="ink_low", high="ink_high", label="inked pixels: mean, 5 to 95 %"
    )
    return {
        "audit": audit_table(numbers),
        "audit_classes": class_table(numbers),
        "audit_counts": {
            "compared": f"{numbers['num_compared']:,}",
            "held_out": f"{numbers['num_held_out']:,}",
            "accepted": f"{numbers['accepted']:,}",
            "drawn": f"{numbers['drawn']:,}",
        },
        "rejections": rejections(numbers),
        "filters": json.dumps(numbers["filters"], indent=1) if numbers["filters"] else "",
        "gate": gate_rows(subject.checks),
        "verdict": gate_verdict(subject.checks),
        "pairs": None if pairs is None else _base64(to_png(pairs)),
        "captions": captions,
        "ink_svg": _safe(ink),
        "confusion_svg": _safe(confusion_svg(confusion, names)) if confusion else None,
    }


def _curve(model: Manifest, store: Store) -> list[dict[str, float]]:
    content = store.read(model, "curve.jsonl")
    with reading(f"{model.prefix}/curve.jsonl", "a curve"):
        return [json.loads(line) for line in content.splitlines() if line.strip()]


def _picture_names(class_names: Iterable[str]) -> dict[str, str]:
    """Return a unique, path-safe file name for each class."""
    names: dict[str, str] = {}
    for place, class_name in enumerate(class_names):
        try:
            name = slug(class_name)
        except ValueError:
            name = f"class-{place}"
        names[class_name] = name if name not in names.values() else f"{name}-{place}"
    return names


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _safe(svg: str) -> Markup:
    """Mark generated SVG as safe for the template's escaping."""
    return Markup(svg)


def _entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
