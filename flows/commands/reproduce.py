"""`sketchmill reproduce`: make one drawing of a samples dataset again."""

from flows.options import Common
from flows.stages.quota import work_reproduce
from flows.terminal import run_stage


def reproduce(
    ref: str,
    /,
    *,
    row: int,
    common: Common = Common(),
) -> None:
    """Draw one row of samples again from its recipe and compare every byte.

    Parameters
    ----------
    ref
        Samples: name, name@digest, or the first characters of a digest.
    row
        Its position, from 0.
    """
    run_stage(
        common,
        plan=lambda: {"samples": ref, "row": row},
        work=lambda: work_reproduce(common.store, ref, row),
    )
