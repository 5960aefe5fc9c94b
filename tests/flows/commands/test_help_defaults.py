"""Every default that the help states is that of the behavior."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cli import make_app, run_command_line
from flows.commands.deployments import Times, _variables
from flows.deployments.schedules import machine_timezone
from flows.help import COMMANDS
from flows.options import SourceClasses
from flows.stages import chain, evaluate, report, sample, train
from flows.stages.build import BuildParams
from flows.stages.registry import STAGES
from pipelines.catalogue import SEED_CLASSES
from pipelines.dataset.packing import num_shards
from pipelines.dataset.spec import DatasetSpec
from pipelines.store.artifacts import Store, existing_store, open_store
from pipelines.store.manifest import InputRef, Manifest, artifact_digest


def help_of(capsys, command: str) -> dict[str, str]:
    """Return the help of each option as one line, without the borders of the panels."""
    assert run_command_line([command, "--help"]) == 0
    found: dict[str, str] = {"": ""}
    for line in capsys.readouterr().out.splitlines():
        begun = re.match(r"│ \*? *(--(?!no-)[a-z-]+) ", line)
        name = begun[1] if begun and len(begun[0]) < len(begun[1]) + 8 else next(reversed(found))
        found[name] = found.get(name, "") + line.strip("│╭╮╰╯─ ") + " "
    return found


def options_of(command: str) -> list:
    """Return the options of a command and what it takes by position."""
    found = make_app()[command].assemble_argument_collection(parse_docstring=True)
    return [each for each in found if each.show]


# Of a command: what it needs at least.
NEEDED = {
    "train": "--dataset x",
    "evaluate": "--model x",
    "sample": "--model x",
    "report": "--samples x",
    "quota": "--model x",
    "reproduce": "x --row 0",
    "complete": "--model x",
    "classifier": "--dataset x",
    "score": "--model x",
    "export": "x",
    "inspect": "x",
    "show": "x",
    "lineage": "x",
    "diff": "x y",
    "pin": "x",
    "unpin": "x",
    "pull": "x --origin y",
    "push": "x --to y",
}


def given_to(command: str) -> dict[str, Any]:
    """Return what a command gets by option, where no option is given."""
    arguments = [command, *NEEDED.get(command, "").split()]
    _, bound, _ = make_app().parse_args(arguments, exit_on_error=False, print_error=False)
    bound.apply_defaults()
    values = {}
    for name, value in bound.arguments.items():
        is_group = dataclasses.is_dataclass(value)
        values |= vars_of(value) if is_group else {name: value}
    return values


def vars_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_default_in_brackets_is_what_the_command_gets(command, capsys):
    texts, values = help_of(capsys, command), given_to(command)
    options = [each for each in options_of(command) if each.index is None]
    assert texts.keys() - {""} == {each.name for each in options}
    for option in options:
        said = re.findall(r"\[default: ?(.*?)\]", texts[option.name])
        assert not set(said) & {'""', "''", "", "None", "-1", "()", "False"}, option.name
        assert len(said) <= 1, option.name
        if said:
            value = written(values[option.field_info.name])
            assert said[0].replace(" ", "") == value.replace(" ", ""), option.name


def written(value: Any) -> str:
    """Return a value as on a command line."""
    if isinstance(value, tuple):
        parts = [f"{each[0]}={each[1]:g}" if isinstance(each, tuple) else each for each in value]
        return ",".join(parts)
    return str(value)


def published(store: Store, kind, name: str, *inputs: Manifest, **summary: Any) -> Manifest:
    refs = tuple(
        InputRef(role=each.kind.rstrip("s"), kind=each.kind, name=each.name, digest=each.digest)
        for each in inputs
    )
    condition = {"kind": "embedding", "num_classes": 2, "dropout_p": summary.pop("dropout_p", 0.0)}
    spec = {"network": {"condition": condition}}
    digest = artifact_digest(kind, spec | {"name": name}, refs)
    return store.publish(
        Manifest(kind=kind, name=name, digest=digest, spec=spec, inputs=refs, summary=summary)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a small dataset, and what is said to be a model of it and samples."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKETCHMILL_CACHE", str(folder / "cache"))
        options = ["--max-per-class", "40", "--seed", "3", "--quiet"]
        build = ["build", "--classes", "bee,sun", "--store", str(folder / "store"), *options]
        assert run_command_line(build) == 0
        store = open_store(str(folder / "store"))
        dataset = existing_store(store.url).resolve("datasets", "doodles")
        classes = {"class_names": ["bee", "sun"]}
        model = published(store, "models", "net", dataset, **classes)
        free = published(store, "models", "free", dataset, **classes, dropout_p=0.1)
        own = published(store, "models", "own", dataset, **classes, dropout_p=0.1, guidance=1.5)
        samples = published(store, "samples", "new", model)
        yield SimpleNamespace(
            store=store, dataset=dataset, net=model, free=free, own=own, samples=samples
        )


def planned(made, name: str, **values: Any) -> dict[str, Any]:
    stage = STAGES[name]
    return dict(stage.planned(stage.params(store=made.store.url, **values)))


def spec_of(**values: Any) -> DatasetSpec:
    return DatasetSpec(class_names=("bee",), **values)


def is_dropped_of_no_exact_part(field: str) -> bool:
    specs = spec_of(), spec_of(tfds_slice="train[:9]"), spec_of(splits=())
    return [getattr(spec, field) for spec in specs] == ["drop", "keep", "keep"]


def is_inspected_whole(_made) -> bool:
    return given_to("inspect")["classes"] is None and not SourceClasses().written(())


def has_models_guidance(made) -> bool:
    wanted = [sample.guidance(None, model) for model in (made.net, made.free, made.own)]
    return wanted == [0, 2.5, 1.5]


def is_shipped_for_doodles_alone(_made) -> bool:
    asked = ({}, {"source": "quickdraw"}, {"preset": "small"}, {"preset": "article"})
    found = [chain.ChainParams(**each).init_model for each in asked]
    return found == ["shipped:tiny-20", "none", "shipped:small-20", "none"]


def names_of_chain(_made) -> bool:
    params = chain.ChainParams(source="quickdraw")
    return (params.dataset_name, params.model_name) == ("quickdraw", "quickdraw-tiny")


def is_beside_checkpoints(made) -> bool:
    from model.options import RunOptions, run_folder

    params = train.TrainParams(dataset="x")
    options = train.run_options(params)
    local = run_folder(options, made.store, "0" * 64).parent
    remote = run_folder(RunOptions(work_dir=None), open_store("memory://x"), "0" * 64).parent
    return local == Path(made.store.url) / "attempts" and str(remote).endswith("/.cache/sketchmill")


def rank_is_assigned(_made) -> bool:
    params = train.TrainParams(dataset="x", nodes="2", rendezvous="host:1")
    flags = train.rendezvous_options(params)
    return "--rdzv-backend=c10d" in flags and not any("node-rank" in flag for flag in flags)


def completed(made) -> dict[str, Any]:
    """What is completed of a drawing of the dataset, with neither a class nor rows given."""
    from model.network.config import PixelCNNConfig
    from model.sampling.completion import PartialDrawing, read_partial
    from model.shipped import shipped_manifest

    config = PixelCNNConfig.from_json_dict(shipped_manifest("tiny-20").spec["network"])
    drawing = PartialDrawing(
        dataset=made.dataset,
        split="train",
        row=0,
        rows_given=None,
        png=None,
        name="",
        mask=None,
        mask_name="",
    )
    cache = Path(made.store.url).parent / "drawings"
    given, class_name = read_partial(drawing, config, made.store, cache_dir=cache)
    return {"class_name": class_name, "rows": given.mask[0].any(dim=1).tolist()}


def exported(made, **values: Any) -> dict[str, Any]:
    return planned(made, "export", ref="doodles", **values)


def is_models_dataset(made) -> bool:
    params = evaluate.EvaluateParams(model="net", store=made.store.url)
    return evaluate.STAGE.inputs(params, made.store)["dataset"] == made.dataset


# What the help says of a default in words: of which options, and whether it is so.
IN_WORDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "there is no limit": ("run build --max-bad-rows", lambda _: spec_of().max_bad_rows is None),
    "none": (
        "build --max-ink --near-duplicates",
        lambda _: spec_of().max_ink is spec_of().near_duplicates is None,
    ),
    "drop; keep with --tfds-slice or --splits source": (
        "build --blank --duplicates",
        lambda _: all(map(is_dropped_of_no_exact_part, ("blank", "duplicates"))),
    ),
    "at most 65,536, and in 8 shards or more as long as each has 1,024": (
        "build --rows-per-shard",
        lambda _: (
            [num_shards(n, None) for n in (65_536 * 9, 70_000, 8 * 1_024, 7 * 1_024 + 9)]
            == [9, 8, 8, 7]
        ),
    ),
    "that of the source: two directories of one name share it, their datasets have different "
    "digests, and the name alone means the one built last": (
        "build --name",
        lambda _: BuildParams(source="/data/birds").name == "birds",
    ),
    "that of the source, and of source and preset from the model on": (
        "run --name",
        names_of_chain,
    ),
    "that of the dataset and the preset": (
        "train --name",
        lambda m: train.model_name(train.TrainParams(dataset="x"), m.dataset) == "doodles-tiny",
    ),
    "that of the dataset with -judge": (
        "classifier --name",
        lambda m: planned(m, "classifier", dataset="doodles")["name"] == "doodles-judge",
    ),
    "that of the model": (
        "sample quota --name",
        lambda m: (
            planned(m, "sample", model="net")["name"]
            == planned(m, "quota", model="net", per_class=1)["name"]
            == "net"
        ),
    ),
    "that of the samples": (
        "report --name",
        lambda m: (
            report.STAGE.address(
                report.ReportParams(samples="new"),
                {"samples": m.samples, "model": m.net, "dataset": m.dataset},
            )[1]
            == "new"
        ),
    ),
    "that of the drawings": (
        "export --name",
        lambda m: exported(m)["out"].endswith("/exports/doodles"),
    ),
    "the store": ("export --out", lambda m: exported(m)["out"].startswith(m.store.url)),
    "all": ("export --splits", lambda m: sum(exported(m)["drawings"].values()) > 60),
    "what suits the format": (
        "export --rows-per-shard",
        lambda m: exported(m)["spec"].get("rows_per_file") is None,
    ),
    "20 classes, from bee to tree": (
        "run build --classes",
        lambda _: (len(SEED_CLASSES), SEED_CLASSES[0], SEED_CLASSES[-1]) == (20, "bee", "tree"),
    ),
    "all classes of the source": ("inspect --classes", is_inspected_whole),
    "all classes of the model": (
        "sample --classes",
        lambda m: planned(m, "sample", model="net")["spec"]["class_names"] == ("bee", "sun"),
    ),
    "the model's own, or 2.5; 0 for models that cannot be guided (condition.dropout_p)": (
        "run sample quota --guidance",
        has_models_guidance,
    ),
    "the model that comes with sketchmill, if the source is doodles and its network is the "
    "preset's, else none": ("run --init", is_shipped_for_doodles_alone),
    "in the store, or in ~/.cache/sketchmill if the store is remote": (
        "train --work-dir",
        is_beside_checkpoints,
    ),
    "the rendezvous assigns it": ("train --node-rank", rank_is_assigned),
    "the one that the model was trained on": ("evaluate score --dataset", is_models_dataset),
    "the label in the dataset": (
        "complete --class-name",
        lambda m: completed(m)["class_name"] in ("bee", "sun"),
    ),
    "half of them, for a dataset's drawing": (
        "complete --rows-given",
        lambda m: completed(m)["rows"] == [True] * 14 + [False] * 14,
    ),
    "this machine's": (
        "deploy serve --timezone",
        lambda _: _variables(Times(), None)["SKETCHMILL_TIMEZONE"] in (machine_timezone(), "UTC"),
    ),
    "it is public, unless its owner is an organization with another default": (
        "push --private",
        lambda _: given_to("push")["private"] is False,  # and tests/flows/commands/test_hub.py
    ),
    # Of the command itself.
    "all artifacts of the store are read": ("verify", lambda _: given_to("verify")["refs"] == ()),
}


def test_every_default_in_words_is_in_the_table():
    said: dict[str, set[str]] = {}
    for command, entry in COMMANDS.items():
        texts = {option.name: option.parameter.help for option in options_of(command)}
        for name, text in ({"": entry.text} | texts).items():
            words = " ".join(text.split())
            for found in re.findall(r"By default (.*?)\.(?= |$)", words):
                said.setdefault(found, set()).update((command, name))
            rest = words.replace("By default ", "").replace("another default", "")
            assert "efault" not in rest, (command, name)
    assert said == {
        words: {*of.split()} | ({""} & said.get(words, set()))
        for words, (of, _) in IN_WORDS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("words", IN_WORDS)
def test_a_default_in_words_is_what_happens(words, made):
    assert IN_WORDS[words][1](made)
