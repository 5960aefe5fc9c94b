"""Options from files and the environment, and the config that repeats a command."""

import json
import subprocess
from pathlib import Path

import pytest

from flows.cli import make_app, run_command_line
from flows.config import config_text
from flows.help import COMMANDS
from flows.options import Classes
from flows.stages.base import Stage
from flows.stages.registry import STAGES
from pipelines.store.artifacts import open_store
from pipelines.store.collect import Collector


def parsed(*arguments: str) -> dict:
    """Return what a command line gives its command, by parameter."""
    _, given, _ = make_app().parse_args(list(arguments), exit_on_error=False, print_error=False)
    given.apply_defaults()
    return given.arguments


def params_of(stage: Stage, *arguments: str):
    """Return the stage's parameters from a command line."""
    given = parsed(stage.name, *arguments)
    values = vars(given.pop("options")) | {
        name: value for name, value in given.items() if name not in ("output", "classes")
    }
    params = stage.params(**values)
    return given["classes"].into(params) if isinstance(given.get("classes"), Classes) else params


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a config file and returns the options that name it."""

    def write(text: str) -> list[str]:
        (tmp_path / "run.toml").write_text(text)
        return ["--config", str(tmp_path / "run.toml")]

    return write


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty directory, and a cache of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))


OPTIONS = 'seed = 5\nformat = ["parquet", "tfrecord"]\nclasses = ["bee", "bread, white"]\n'
FLAGS = ["--seed", "5", "--format", "parquet,tfrecord", "--classes", 'bee,"bread, white"']


@pytest.mark.parametrize("head", ["", "[build]\n", 'store = "s"\n[train]\nseed = 1\n[build]\n'])
def test_a_file_means_what_the_flags_mean(config, head):
    store = ["--store", "s"] if head.startswith("store") else []
    asked = params_of(STAGES["build"], *config(head + OPTIONS))
    assert asked == params_of(STAGES["build"], *FLAGS, *store)


def test_a_flag_wins_over_the_file_and_the_file_over_the_environment(config, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_STORE", "of all")
    monkeypatch.setenv("SKETCHMILL_BUILD_SEED", "1")
    monkeypatch.setenv("SKETCHMILL_BUILD_NAME", "variable")
    monkeypatch.setenv("SKETCHMILL_BUILD_FORMAT", "parquet,tfrecord")
    file = config('seed = 2\nname = "file"\n')
    asked = params_of(STAGES["build"], *file, "--seed", "3")
    assert (asked.seed, asked.name, asked.formats) == (3, "file", ("parquet", "tfrecord"))
    assert asked.store == "of all"
    monkeypatch.setenv("SKETCHMILL_BUILD_STORE", "own")
    assert params_of(STAGES["build"], *file).store == "own"
    assert params_of(STAGES["train"], "--dataset", "x").store == "of all"


def test_the_environment_may_name_the_file(config, monkeypatch):
    monkeypatch.setenv("SKETCHMILL_CONFIG", config("seed = 2")[1])
    assert params_of(STAGES["build"]).seed == 2


@pytest.mark.parametrize("name", ["SEED", "STORE", "CONFIG"])
def test_an_empty_variable_is_not_set(monkeypatch, name):
    unset = params_of(STAGES["build"])
    monkeypatch.setenv(f"SKETCHMILL_{'' if name == 'CONFIG' else 'BUILD_'}{name}", "")
    monkeypatch.setenv("SKETCHMILL_STORE", "")
    assert params_of(STAGES["build"]) == unset


def test_a_variable_of_a_negated_flag_does_not_set_the_flag(monkeypatch):
    monkeypatch.setenv("SKETCHMILL_BUILD_NO_RECOGNIZED_ONLY", "1")
    assert not params_of(STAGES["build"]).recognized_only


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sead = 1", "build has no option 'sead'; did you mean 'seed'?"),
        ("no-recognized-only = true", "build has no option 'no-recognized-only'"),
        ('config = "x"', "build has no option 'config'"),
        ("seed = 1.5", "seed = 1.5: expected a whole number"),
        ('seed = "1"', "seed = '1': expected a whole number"),
        ("seed = true", "seed = True: expected a whole number"),
        ("recognized-only = 1", "recognized-only = 1: expected true or false"),
        ('store = ["a", "b"]', "store = ['a', 'b']: expected a text"),
        ("format = [1]", "format = 1: expected a text"),
        ("splits = {train = 1.0}", "[splits] is no command"),
        ('layout = "loose"', 'Invalid value "loose" for [layout]'),
        ("[biuld]\nseed = 1", "[biuld] is no command"),
        ("[run]\nseed = 1", "has options of run only: add a table [build]"),
        ("[build]\nseed = {a = 1}", "seed = {'a': 1}: expected a whole number"),
        ("seed =", "is not TOML"),
    ],
)
def test_bad_config_is_refused_by_name(config, capsys, monkeypatch, text, words):
    monkeypatch.setenv("COLUMNS", "1000")  # the panel breaks no path
    assert run_command_line(["build", *config(text)]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in said
    assert "run.toml" in said


@pytest.mark.parametrize("path", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(path, capsys):
    assert run_command_line(["build", "--config", path]) == 2
    assert f"sketchmill: {path}: " in capsys.readouterr().err


def test_what_is_taken_by_position_can_stand_in_a_file(config):
    assert parsed("verify", *config('refs = ["a", "b"]'))["refs"] == ("a", "b")
    assert parsed("show", *config('ref = "a"'))["ref"] == "a"
    assert params_of(STAGES["export"], "b", *config('ref = "a"\naudit = false')).ref == "b"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_a_config(command):
    """Also those whose every option is optional, so that the file may give what is required."""
    names = {each.name for each in make_app()[command].assemble_argument_collection()}
    assert "--config" in names


# Of every stage that makes an artifact: options that are not the defaults.
GIVEN = {
    "run": "--source doodles --classes \"bee,'sea turtle'\" --set num_filters=6 --set seed=1 "
    "--max-per-class 9 --guidance 0 --init none",
    "build": "--splits train=0.123456789,test=0.876543211 --countries US,DE --recognized-only "
    "--near-duplicates 3 --license CC0-1.0 --format tfrecord,parquet --max-points 7",
    "train": "--dataset doodles --preset small --set a=1 --init auto --seed 4",
    "sample": "--model m --classes bee,sun --temperature 0.5 --dtype bfloat16 --batch 3",
    "report": "--samples s --per-class 3 --audit --classifier c",
    "quota": "--model m --samples-per-class 4 --guidance 1.5",
    "export": "samples/x --format idx,png --no-audit --rows-per-shard 9",
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_config_of_parameters_gives_them_again(config, name):
    import shlex

    stage = STAGES[name]
    params = params_of(stage, *shlex.split(GIVEN[name]))
    assert params_of(stage, *config(config_text(name, params, {}))) == params


def test_the_config_has_no_options_of_how_and_where(config):
    how = ["--workers", "2", "--beam=--x", "--store", "s", "--source", "https://u:pw@h/a?t=pw"]
    text = config_text("build", params_of(STAGES["build"], *how), {})
    assert not {"workers", "beam", "store"} & {line.split(" ")[0] for line in text.splitlines()}
    assert 'source = "https://h/a"' in text
    params = params_of(STAGES["build"], "--source", "images", "--attribution", 'By "Ann\x7f é"\n')
    text = config_text("build", params, {})
    assert f'source = "{Path.cwd()}/images"' in text
    assert params_of(STAGES["build"], *config(text)).attribution == params.attribution


def test_secrets_of_a_file_and_of_the_environment_are_told_nowhere(config, monkeypatch, capsys):
    url = "https://user:CANARY@host/a?token=CANARY"
    assert params_of(STAGES["build"], *config(f'source = "{url}"')).source == "https://host/a"
    assert run_command_line(["build", *config(f'store = ["{url}"]')]) == 2
    assert run_command_line(["build", *config(f'seed = "{url}"')]) == 2
    assert run_command_line(["build", *config(f'layout = "{url}"')]) == 2
    config("")
    monkeypatch.setenv("SKETCHMILL_BUILD_SEED", url)
    assert run_command_line(["build"]) == 2
    monkeypatch.delenv("SKETCHMILL_BUILD_SEED")
    monkeypatch.setenv("SKETCHMILL_BUILD_SOURCE", url)
    assert params_of(STAGES["build"]).source == "https://host/a"
    said = capsys.readouterr()
    assert "CANARY" not in said.out + said.err


@pytest.mark.slow
def test_what_build_leaves_repeats_it_elsewhere(tmp_path, monkeypatch, capsys):
    def answer(*arguments: str) -> dict:
        assert run_command_line(["build", *arguments, "--json"]) == 0
        said = capsys.readouterr()
        assert said.err == ""  # quiet by the environment
        return json.loads(said.out.splitlines()[-1])

    monkeypatch.setenv("SKETCHMILL_QUIET", "1")
    made = answer("--classes", "sun,bee", "--max-per-class", "30", "--seed", "7")
    folder = Path("store/datasets/doodles") / made["dataset"]
    config = (folder / "build.toml").resolve()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert answer("--config", str(config)) == made
    again = Path("store/datasets/doodles") / made["dataset"]
    assert (again / "build.toml").read_bytes() == config.read_bytes()
    assert (again / "manifest.json").read_bytes() == config.with_name("manifest.json").read_bytes()

    from datetime import UTC, datetime, timedelta

    store = open_store("store")
    Collector(store, grace=timedelta(0)).collect(datetime.now(UTC) + timedelta(days=99))
    assert (again / "build.toml").is_file()
    assert answer("--config", str(config), "--seed", "8")["dataset"] != made["dataset"]

    ref = f"doodles@{made['dataset']}"
    exporting = ["export", ref, "--format", "idx", "--out", "idx", "--json"]
    assert run_command_line(exporting) == 0
    exported = json.loads(capsys.readouterr().out.splitlines()[-1])["export"]
    assert run_command_line(["export", "--config", "idx/export.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["export"] == exported
    (found,) = Path("store/exports/doodles").glob("*/export.toml")
    assert found.read_bytes() == Path("idx/export.toml").read_bytes()


def test_debug_may_come_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("SKETCHMILL_DEBUG", "1")
    assert run_command_line(["show", "x"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_knows_the_commands(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "completion"
    arguments = ["--install-completion", "--shell", shell, "--output", str(path)]
    assert run_command_line(arguments) == 0
    assert str(path) in capsys.readouterr().out
    text = path.read_text()
    assert {command for command in COMMANDS if command not in text} == set()
    assert "--samples-per-class" in text or "samples-per-class" in text


def test_completion_of_bash_completes():
    """A shell that has loaded it is asked for what begins with `cl`."""
    script = make_app().generate_completion(shell="bash")
    ask = 'COMP_WORDS=(sketchmill cl); COMP_CWORD=1; _sketchmill; echo "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["classifier", "classes"] or set(done.stdout.split()) == {
        "classifier",
        "classes",
    }
