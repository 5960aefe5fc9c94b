"""`sketchmill quota`: draw until each class has its number of accepted drawings."""

from typing import Annotated

from cyclopts import Parameter

from flows.options import Output
from flows.stages.quota import QuotaParams, plan_quota, work_quota
from flows.terminal import run_stage


def quota(
    *, params: Annotated[QuotaParams, Parameter(name="*")], output: Output = Output()
) -> None:
    """Draw, audit and draw again until each class has exactly its accepted drawings."""
    run_stage(output, plan=lambda: plan_quota(params), work=lambda: work_quota(params))
