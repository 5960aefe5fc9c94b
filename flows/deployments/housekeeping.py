"""The housekeeping flow: garbage collection and periodic verification of a store."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from pipelines.processes.supervise import end_with_worker
from pipelines.store.artifacts import Store, open_store
from pipelines.store.collect import Collector
from pipelines.store.errors import BusyError
from pipelines.store.held import check_held
from pipelines.store.manifest import KINDS, Manifest

RETRY: dict[str, Any] = {"retries": 2, "retry_delay_seconds": 30, "cache_policy": NO_CACHE}


@flow(name="housekeeping", flow_run_name="housekeeping")
def housekeeping(
    store: str, grace_days: float = 14.0, keep: int = 3, verify_percent: float = 5.0
) -> dict[str, int]:
    """Delete unreferenced artifacts and verify a part of the store; fail if anything is damaged.

    grace_days: how long something must have been unneeded; what runs keeps what it needs;
    keep: latest versions of each name; verify_percent: another part of the artifacts each day.
    """
    end_with_worker()
    swept = sweep(store, grace_days, keep)
    get_run_logger().info("swept %s", swept)
    if damaged := verify(store, verify_percent):
        raise RuntimeError(f"damaged: {', '.join(damaged)}: delete these and run their flows again")
    return swept


@task(name="sweep", **RETRY)
def sweep(url: str, grace_days: float, keep: int) -> dict[str, int]:
    """Sweep the store; return the numbers of artifacts, objects and bytes deleted or marked."""
    collector = Collector(open_store(url), grace=timedelta(days=grace_days), keep_refs=keep)
    garbage = collector.collect()
    return {
        "artifacts": len(garbage.artifacts),
        "objects": len(garbage.objects),
        "condemned": len(garbage.condemned),
        "bytes": garbage.bytes,
    }


@task(name="verify", **RETRY)
def verify(url: str, percent: float) -> list[str]:
    """Verify today's part of the artifacts; return those that are damaged."""
    store = open_store(url)
    bad = [found.path for kind in KINDS for found in store.unreadable(kind)]
    today = datetime.now(UTC).toordinal()
    return bad + [found.prefix for found in damaged_today(store, percent, today)]


def damaged_today(store: Store, percent: float, day: int) -> Iterator[Manifest]:
    """Yield the damaged artifacts of one day's part: each is read once in 100 / percent days."""
    for kind in KINDS:
        for manifest in store.manifests(kind):
            if is_due(manifest.digest, percent, day):
                with contextlib.suppress(BusyError):  # a garbage collection has taken it
                    if check_held(manifest, store, store.damaged):
                        yield manifest


def is_due(digest: str, percent: float, day: int) -> bool:
    """Return whether an artifact belongs to a day's part.

    >>> sum(is_due("0123456789abcdef", percent=5.0, day=day) for day in range(20))
    1
    """
    place = int(digest[:8], 16) % 1000 / 10
    return (place + day * percent) % 100 < percent
