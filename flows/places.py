"""Where the stages of a deployed flow run, and how long each may take.

A place is a deployment such as "train/gpu"; an empty one means here. infra/prefect.yaml places
every stage, because the image with torch has no Beam and the other way round.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Places:
    """Deployments that do the stages, such as "build/cpu"; empty: here.

    deadline_hours     of one stage's work, its time in a queue not counted; it is stopped then
                       and goes on when the flow is run again
    no_worker_minutes  how long a stage waits in a work pool without an online worker before it
                       fails; 0: forever
    """

    build: str = ""
    train: str = ""
    plan: str = ""
    shards: str = ""
    sample: str = ""
    report: str = ""
    audit: str = ""
    export: str = ""
    export_part: str = ""
    deadline_hours: float = 24.0
    no_worker_minutes: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError for a deadline that no stage could keep."""
        if self.deadline_hours <= 0:
            raise ValueError(f"deadline_hours must be positive, found {self.deadline_hours}")

    @property
    def deadline_sec(self) -> float:
        """The deadline of one stage in seconds."""
        return self.deadline_hours * 3600


HERE = Places()
