"""`sketchmill inspect`: look at a source before a dataset is made of it."""

import csv
import dataclasses
import io
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from flows.options import LIMITS, LabelNames, Output, SourceClasses, grouped, names_of
from flows.stages.base import naming_cache, writable_cache
from flows.stages.build import source_options
from flows.terminal import check_folder, current, displaying, print_result
from pipelines.catalogue import ALL, resolve_names
from pipelines.dataset.spec import SOURCE_SPLITS, ReadOptions, SizeOptions
from pipelines.drawings.limits import Limits

if TYPE_CHECKING:  # which import NumPy: --help needs this module
    from pipelines.dataset.inspect import Inspection
    from pipelines.sources.base import Source

# Classes, and files that are refused, that the text lists.
_SHOWN_CLASSES = 12
_SHOWN_FILES = 3


@grouped({LIMITS: names_of(Limits)})
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class InspectParams(Limits, ReadOptions, SizeOptions):
    """How to look.

    Parameters
    ----------
    sheet
        PNG file to write: up to eight drawings of each class, a row a class.
    """

    label_names: LabelNames = ()
    sheet: Path | None = None


_DEFAULTS = InspectParams()


def inspect(
    source: str,
    /,
    *,
    params: InspectParams = _DEFAULTS,
    chosen: SourceClasses = SourceClasses(),
    output: Output = Output(),
) -> None:
    """Look at a source: what it is, what it has, what a build would make of it.

    Parameters
    ----------
    source
        A path or URL, or doodles or quickdraw.
    """
    from pipelines.dataset.inspect import inspect_source
    from pipelines.sources.files import without_secrets
    from pipelines.sources.registry import describe_source, open_source, source_classes

    if params.sheet is not None:
        check_folder(params.sheet)
    source, parts = without_secrets(source), chosen.written(())
    options = source_options(params, skip_bad_files=True, every_class=not parts)
    with displaying("inspect", quiet=output.quiet), naming_cache():
        what = describe_source(source, params.image_size)
        known = source_classes(source, options) if parts else None
        names = resolve_names(parts, known) if parts else None
        opened = open_source(source, names, writable_cache(), options, current())
        found = inspect_source(opened)
    if not found.shown:
        raise ValueError(found.first_problem or f"{source} has no drawing")
    if params.sheet is not None:
        params.sheet.write_bytes(_sheet(found))
    if opened.image_size != params.image_size:  # Parquet and TFDS have their own
        params = dataclasses.replace(params, image_size=opened.image_size)
    report = _report(what, opened, found)
    report["build"] = _build_command(source, names, params, report) if found.usable else ""
    print_result(report if output.json else _in_words(report), as_json=output.json)


def _report(what: str, source: "Source", found: "Inspection") -> dict[str, Any]:
    """Return what was found as JSON values."""
    counts: Mapping[str, int] = source.rows_by_class()
    if found.looked_at == source.rows:
        counts = found.by_class | dict(counts)
    return {
        "source": what,
        "formats": sorted({file.format for file in source.files}),
        "files": len(source.files),
        "bytes": source.bytes,
        "drawings": source.rows,
        "image_size": source.image_size,
        "splits": source.split_rows(),
        # Of files that mix classes the numbers are known if all rows were read.
        "classes": {name: counts.get(name) for name in source.class_names},
        "looked_at": found.looked_at,
        "values": list(found.values or ()),
        "repaired_files": dict(source.repairs),
        "repaired": dict(found.repaired),
        "bad_rows": dict(found.bad_rows),
        "first_bad_row": found.first_bad_row,
        "bad_files": [reason for _, reason in found.bad_files],
    }


def _in_words(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines for people; those with nothing to say are left out."""
    names = [f"{n} {count:,}" if count else n for n, count in report["classes"].items()]
    names[_SHOWN_CLASSES:] = ["..."] if len(names) > _SHOWN_CLASSES else []
    looked_at = f"of {report['looked_at']:,} rows looked at"
    bad, bad_files = _counted(report["bad_rows"]), report["bad_files"]
    converted = [
        f"{_counted(report[key], '; ')} {of_what}"
        for key, of_what in (("repaired_files", "of the files"), ("repaired", looked_at))
        if report[key]
    ]
    lines = {
        "source": report["source"],
        "files": f"{report['files']:,}, {report['bytes']:,} bytes ({', '.join(report['formats'])})",
        "drawings": f"{report['drawings']:,} of {report['image_size']}x{report['image_size']} pixels",
        "splits": _counted(report["splits"]),
        "classes": f"{len(report['classes'])}: {', '.join(names)}",
        "pixels": f"{report['values'][0]} to {report['values'][1]}, 0 = paper",
        "converted": "; ".join(converted),
        "bad rows": f"{bad} {looked_at}; {report['first_bad_row']}" if bad else "",
        "bad files": f"{len(bad_files)}: {'; '.join(bad_files[:_SHOWN_FILES])}"
        if bad_files
        else "",
        "build": report["build"] or "would leave nothing",
    }
    return {key: line for key, line in lines.items() if line}


def _counted(numbers: Mapping[str, int], between: str = ", ") -> str:
    return between.join(f"{text} {number:,}" for text, number in numbers.items())


def _build_command(
    source: str, names: Iterable[str] | None, params: InspectParams, report: Mapping[str, Any]
) -> str:
    """Return the command that makes a dataset of what was looked at."""
    words = ["--source", source, "--classes", ALL if names is None else _list(names)]
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if field.name != "sheet" and value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            words += (
                []
                if value is True
                else [_list(value) if field.name == "label_names" else str(value)]
            )
    words += ["--splits", SOURCE_SPLITS] if len(report["splits"]) > 1 else []
    words += ["--on-bad-file", "skip"] if report["bad_files"] else []
    words += ["--on-bad-row", "skip"] if report["bad_rows"] else []
    return shlex.join(["sketchmill", "build", *words])


def _list(names: Iterable[str]) -> str:
    """Return names as an option takes them: quoted where they have a comma."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _sheet(found: "Inspection") -> bytes:
    """Return the contact sheet: a row a class, dark ink on paper."""
    from pipelines.drawings.grids import grid, to_png

    return to_png(grid(list(found.shown.values()), scale=2))
