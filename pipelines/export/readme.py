"""What an export says of itself: the README at its root."""

from collections.abc import Sequence

from pipelines.export.formats.base import Loader, about
from pipelines.export.formats.registry import export_format
from pipelines.export.job import Job, Record

# Where pandas takes a name for a missing value unless told otherwise.
_MISSING = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip


def export_readme(job: Job, records: Sequence[Record]) -> bytes:
    """Return the README of the whole export: what it is, how to load and to cite it."""
    lines = [f"# {job.name}", "", about(job), "## Load it", ""]
    for loader in _loaders(job, records):
        lines += [f"### {loader.title}", "", "```python", loader.code, "```", ""]
        lines += [loader.note, ""] * bool(loader.note)
    if missing := [name for name in job.class_names if name in _MISSING]:
        shown = ", ".join(f"`{name}`" for name in missing)
        lines += [
            f"Without `keep_default_na=False` pandas takes {shown} for a missing `class_name`, and "
            "so does `imagefolder`; labels are numbers.",
            "",
        ]
    lines += [
        "`manifest.json` has the size and SHA-256 of every file and the full recipe,",
        "`provenance.json` the same as an in-toto statement, `croissant.json` the description for",
        "dataset search.",
    ]
    return ("\n".join(lines) + "\n").encode()


def load_lines(job: Job, records: Sequence[Record]) -> dict[str, str]:
    """Return the code that opens each format, to be run at the root of the export."""
    return {loader.title: loader.code for loader in _loaders(job, records)}


def _loaders(job: Job, records: Sequence[Record]) -> list[Loader]:
    formats = map(export_format, job.spec.formats)
    return [loader for made in formats for loader in made.loaders(job, records)]
