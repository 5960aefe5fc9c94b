"""`sketchmill doctor`: can this machine and this store do the work?"""

import dataclasses
from typing import Annotated

from cyclopts import Parameter

from flows.console import print_result
from flows.options import Common
from pipelines.watching import doing

ALL = Common()


def doctor(*, common: Annotated[Common, Parameter(name="*")] = ALL) -> None:
    """Check versions, libraries, disk space, and what publishing needs of the store.

    With --dry-run the store, which is asked by writing to it, is left alone.
    """
    from flows.doctor import examine

    with doing("doctor", "asking the machine and the store"):
        findings = list(examine(None if common.dry_run else common.store))
    if common.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print_result({"findings": rows}, as_json=True)
    else:
        print_result({_label(f): f.message for f in findings}, as_json=False)
    failed = [f.check for f in findings if f.is_required and not f.is_ok]
    if failed:
        raise RuntimeError(f"this will not work here: {', '.join(failed)}")


def _label(finding) -> str:
    mark = "ok  " if finding.is_ok else ("FAIL" if finding.is_required else "note")
    return f"{mark}  {finding.check}"
