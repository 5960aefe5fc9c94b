"""`sketchmill sources`: list the kinds of sources, or show the page of one."""

from flows.options import Output
from flows.terminal import print_result
from pipelines.sources.kinds import FOUND, NAMED, file_format, help_page, source_kind


def sources(kind: str = "", /, *, output: Output = Output()) -> None:
    """List the kinds of sources, or show the page of one.

    Parameters
    ----------
    kind
        Show the page of this one.
    """
    if kind and kind not in NAMED | FOUND:
        raise ValueError(f"no kind of source is called {kind!r}: {', '.join(NAMED | FOUND)}")
    if kind:
        print_result({kind: help_page(kind)}, as_json=output.json)
        return
    if output.json:
        print_result({"sources": source_rows()}, as_json=True)
        return
    for row in source_rows():
        lines = {row["source"]: row["what"], "  --source": row["say"], "  checked": row["checked"]}
        print_result(lines | {"  drawings/s": row["drawings_per_sec"]}, as_json=False)


def source_rows() -> list[dict[str, str]]:
    """Return what the list and the README say of each kind."""
    rows = []
    for name, known in (NAMED | FOUND).items():
        rates = {format.per_sec for format in source_kind(name).formats.values()}
        said = " to ".join(f"{rate:,}" for rate in sorted(rates)[:: max(1, len(rates) - 1)])
        rows.append(
            {
                "source": name,
                "what": known.what,
                "say": known.say,
                "checked": known.checked,
                "drawings_per_sec": said or f"{file_format('npy').per_sec:,}",
            }
        )
    return rows
