"""Publish progress, results, pictures and links of a run to Prefect's interface.

    progress    an artifact of the task run, updated at most every ten seconds
    result      a table: digest, place, drawings by split and class, bits/dim
    report      its two-row pictures, real above generated, and where the page is
    name        of the run: what it has made

A browser cannot open a file of a worker or an s3:// URL. If the store's root is served over HTTP,
$SKETCHMILL_PUBLIC_URL holds its URL and the artifact links the page; otherwise it shows the path.
Small pictures are part of the artifact.

The dashboard is informational: if the server does not answer, this is logged and the work goes on.

A run's name contains what it makes, the classes or the input, and at the end the digest:

    build pets: cat, dog +17                  train pets of 3fa9c0ffee12
    build pets: cat, dog +17 @3fa9c0ffee12    once it is there
"""

import base64
import contextvars
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.stages.chain import BulkParams, ChainParams
from flows.terminal import progress_line
from pipelines.processes.progress import Progress
from pipelines.store.artifacts import Store, open_store
from pipelines.store.manifest import artifact_prefix, slug
from pipelines.store.printable import printable

SHOWN_CLASSES = 2
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


PUBLIC_URL = "SKETCHMILL_PUBLIC_URL"
# Of a report's pictures in an artifact, which is a row in the server's database.
MAX_EMBEDDED_BYTES = 200_000
# Every update is a row in the server's database.
UPDATE_SEC = 10.0
LOG_SEC = 60.0
_log = logging.getLogger(__name__)


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
    """Return a short description of parameters.

    >>> subject(ChainParams(name="pets", classes=("cat", "dog", "cow")))
    'pets: cat, dog +1'
    """
    if isinstance(params, BulkParams):
        return subject(params.sample)
    what = [getattr(params, name, "") for name in ("shards", "part", "model_name", "name")]
    made_of = [getattr(params, name, "") for name in ("dataset", "model", "samples", "ref")]
    parts = [next(filter(None, what), ""), short(next(filter(None, made_of), ""))]
    return " of ".join(filter(None, parts)) + _of_classes(getattr(params, "classes", ()))


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


def _of_classes(classes: Sequence[str]) -> str:
    return f": {few(classes)}" if classes else ""


@contextmanager
def showing_progress(title: str, logger: Any) -> Iterator[Progress]:
    """Yield a callback that costs nothing; a thread shows the last call now and then."""
    reporter = _Reporter(title, logger)
    # The thread must know the task run, to which the artifacts belong.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(reporter.run,), daemon=True)
    thread.start()
    try:
        yield reporter
    finally:
        reporter.done.set()
        thread.join(UPDATE_SEC)


def show_result(result: Mapping[str, Any], store: str) -> None:
    """Show what a stage made in a store: its digest and place first, then its numbers."""
    key = artifact_key(result["kind"], result["name"])
    _try(
        lambda: create_table_artifact(
            table=result_rows(result),
            key=key,
            description=f"{result['kind']}/{result['name']}@{result['digest'][:12]}",
        )
    )
    if result["kind"] == "reports":
        _try(lambda: _show_report(result, open_store(store)))


def name_run(name: str) -> None:
    """Rename the current flow run."""
    _try(lambda: _rename(name))


def result_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table of a result; the first row is its digest."""
    summary = result["summary"]
    rows = [("digest", result["digest"]), ("place", result["place"]), ("bytes", result["bytes"])]
    for key, found in summary.get("counts", {}).items():
        if isinstance(found, Mapping):  # by split and class in datasets, by class alone in exports
            rows += [(f"{key} {class_name}", count) for class_name, count in found.items()]
        else:
            rows.append((key, found))
    rows += [(name, value) for name, value in summary.items() if name.endswith("bits_per_dim")]
    per_class = summary.get("bits_per_dim_by_class", {})
    rows += [(f"bits_per_dim {class_name}", value) for class_name, value in per_class.items()]
    return [{"what": what, "value": value} for what, value in rows]


def artifact_key(kind: str, name: str) -> str:
    """Return an artifact's key: letters, digits and dashes.

    >>> artifact_key("models", "cats-tiny")
    'models-cats-tiny'
    """
    return slug(f"{kind}-{name}")


def public_url(result: Mapping[str, Any], path: str) -> str:
    """Return the URL of an artifact's file for browsers, empty if the store is not served."""
    root = printable(os.environ.get(PUBLIC_URL, "")).rstrip("/")
    return f"{root}/{quote(f'{_prefix(result)}/{path}')}" if root else ""


def report_markdown(result: Mapping[str, Any], store: Store) -> str:
    """Return where a report is and its pictures, as far as they are small enough to be shown.

    Raises StoreError if a picture is not as published.
    """
    place, page = result["place"], result["summary"].get("page", "report.html")
    url = public_url(result, page)
    lines = [f"[Report]({url})" if url else f"Report: `{place}/{page}`"]
    left = MAX_EMBEDDED_BYTES
    report = store.resolve(result["kind"], f"{result['name']}@{result['digest']}")
    for path in [entry.path for entry in report.files if entry.path.startswith("pictures/")]:
        picture = store.read(report, path)
        left -= len(picture)
        if left < 0:
            lines.append(f"More pictures: `{place}/pictures`")
            break
        embedded = base64.b64encode(picture).decode("ascii")
        lines.append(f"![{Path(path).stem}](data:image/png;base64,{embedded})")
    return "\n\n".join(lines)


def _rename(name: str) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(UUID(flow_run.id), name)


def _prefix(result: Mapping[str, Any]) -> str:
    return artifact_prefix(result["kind"], result["name"], result["digest"])


def _show_report(result: Mapping[str, Any], store: Store) -> None:
    key = artifact_key("report", result["name"])
    if link := public_url(result, result["summary"].get("page", "report.html")):
        create_link_artifact(link=link, link_text="report", key=f"{key}-page")
    create_markdown_artifact(markdown=report_markdown(result, store), key=f"{key}-pictures")


class _Reporter:
    """The last progress of a stage, and the thread that shows it."""

    def __init__(self, title: str, logger: Any) -> None:
        self._title, self._logger = title, logger
        self._last: tuple[str, int, int, str] | None = None
        self._artifacts: dict[str, Any] = {}
        self._updated: tuple[str, int] | None = None
        self._logged = -LOG_SEC
        self.done = threading.Event()

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        self._last = (stage, done, total, message)

    def run(self) -> None:
        """Show what there is until the work is done, and once more."""
        while not self.done.wait(UPDATE_SEC):
            self._show()
        self._show()

    def _show(self) -> None:
        if self._last is None:
            return
        (stage, done, total, message), self._last = self._last, None
        if time.monotonic() - self._logged >= LOG_SEC:
            self._logged = time.monotonic()
            self._logger.info("%s %s", self._title, progress_line(stage, done, total, message))
        if total and (stage, done) != self._updated:  # what waits is told again and again
            self._updated = (stage, done)
            _try(lambda: self._update(stage, 100.0 * done / total))

    def _update(self, stage: str, percent: float) -> None:
        if stage in self._artifacts:
            update_progress_artifact(self._artifacts[stage], progress=min(percent, 100.0))
        else:
            self._artifacts[stage] = create_progress_artifact(
                progress=min(percent, 100.0), description=f"{self._title}: {stage}"
            )


def _try(show: Callable[[], Any]) -> None:
    """Call `show`; log an error instead of raising it."""
    try:
        show()
    except Exception as error:
        _log.warning("not shown in Prefect: %s: %s", type(error).__name__, error)
