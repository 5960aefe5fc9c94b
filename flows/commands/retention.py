"""`sketchmill gc | pin | unpin | pull | push`: delete, keep and copy artifacts."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from flows.options import Common, NotNegative
from flows.stages.base import resolve_any
from flows.terminal import current, print_result, session
from pipelines.store.artifacts import Store, existing_store, open_store
from pipelines.store.leases import check_writable
from pipelines.store.manifest import Manifest

# A century; keeps timedelta from overflowing.
MAX_DAYS = 36_525


def gc(
    *,
    delete: Annotated[bool, Parameter(negative=())] = False,
    grace_days: Annotated[float, Parameter(validator=Number(gte=0, lte=MAX_DAYS))] = 14.0,
    keep: NotNegative = 3,
    common: Common = Common(),
) -> None:
    """List artifacts that no ref, pin or lease references; with --delete, delete them.

    Parameters
    ----------
    delete
        Delete them; otherwise nothing changes.
    grace_days
        Minimum age of unreferenced artifacts in days. Running work keeps its inputs.
    keep
        Number of latest versions of each name to keep.
    """
    from pipelines.store.collect import Collector

    store = existing_store(common.store)
    collector = Collector(store, grace=timedelta(days=grace_days), keep_refs=keep)
    sweep = delete and not common.dry_run
    found = collector.collect() if sweep else collector.plan()
    result = dataclasses.asdict(found)
    if not common.json:
        result = {name: _counted(value) for name, value in result.items()}
    print_result(result | {"deleted": sweep}, as_json=common.json)
    if found.unreadable:
        what = "no artifact can go while" if found.is_blocked else "all others were looked at, but"
        raise RuntimeError(
            f"{what} manifests are damaged: {', '.join(found.unreadable)}; `sketchmill verify` "
            "says what to do"
        )


def pin(ref: str, /, *, reason: str = "", common: Common = Common()) -> None:
    """Keep an artifact and its inputs when later versions are published.

    Parameters
    ----------
    ref
        Name, kind/name, name@digest, or the first characters of a digest.
    reason
        Reason, recorded with the pin.
    """
    from pipelines.store import collect

    _pin(ref, "pin", lambda store, found: collect.pin(store, found, reason), common)


def unpin(ref: str, /, *, common: Common = Common()) -> None:
    """Remove the pin of an artifact.

    Parameters
    ----------
    ref
        Name, kind/name, name@digest, or the first characters of a digest.
    """
    from pipelines.store import collect

    _pin(ref, "unpin", collect.unpin, common)


def _pin(ref: str, verb: str, act: Callable[[Store, Manifest], None], common: Common) -> None:
    store = existing_store(common.store)
    found = resolve_any(store, ref)
    if not common.dry_run:
        act(store, found)
    done = f"would {verb}" if common.dry_run else f"{verb}ned"
    print_result({done: found.prefix}, as_json=common.json)


def pull(ref: str, /, *, origin: str, common: Common = Common()) -> None:
    """Copy an artifact and what it was made of from another store into this one.

    Parameters
    ----------
    ref
        Name, kind/name, name@digest, or the first characters of a digest, in the other store.
    origin
        URL of the other store.
    """
    _copy(ref, origin, common.store, common)


def push(
    ref: str,
    /,
    *,
    to: str = "",
    hub: str = "",
    private: Annotated[bool, Parameter(negative=())] = False,
    trained_on: str = "",
    common: Common = Common(),
) -> None:
    """Copy an artifact and what it was made of from this store into another, or to the Hub.

    Parameters
    ----------
    ref
        Name, kind/name, name@digest, or the first characters of a digest, in this store.
    to
        URL of the other store.
    hub
        OWNER/NAME of a repository of the Hugging Face Hub, for a dataset, samples, an export or a
        model; without a token (HF_TOKEN, `hf auth login`) print what would be uploaded.
    private
        Make a new repository of the Hub private; by default it is public, unless its owner is an
        organization that has it otherwise.
    trained_on
        OWNER/NAME of the dataset on the Hub that a model was trained on, for its card.
    """
    if bool(to) == bool(hub):
        raise ValueError("give --to URL of a store or --hub OWNER/NAME, one of them")
    if hub:
        from flows.commands.hub import push_to_hub

        push_to_hub(ref, hub, private=private, trained_on=trained_on, common=common)
        return
    if private or trained_on:
        raise ValueError("--private and --trained-on go with --hub")
    _copy(ref, common.store, to, common)


def _copy(ref: str, origin: str, target: str, common: Common) -> None:
    from pipelines.store.transfer import copy_artifact

    source = existing_store(origin)
    manifest = resolve_any(source, ref)
    if common.dry_run:
        print_result({"would copy": manifest.prefix}, as_json=common.json)
        return
    with session(common):
        into = open_store(target)
        check_writable(into)
        done = copy_artifact(manifest, source, into, progress=current())
    print_result(dataclasses.asdict(done), as_json=common.json)


def _counted(value: object) -> object:
    """Return a long list as its length and first entries."""
    if not isinstance(value, tuple) or len(value) <= 3:
        return value if not isinstance(value, tuple) else list(value)
    return f"{len(value)}: {', '.join(map(str, value[:3]))}, ..."
