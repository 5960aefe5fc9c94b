"""The `Stage` class: parameters in, an artifact or numbers out. No Prefect here.

A stage resolves its parameters to a spec and asks the library, which returns immediately if
the store has the result. `Stage` opens the store; artifacts that a stage reads, finds or makes
there are leased until it ends (pipelines.store.held). Each stage imports its own heavy libraries.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, cast

from cyclopts import Parameter

from flows.config import SUFFIX, config_text
from flows.help import COMMANDS
from flows.options import Classes, EngineOptions, Output
from flows.terminal import current, print_result, session
from model.shipped import PREFIX, publish_shipped, shipped_manifest
from pipelines.store.artifacts import Store, StoreError, existing_store, open_store
from pipelines.store.errors import AbsentError, FullError, ReadOnlyError
from pipelines.store.held import HeldStore
from pipelines.store.leases import check_writable
from pipelines.store.local_files import NO_ROOM, check_room
from pipelines.store.manifest import KINDS, Kind, Manifest, digest_of

if TYPE_CHECKING:  # which imports torch
    from model.sampling.units import Engine

P = TypeVar("P")
Inputs = Mapping[str, Manifest]
Result = Mapping[str, Any]
Address = tuple[Kind, str, str]


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[P]):
    """A stage: its command, its deployed flow and its child process are made of this.

    name      of the command, the flow and the child process
    params    its parameters, with a `store`: options, fields of Prefect's form, JSON of the child;
              the docstring is the help
    work      makes the artifact or finds it in the store; without an artifact, returns the result
    inputs    resolves what the stage reads, by role
    address   returns kind, name and digest of the artifact that inputs give
    plan      returns what --dry-run prints; by default the digests of the inputs
    result    returns what the command prints of the artifact
    check     raises ValueError for parameters that are wrong for any store
    store     "write": it is written to; "new": and made if it is not there; "read": it may be
              read-only, and what is published goes to the cache then. A stage whose parameters
              name a place `out` of the store only reads
    place     field of Places that says where the flow runs; empty: it is not deployed
    title     of the flow, in a line
    options   what the command takes beside `argument`, if not `params`
    argument  the parameter that the command takes by position
    classes   options of the command that decide `classes`
    """

    name: str
    params: type[P]
    work: Callable[[P, Inputs, HeldStore], Manifest | Result]
    inputs: Callable[[P, Store], Inputs] = lambda _params, _store: {}
    address: Callable[[P, Inputs], Address] | None = None
    plan: Callable[[P, Inputs, Store], Result] = lambda _params, inputs, _store: {
        role: manifest.digest for role, manifest in inputs.items()
    }
    result: Callable[[P, Manifest, HeldStore], Result] = lambda _params, made, _store: {
        "digest": made.digest
    }
    check: Callable[[P], None] = lambda _params: None
    store: Literal["write", "new", "read"] = "write"
    place: str = ""
    title: str = ""
    options: type | None = None
    argument: inspect.Parameter | None = None
    classes: type[Classes] | None = None

    def run(self, params: P) -> Manifest | Result:
        """Do the work."""
        with self._opened(params) as store:
            return self._made(params, store)

    def answer(self, params: P) -> Result:
        """Do the work and return what the command prints."""
        with self._opened(params) as store:
            made = self._made(params, store)
            return self.result(params, made, store) if isinstance(made, Manifest) else made

    def planned(self, params: P) -> Result:
        """Return what the work would do."""
        self.check(params)
        store = self._find_store(params)
        return self.plan(params, self.inputs(params, store), store)

    @property
    def command(self) -> Callable[..., None]:
        """The function that the command line calls, with a signature of the stage's own."""
        kinds = {"options": self.options or self.params, "classes": self.classes, "output": Output}
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=kind(),
                annotation=Annotated[kind, Parameter(name="*")],
            )
            for name, kind in kinds.items()
            if kind
        ]
        signature = inspect.Signature([self.argument, *parameters] if self.argument else parameters)

        def command(*given: Any, **named: Any) -> None:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            self._answer_command(**bound.arguments)

        command.__signature__ = signature  # pyrefly: ignore
        return command

    def _answer_command(
        self, options: Any, output: Output, classes: Classes | None = None, **argument: Any
    ) -> None:
        params = self.params(**vars(options) | argument)
        if classes is not None:
            params = classes.into(params)
        with session(output):
            result = self.planned(params) if output.dry_run else self.answer(params)
        print_result(result, as_json=output.json)

    def _made(self, params: P, store: HeldStore) -> Manifest | Result:
        inputs = self.inputs(params, store)
        made = self.work(params, inputs, store)
        if isinstance(made, Manifest) and self.name in COMMANDS:
            write_config(self.name, params, made, store, pinned(params, inputs))
        return made

    @contextlib.contextmanager
    def _opened(self, params: Any) -> Iterator[HeldStore]:
        """Open the store; what comes out of it is leased until the block ends."""
        self.check(params)
        reads = self.store == "read" or getattr(params, "out", "")
        beside = cache_folder() / "reports" / digest_of(params.store)[:16]
        store = HeldStore(self._find_store(params), self.name, beside if reads else None)
        with store.leases:
            if not reads:
                check_writable(store)
            yield store

    def _find_store(self, params: Any) -> Store:
        # A shipped model needs nothing that is in a store.
        is_new = self.store == "new" or str(getattr(params, "model", "")).startswith(PREFIX)
        return (open_store if is_new else existing_store)(params.store)


def argument(name: str, kind: Any, text: str, **default: Any) -> inspect.Parameter:
    """Return a parameter that a command takes by position; text: its help."""
    annotation = Annotated[kind, Parameter(help=text)]
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_ONLY, annotation=annotation, **default
    )


def write_config(
    command: str,
    params: Any,
    made: Manifest,
    store: HeldStore,
    values: Mapping[str, str],
) -> None:
    """Write the config that repeats a command beside the manifest that it made, if none is there.

    values: in place of those of the parameters. It is no part of the artifact: its bytes say where
    a source was. A store that is read-only, or full now, has none.
    """
    chosen = {}
    if getattr(params, "arithmetic", "") == "auto":  # which another machine may choose differently
        chosen["arithmetic"] = made.spec.get("arithmetic", "torch")
    text = config_text(command, params, chosen | dict(values)).encode()
    with contextlib.suppress(ReadOnlyError, FullError):
        if out := getattr(params, "out", ""):  # the user's place, which has the manifest then
            open_store(out).put(f"{command}{SUFFIX}", text)
        else:
            store.home(made).create(f"{made.prefix}/{command}{SUFFIX}", text)


def pinned(params: Any, inputs: Inputs) -> dict[str, str]:
    """Return the parameters that name an input, by the digest that they had now."""
    names = {"drawings": "ref"}  # a role for which a parameter is not named
    refs = {
        names.get(role, role): f"{manifest.name}@{manifest.digest}"
        for role, manifest in inputs.items()
        if not str(getattr(params, names.get(role, role), "")).startswith(PREFIX)
    }
    if "ref" in refs:
        refs["ref"] = f"{inputs['drawings'].kind}/{refs['ref']}"
    return {"init": "none"} | refs if getattr(params, "init", "") == "auto" else refs


# Less than any source needs; a cache without this much room counts as full.
MIN_CACHE_BYTES = 1 << 16


def engine_of(params: EngineOptions, store: Store) -> "Engine | None":
    """Return the engine that draws shards, None where this machine's processes do."""
    if not params.cluster and not params.beam_args:
        return None
    from pipelines.beam import RunOptions, run_watched

    options = RunOptions(beam_args=params.beam_args, cluster=params.cluster, progress=current())
    return functools.partial(run_watched, store=store, options=options, stage="sample")


def check_drawing_engine(params: EngineOptions) -> None:
    """Raise ValueError for flags of an engine that cannot be used."""
    from pipelines.engines.flags import check_engine

    if params.cluster or params.beam_args:
        check_engine(params.beam_args, 1, params.cluster)


def cache_folder() -> Path:
    """Return the folder of downloads and made doodles: $SKETCHMILL_CACHE or the user's cache."""
    own = os.environ.get("SKETCHMILL_CACHE")
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "sketchmill")
    return Path(os.path.expanduser(own or users))  # noqa: PTH111  Path's raises without a home


def writable_cache() -> Path:
    """Return the cache folder; create it if it is missing.

    Raises ValueError if nothing can be written there, FullError if it is full.
    """
    folder = cache_folder()
    with naming_cache():
        check_room(folder, MIN_CACHE_BYTES)
        return folder


@contextlib.contextmanager
def naming_cache() -> Iterator[None]:
    """Raise an error that says how to move the cache in place of an OSError in it.

    FullError if it is full, else ValueError.
    """
    folder = cache_folder()
    try:
        yield
    except OSError as error:
        # What a full disk answers to a write names no file; errors of the store are another kind.
        is_full = error.errno in NO_ROOM
        failed = folder if is_full and error.filename is None else Path(str(error.filename))
        if not (failed.is_relative_to(folder) or folder.is_relative_to(failed)):
            raise
        kind = FullError if is_full else ValueError
        raise kind(
            f"the cache {folder} cannot be written ({error.strerror}): let the environment "
            "variable SKETCHMILL_CACHE name a folder that can"
        ) from error


def parent(store: Store, manifest: Manifest, role: str) -> Manifest:
    """Return the artifact that a manifest names as its input of a role.

    Raises ValueError if it names none, StoreError if the store lacks it.
    """
    ref = manifest.input(role)
    if ref is None:
        raise ValueError(f"{manifest.kind} {manifest.name} names no {role} among its inputs")
    return store.resolve(cast("Kind", ref.kind), f"{ref.name}@{ref.digest}")


def find_model(store: Store, ref: str) -> Manifest:
    """Return the model that `ref` names in the store, or `shipped:NAME` in the package.

    A stage that works gets a copy of a shipped model in its store; a plan writes nothing.
    """
    if not ref.startswith(PREFIX):
        return store.resolve("models", ref)
    name = ref.removeprefix(PREFIX)
    return publish_shipped(name, store) if isinstance(store, HeldStore) else shipped_manifest(name)


def model_and_dataset(params: Any, store: Store) -> Inputs:
    """Return a model, and a dataset: by default the one that the model was trained on."""
    model = find_model(store, params.model)
    if params.dataset:
        return {"model": model, "dataset": store.resolve("datasets", params.dataset)}
    try:
        return {"model": model, "dataset": parent(store, model, "dataset")}
    except AbsentError as error:
        raise AbsentError(f"{error}: name another one with --dataset") from error


EXPORTABLE: tuple[Kind, ...] = ("samples", "datasets")


def where(store: Store, manifest: Manifest) -> str:
    """Return the path of an artifact in a local store, its URL in another."""
    local = store.local_path(manifest.prefix)
    return str(local) if local is not None else f"{store.url.rstrip('/')}/{manifest.prefix}"


def resolve_any(store: Store, ref: str, kinds: Sequence[Kind] = KINDS) -> Manifest:
    """Return the artifact that `ref` names among several kinds, or in one kind: `models/cats`.

    Raises StoreError if none or several match, or one that might is damaged.
    """
    kind, _, rest = ref.partition("/")
    if rest and kind in KINDS:
        if kind not in kinds:
            raise StoreError(f"{ref!r}: only {' and '.join(kinds)} can be exported")
        return store.resolve(kind, rest)
    found, reasons = [], []
    for each in kinds:
        try:
            found.append(store.resolve(each, ref))
        except AbsentError as error:
            reasons.append(str(error))
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(f"{m.kind}/{m.name}@{m.digest[:12]}" for m in found)
        raise StoreError(f"{ref!r} means several artifacts: {which}; put the kind before it")
    is_any = len(kinds) == len(KINDS)
    raise AbsentError(f"nothing in {store.url} matches {ref!r}" if is_any else "; ".join(reasons))
