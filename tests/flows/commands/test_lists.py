"""Lists that people give: class lists and counts, as editors and spreadsheets write them."""

import codecs
import json

import pytest

from flows.cli import run_command_line
from pipelines.store.artifacts import open_store
from pipelines.store.manifest import Manifest, artifact_digest

NAMES = ("bee", "bread, white", "C# logo", "player", "player #1", 'say "hi"', "Käse")
COUNTS = {"bee": 3, "bread, white": 4, "Käse": 5}


@pytest.fixture
def sample(tmp_path, capsys):
    """Return a function that plans samples of a model for a list: (exit code, spec or error)."""
    store = open_store(str(tmp_path / "store"))
    summary = {"class_names": list(NAMES)}
    digest = artifact_digest("models", {}, ())
    store.publish(Manifest(kind="models", name="own", digest=digest, spec={}, summary=summary))

    def plan(option: str, content: bytes | str) -> tuple[int, dict | str]:
        path = tmp_path / "given"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        given = [option, str(path), "--store", store.url, "--dry-run", "--json"]
        code = run_command_line(["sample", "--model", "own", *given])
        said = capsys.readouterr()
        return code, said.err if code else json.loads(said.out.splitlines()[-1])["spec"]

    return plan


ENCODINGS = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "cr": lambda text: text.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("written", ENCODINGS)
def test_a_class_list_is_read_as_any_editor_writes_it(sample, written):
    text = "# mine\nbee\n\nbread, white\n  Käse  # a cheese\n"
    code, spec = sample("--classes-file", ENCODINGS[written](text))
    assert (code, spec["class_names"]) == (0, ["bee", "bread, white", "Käse"])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("C# logo", "C# logo"),
        ("C# logo # a language", "C# logo"),
        ("player #1", "player #1"),
        ("player # 1", "player"),
        ("player #", "player"),
        ("#player\nbee", "bee"),
        ('"bread, white"', "bread, white"),
        ('"bread, white" # "soft"', "bread, white"),
        ('"player #1",', "player #1"),
        ('"say ""hi"""', 'say "hi"'),
        ('say "hi"', 'say "hi"'),
    ],
)
def test_a_line_of_a_class_list_is_one_name(sample, line, name):
    code, spec = sample("--classes-file", f"{line}\n")
    assert (code, spec["class_names"]) == (0, [name])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bee\nplayer\nbee\n", "given, line 3: class 'bee' is named twice, first in line 1"),
        ('bee\n"player\n', "given, line 2: a quoted name must end in a quote"),
        ("# all of them\n", "given names no class"),
        ("", "given names no class"),
        ("bee #1\n", "class 'bee #1' is not in the catalogue; did you mean 'bee'"),
        ("bee\nKäse\n".encode("latin-1"), "given: line 2 is not UTF-8 text: save it as UTF-8"),
        ("bee\n".encode("utf-16-le"), "given: it is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_a_class_list_with_a_mistake_says_where(sample, content, message):
    code, said = sample("--classes-file", content)
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    "text",
    [
        'bee,3\n"bread, white",4\nKäse,5\n',
        "class,count\nbee,3\n\n" + '"bread, white",4\nKäse,5\n,\n',
        "Class;Count\nbee;3\nbread, white;4\nKäse;5\n",
        'sep=;\nbee;3\n"bread, white";4\nKäse;5\n',
        "bee\t3\nbread, white\t4\nKäse\t5\n",
        'bee, 3\n"bread, white", 4\nKäse ,"5"\n'.replace(", 4", ",4"),
    ],
)
@pytest.mark.parametrize("written", ENCODINGS)
def test_counts_are_read_as_any_spreadsheet_writes_them(sample, text, written):
    code, spec = sample("--counts", ENCODINGS[written](text))
    assert code == 0, spec
    assert dict(zip(spec["class_names"], spec["per_class"], strict=True)) == COUNTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bee,3\n\nbee,4\n", "given, line 3: class 'bee' is counted twice"),
        ("bee;3\nplayer;x\n", "given, line 2: expected class,count, found player,x"),
        ("bee,3.5\n", "given, line 1: expected class,count, found bee,3.5"),
        ("bee,-3\n", "given, line 1: expected class,count, found bee,-3"),
        ("bread, white,3\n", "quote a name that has a comma"),
        ('"bee,3\n', "given, line 1: a quoted cell must end in a quote"),
        ("total,count\nbee,3\n", "given, line 1: expected class,count, found total,count"),
        ("class,count\n", "given counts no class"),
        ("Käse,3\n".encode("latin-1"), "given: line 1 is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_counts_with_a_mistake_say_where(sample, content, message):
    code, said = sample("--counts", content)
    assert code == 2
    assert message in said


def test_commas_in_quotes_do_not_separate_classes(sample, tmp_path, capsys):
    sample("--classes-file", "bee\n")
    given = ["--store", str(tmp_path / "store"), "--dry-run", "--json"]
    for written in ('bee,"bread, white"', 'bee, "bread, white"', "bee\nbread white\n"):
        run_command_line(["sample", "--model", "own", "--classes", written, *given])
        said = capsys.readouterr()
        if "\n" in written:
            assert "class 'bread white' is not" in said.err
        else:
            spec = json.loads(said.out.splitlines()[-1])["spec"]
            assert spec["class_names"] == ["bee", "bread, white"]


def test_a_class_list_that_is_no_file_is_named(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "missing.txt"):
        assert run_command_line(["build", "--classes-file", str(path)]) == 2
        assert f"cannot read {path}: " in capsys.readouterr().err
