"""Bad input of every command ends with exit code 2 and words, before any work."""

import io

import pytest
from PIL import Image

from flows.cli import run_command_line
from model.audit.gate import read_gate
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest, artifact_digest

FILES = {
    "noise": bytes(range(256)) * 20,
    "empty": b"",
    "broken.toml": b"[max\n",
    "nan.toml": b"[max]\nnear_copy_rate = nan\n",
    "negative.toml": b"min_ink = -1\n",
    "utf16.toml": "min_ink = 1\n".encode("utf-16-le"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Be in a folder with a store, a folder "dir", a picture and files of no use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKETCHMILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "dir").mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    picture = io.BytesIO()
    Image.new("L", (28, 28)).save(picture, "PNG")
    (tmp_path / "p.png").write_bytes(picture.getvalue())
    store = open_store("store")
    summary = {"class_names": ["bee"], "image_shape": [28, 28]}
    for kind, name in [("datasets", "d"), ("models", "m"), ("samples", "s")]:
        digest = artifact_digest(kind, {}, ())
        store.publish(Manifest(kind=kind, name=name, digest=digest, spec={}, summary=summary))


QUOTA = "quota --model m --samples-per-class 1"
COMPLETE = "complete p.png --model m --rows-given 3"
BAD = {
    # a folder, a file or nothing in place of what is wanted
    "ls --store noise": "there is no store at",
    "pull d --origin noise": "there is no store at",
    "push d --to noise": "cannot be a store: File exists",
    "push d --to noise/x": "cannot be a store: Not a directory",
    "build --source noise --classes all": "noise is not a kind of file that is read",
    "build --classes-file dir": "cannot read dir: Is a directory",
    "build --classes-file noise": "cannot read noise: line 2 is not UTF-8 text",
    "sample --model m --counts dir": "cannot read dir: Is a directory",
    "sample --model m --counts noise": "cannot read noise",
    "sample --model m --counts missing": "cannot read missing: No such file",
    "sample --model m --classes-file empty": "empty names no class",
    f"{QUOTA} --filters dir": "cannot read dir: Is a directory",
    f"{QUOTA} --filters noise": "cannot read noise",
    f"{QUOTA} --filters missing/x": "cannot read missing/x: No such file",
    f"{QUOTA} --filters noise/x": "cannot read noise/x: Not a directory",
    f"{QUOTA} --filters utf16.toml": "cannot read utf16.toml",
    f"{QUOTA} --filters broken.toml": "cannot read broken.toml",
    f"{QUOTA} --filters negative.toml": "min_ink must be finite and not negative, found -1",
    "complete dir --model m --rows-given 3": "dir: Is a directory",
    "complete missing.png --model m --rows-given 3": "missing.png: No such file or directory",
    "complete noise/p.png --model m --rows-given 3": "noise/p.png: Not a directory",
    f"{COMPLETE} --mask dir": "dir: Is a directory",
    f"{COMPLETE} --out dir": "dir is a folder: name a file in it",
    f"{COMPLETE} --out missing/x.png": "there is no folder",
    "score --model m --sheet dir": "dir is a folder: name a file in it",
    "serve --file dir": "cannot read dir: Is a directory",
    "serve --file noise": "cannot read noise",
    "train --dataset d --work-dir noise": "work_dir noise is not a directory",
    # an artifact of another kind, or none
    "train --dataset m": "no complete artifact 'm' among the datasets",
    "evaluate --model d": "no complete artifact 'd' among the models",
    "sample --model s": "no complete artifact 's' among the models",
    "report --samples d": "no complete artifact 'd' among the samples",
    "reproduce d --row 0": "no complete artifact 'd' among the samples",
    "classifier --dataset s": "no complete artifact 's' among the datasets",
    "score --model m --dataset s": "no complete artifact 's' among the datasets",
    "export m": "no complete artifact 'm'",
    "export models/m": "only samples and datasets can be exported",
    "show nothing": "matches 'nothing'",
    "diff d m --drawings": "--drawings compares two datasets",
    # numbers that cannot be
    "gc --keep -1": "--keep",
    "gc --grace-days nan": "--grace-days",
    "gc --grace-days 1e300": "--grace-days",
    "gc --grace-days=-3": "--grace-days",
    "build --classes bee --fraction nan": "fraction must be between",
    "build --classes bee --workers 0": "workers must be at least 1",
    "train --dataset d --nproc-per-node -1": "--nproc-per-node",
    "train --dataset d --checkpoint-interval nan": "checkpoint_interval_sec",
    "train --dataset d --set learning_rate=nan": "learning_rate=nan",
    "evaluate --model m --nproc-per-node -1": "--nproc-per-node",
    "sample --model m --processes -1": "--processes",
    "sample --model m --samples-per-class 0": "per_class must be at least 1",
    "sample --model m --temperature nan": "temperature must be positive, found nan",
    "report --samples s --per-class 0": "--per-class",
    "quota --model m --samples-per-class -1": "--samples-per-class",
    f"{QUOTA} --processes -1": "--processes",
    f"{COMPLETE} --seed -1": "--seed",
    "score --model m --worst 0": "--worst must be at least 1",
    "run --guidance nan": "guidance must be 0 or more, found nan",
    "run --samples-per-class 0": "--samples-per-class",
    "run --processes -1": "--processes",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_ends_with_words(command, here, capsys):
    assert run_command_line([*command.split(), "--quiet"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert BAD[command] in said
    for word in ("Traceback", "Errno", "Error(", "object at 0x"):
        assert word not in said


@pytest.mark.parametrize(("name", "words"), [("nan.toml", "found nan"), ("dir", "Is a directory")])
def test_a_gate_that_nothing_can_pass_is_refused(here, tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        read_gate(tmp_path / name)
