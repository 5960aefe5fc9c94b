"""The Job API: ask for the job service before a job goes there, which Beam does without a limit."""

import re
from collections.abc import Sequence

from pipelines.engines.flags import flag_value
from pipelines.processes.progress import doing
from pipelines.store.errors import EngineError

# Beam itself waits for ever, without a word.
ENDPOINT_SEC = 30.0
# An endpoint that Beam starts in this process.
_EMBEDDED = "embed"


def check_endpoint(flags: Sequence[str], limit_sec: float | None = None) -> None:
    """Raise EngineError unless a job service listens at --job_endpoint, if that is given."""
    endpoint = flag_value(flags, "--job_endpoint")
    if not endpoint or endpoint == _EMBEDDED:
        return
    import grpc

    limit_sec = ENDPOINT_SEC if limit_sec is None else limit_sec
    with doing("job", f"waiting for the job service at {endpoint}"):
        channel = grpc.insecure_channel(endpoint)
        try:
            grpc.channel_ready_future(channel).result(timeout=limit_sec)
        except grpc.FutureTimeoutError:
            raise EngineError(
                f"no job service answers at {endpoint} (--job_endpoint) within {limit_sec:.0f} s: "
                "start one there, such as a Flink or Spark job server of Beam 2.77, or prism "
                f"--job_port {endpoint.rpartition(':')[2]}; the same command then goes on"
            ) from None
        finally:
            channel.close()


def job_failure(flags: Sequence[str], error: Exception) -> EngineError | None:
    """Return what to say of a job that failed, in a sentence; None if no job service ran it.

    A job service gives back a worker's whole traceback, or what gRPC said.
    """
    endpoint = flag_value(flags, "--job_endpoint")
    if not endpoint:
        return None
    lines = [line for line in str(error).splitlines() if line.strip()]
    details = re.search(r'details = "(.*)"', str(error))
    said = details[1] if details else next(reversed(lines), type(error).__name__)
    pool = flag_value(flags, "--environment_config")
    hint = f" (its worker pool is to be at {pool})" if pool else ""
    return EngineError(
        f"the job at {endpoint} failed{hint}: {said.strip()}: the same command goes on with what is "
        "left"
    )
