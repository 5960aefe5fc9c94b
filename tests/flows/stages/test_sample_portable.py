"""`sketchmill sample` in portable arithmetic: one answer on every machine, however it is cut."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import run_command_line
from pipelines.drawings.reading import split_shards
from pipelines.store.artifacts import open_store

pytestmark = pytest.mark.slow

SAMPLE = ["sample", "--model", "shipped:tiny-20", "--classes", "bee,sun", "--json", "--quiet"]
CHOICES = ("auto", "portable", "torch")
SKETCHMILL = str(Path(sys.executable).with_name("sketchmill"))
PORTABLE = ["--arithmetic", "portable"]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command which answers with JSON."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        assert run_command_line([*arguments]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def shards(store: str, digest: str) -> list[bytes]:
    opened = open_store(store)
    made = opened.find("samples", "tiny-20", digest)
    assert made is not None
    return [opened.read(made, entry.path) for entry in split_shards(made, "train")]


def test_processes_batches_and_parts_give_the_same_bytes(ask):
    more = [*PORTABLE, "--samples-per-class", "70", "--rows-per-shard", "64"]
    whole = ask(*SAMPLE, *more, "--processes", "1", "--store", "a")
    for store, options in {"b": ["--processes", "2"], "c": ["--batch", "7"]}.items():
        assert ask(*SAMPLE, *more, *options, "--store", store) == whole
        assert shards(store, whole["samples"]) == shards("a", whole["samples"])
    for part in ("1-2", "0"):
        last = ask(*SAMPLE, *more, "--shards", part, "--store", "d")
    assert last["is_published"]
    assert shards("d", whole["samples"]) == shards("a", whole["samples"])


def test_a_drawing_is_the_same_beside_any_others(ask):
    few = ask(*SAMPLE, *PORTABLE, "--samples-per-class", "2", "--store", "a")
    many = ask(*SAMPLE[:3], *SAMPLE[5:], *PORTABLE, "--samples-per-class", "3", "--store", "a")
    rows = [table_of("a", each["samples"]) for each in (few, many)]
    for key, drawing in rows[0].items():
        assert rows[1][key] == drawing
    assert ask("reproduce", few["samples"], "--row", "3", "--store", "a", "--json")["is_equal"]


def table_of(store: str, digest: str) -> dict:
    """Return picture and likelihood of each drawing by class and number."""
    opened = open_store(store)
    made = opened.find("samples", "tiny-20", digest)
    assert made is not None
    rows = pq.read_table(opened.local_path(f"{made.prefix}/data")).to_pylist()
    names = ("class_name", "sample_index")
    return {tuple(row[n] for n in names): (row["image"], row["bits_per_dim"]) for row in rows}


def test_what_was_chosen_is_in_the_spec_and_in_the_config_that_repeats_it(ask):
    one = ["--samples-per-class", "1", "--store", "a"]
    plans = {each: ask(*SAMPLE, *one, "--dry-run", "--arithmetic", each) for each in CHOICES}
    assert plans["portable"]["samples"] != plans["torch"]["samples"]
    chosen = plans["auto"]["spec"]["arithmetic"]
    assert plans["auto"] == plans[chosen]
    made = ask(*SAMPLE, *one)
    (config,) = Path("a/samples/tiny-20", made["samples"]).glob("sample.toml")
    assert f'arithmetic = "{chosen}"' in config.read_text()
    assert ask("sample", "--config", str(config), "--store", "b", "--json") == made


def test_torch_draws_where_no_compiler_is_and_portable_says_what_it_needs(
    ask, monkeypatch, tmp_path
):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    one = ["--samples-per-class", "1", "--store", "a"]
    assert ask(*SAMPLE, *one, "--dry-run")["spec"]["arithmetic"] == "torch"
    command = [SKETCHMILL, *SAMPLE, *one]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "portable arithmetic: there is no C compiler (cc or gcc)" in done.stderr
    done = subprocess.run([*command, *PORTABLE], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "portable arithmetic needs a C compiler" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_at_any_moment_it_ends_in_the_same_bytes(ask, number, tmp_path):
    more = [*PORTABLE, "--samples-per-class", "384", "--rows-per-shard", "64", "--processes", "2"]
    whole = ask(*SAMPLE, *more, "--store", "a")
    command = [SKETCHMILL, *SAMPLE, *more, "--store", "b"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 60
        while not list(Path("b").rglob("*.parquet")):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(number)
    assert 0 < len(list(Path("b").rglob("*.parquet"))) < 12
    assert ask(*SAMPLE, *more, "--store", "b") == whole
    assert shards("b", whole["samples"]) == shards("a", whole["samples"])
