"""`sketchmill push --hub`: push an artifact to the Hugging Face Hub, or say what would be pushed."""

import dataclasses
from typing import TYPE_CHECKING, Any

from flows.options import Common
from flows.stages.base import resolve_any
from flows.terminal import print_result, session
from pipelines.store.held import held_store

if TYPE_CHECKING:  # of the extra that may not be there
    from pipelines.hub.push import Pushed
    from pipelines.hub.repository import Bundle, Repository

# Files and lines of the card that a dry run prints; --json has them all.
_SHOWN_FILES, _SHOWN_LINES = 20, 40
_NO_TOKEN = "none found: set HF_TOKEN or run `hf auth login`"


def push_to_hub(
    ref: str, repository_id: str, *, private: bool, trained_on: str, common: Common
) -> None:
    """Push an artifact to OWNER/NAME; without a token, or with --dry-run, print what would go.

    The token is the environment's (HF_TOKEN) or that of `hf auth login`.
    """
    with session(common), held_store(common.store, "push") as store:
        from huggingface_hub import get_token

        from pipelines.hub.push import push
        from pipelines.hub.repository import bundle_of, check_repository_id, repository_of

        manifest = resolve_any(store, ref)
        repository = repository_of(manifest, repository_id)
        if trained_on:
            check_repository_id(trained_on, "--trained-on")
            if repository.type != "model":
                raise ValueError(f"--trained-on is of models, and {manifest.prefix} is none")
        bundle = bundle_of(manifest, store, repository, trained_on=trained_on)
        token = get_token()
        if common.dry_run or not token:
            _print_plan(_plan(bundle, repository, token=token, private=private), common)
            return
        pushed = push(bundle, repository, token=token, private=private)
    result = dataclasses.asdict(pushed) if common.json else _summary(pushed)
    print_result(result, as_json=common.json)


def _plan(
    bundle: "Bundle", repository: "Repository", *, token: str | None, private: bool
) -> dict[str, Any]:
    """Return what a push would upload."""
    from pipelines.hub.repository import CARD_NAME

    files = {entry.path: entry.bytes for entry in bundle.entries()}
    return {
        "would_push": bundle.manifest.prefix,
        "to": repository.url,
        "private": private,
        "token": "found" if token else _NO_TOKEN,
        "bytes": sum(files.values()),
        "files": files,
        "card": bundle.written[CARD_NAME].decode(),
    }


def _print_plan(plan: dict[str, Any], common: Common) -> None:
    """Print a plan; for people the first files and the head of the card."""
    if common.json:
        print_result(plan, as_json=True)
        return
    files, card = list(plan["files"].items()), plan["card"].splitlines()
    lines = {
        "would push": plan["would_push"],
        "to": plan["to"],
        "visible to": "its owner" if plan["private"] else "everyone, if it is new",
        "token": plan["token"],
        "files": f"{len(files):,}, {plan['bytes']:,} bytes",
        **{f"  {path}": f"{size:,} bytes" for path, size in files[:_SHOWN_FILES]},
    }
    if len(files) > _SHOWN_FILES:
        lines["  ..."] = f"and {len(files) - _SHOWN_FILES:,} more"
    print_result(lines, as_json=False)
    more = ["..."] * (len(card) > _SHOWN_LINES)
    print_result({"\n".join(["README.md", *card[:_SHOWN_LINES], *more]): ""}, as_json=False)


def _summary(pushed: "Pushed") -> dict[str, Any]:
    """Return a push as lines for people."""
    if not pushed.commit:
        return {"unchanged": f"{pushed.url} has all {pushed.unchanged:,} files; nothing was sent"}
    deleted = {"deleted": f"{len(pushed.deleted):,} files of what was there"}
    return {
        "pushed": pushed.url,
        "commit": pushed.commit,
        "uploaded": f"{len(pushed.uploaded):,} files, {pushed.bytes:,} bytes",
        "unchanged": f"{pushed.unchanged:,} files",
        **(deleted if pushed.deleted else {}),
        "visible to": "its owner" if pushed.is_private else "everyone",
    }
