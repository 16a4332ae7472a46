"""Tests of all commands: help, examples, exit statuses, one-line errors, JSON, quiet mode, completion, encodings."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orthohash_triton import cli
from orthohash_triton.cli import _output
from orthohash_triton.cli._command import CommandParser, command_parsers

from . import TRAIN

COMMANDS = tuple(command_parsers(cli.make_parser()))
NO_FIGURES = {"completion", "browse"}
IN_OTHER_TESTS = {"compare", "demo", "report"}  # these take seconds, so --json and --quiet are tested together with their results


def declared(name: str) -> CommandParser:
    parser = command_parsers(cli.make_parser())[name]
    parser.declare()
    return parser


def options_of(parser: CommandParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_every_option_its_help(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    examples = capsys.readouterr().out.partition("examples:\n")[2].strip().splitlines()
    assert examples
    assert all("orthohash" in line for line in examples)
    assert any(f"orthohash {name}" in line for line in examples)
    assert [action.dest for action in declared(name)._actions if not action.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_take_options_that_exist(name: str) -> None:
    commands = command_parsers(cli.make_parser())
    for line in str(commands[name].epilog).splitlines()[1:]:
        of, *words = line.partition("#")[0].partition(f"orthohash{'_triton' * ('-m ' in line)} ")[2].split()
        assert of in commands
        assert {word for word in words if word.startswith("-") and word != "--help"} <= options_of(declared(of)), line


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_named_alike(name: str) -> None:
    """An option with one meaning has one name in all commands."""
    names = options_of(declared(name))
    common = {"--json", "--quiet", "--no-progress"}
    assert common & names == (set() if name in NO_FIGURES else common)
    assert not names & {"--output", "-o", "--verbose", "--dataset-name", "--num-bits", "--nbits", "--top-k", "--cpu", "--gpu"}
    assert all(option == option.lower() and "_" not in option for option in names)


def test_the_help_names_every_exit_status(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.partition("exit status:\n")[2].partition("\n\n")[0].splitlines()] == [
        "0",
        "1",
        "2",
        "130",
    ]
    assert all(f"    {name}" in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["zzz"], "there is no command 'zzz'; choose from train, methods"),
        ([], "the following arguments are required: COMMAND"),
        (["train", "--out", "x", "--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["train", "--out", "x", "--marginn=0.1"], "unknown option --marginn=0.1; did you mean --margin?"),
        (["train", "--out", "x", "--method", "orthohush"], "got 'orthohush'; did you mean orthohash?"),
        (["train", "--out", "x", "--method", "dhn", "--margin", "0.2"], "unknown option --margin"),
        (["train", "--out", "x", "--schedule", "cosin"], "got 'cosin'; did you mean cosine?"),
        (["compare", "--out", "x", "--methods", "csq", "lhs"], "got 'lhs'; did you mean lsh?"),
        (["train", "--out", "x", "--bits", "many"], "argument --bits: invalid int value: 'many'"),
        (["train"], "the following arguments are required: --out"),
        (["evaluate", "a", "b"], "unknown argument b"),
        (["search", "a"], "the following arguments are required: QUERIES"),
        (["completion", "ksh"], "invalid choice: 'ksh'"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("orthohash")
    assert "--help`" in err
    assert out == ""


def invocations(run: Path, tmp_path: Path) -> dict[str, list[object]]:
    """Return the arguments of a quick call of every command that prints figures."""
    codes = run.parent / "codes.npy"
    return {
        "train": [*TRAIN, "--method", "lsh", "--out", tmp_path / "lsh"],
        "methods": [],
        "features": ["--dataset", "digits", "--backbone", "pixels", "--out", tmp_path / "features"],
        "duplicates": [codes, "--out", tmp_path / "groups.json"],
        "encode": [run, "digits", "--out", tmp_path / "codes.npy"],
        "index": [codes, "--out", tmp_path / "codes.ibxf"],
        "search": [codes.with_suffix(".ibxf"), codes, "-k", 2],
        "evaluate": [run],
        "info": [run],
        "doctor": ["--device", "cpu"],
        "export": [run, "--out", tmp_path / "model"],
    }


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_FIGURES | IN_OTHER_TESTS])
def test_json_and_quiet(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    codes = run.parent / "codes.npy"
    assert cli.main(["index", str(codes), "--out", str(codes.with_suffix(".ibxf")), "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    arguments = list(map(str, invocations(run, tmp_path)[name]))
    assert cli.main([name, *arguments, "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert err == ""


def test_quiet_prints_errors(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["evaluate", str(tmp_path), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is not a run folder" in err


def test_quiet_prints_no_table(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["evaluate", str(run), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("options", [[], ["--no-progress"], ["--quiet"]])
def test_progress_bars_can_be_turned_off(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["train", *TRAIN, *options, "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert ("epoch 1/1" in err) == (options == [])
    assert ("run folder" in out) == (options != ["--quiet"])


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert cli.main(["methods"]) == 2
    assert 'pip install "rich>=' in capsys.readouterr().err
    assert cli.main(["methods", "--json"]) == 0
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert 'pip install "shtab>=' in capsys.readouterr().err


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture) -> None:
    names = ["photos [1]/[red]beach.jpg", ":smile:", "[/]"]
    _output.print_table("[bold]queries", ["file [0]"], [[name] for name in names])
    out = capsys.readouterr().out
    assert all(name in out for name in [*names, "[bold]queries", "file [0]"])


@pytest.mark.parametrize(
    ("encoding", "title"), [("cp1252", "Zürich, radius <= 2"), ("ascii", "Z?rich, radius <= 2"), ("utf-8", "Zürich, radius ≤ 2")]
)
def test_tables_in_the_encoding_of_the_terminal(encoding: str, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding))
    _output.replace_unsupported_symbols()
    _output.print_table("Zürich, radius ≤ 2", ["a column that is wide enough"], [["b"]])
    sys.stdout.flush()
    out = printed.getvalue().decode(encoding)
    assert title in out
    assert ("│" in out) == (encoding == "utf-8")


def python(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **(environment or {})}, timeout=300)


def test_the_symbols_of_narrow_encodings() -> None:
    _output.replace_unsupported_symbols()
    assert "radius ≤ 2, ±1, Überwald 象".encode("cp1252", errors="orthohash") == "radius <= 2, ±1, Überwald ?".encode("cp1252")
    assert "≥ → … ±".encode("ascii", errors="orthohash") == b">= -> ... +-"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_no_color_is_honoured() -> None:
    """In a terminal with colours no colour is chosen while NO_COLOR is set, and some are when it is not."""
    code = """
import os
from orthohash_triton.cli._output import print_table
from orthohash_triton._base.progress import progress_bar
for no_color in ("1", ""):
    os.environ["NO_COLOR"] = no_color
    print_table("t", ["a"], [["b"]])
    with progress_bar("bar", 1) as advance:
        advance()
    print("END", flush=True)
"""
    without, coloured, _ = in_terminal([sys.executable, "-c", code], {"TERM": "xterm-256color"}).split(b"END")
    assert b"bar" in without
    assert b"bar" in coloured
    assert not has_colours(without)
    assert has_colours(coloured)


def has_colours(shown: bytes) -> bool:
    return any(sequence in shown for sequence in (b"\x1b[38;", b"\x1b[32", b"\x1b[35"))


def in_terminal(command: list[str], environment: dict[str, str]) -> bytes:
    import pty

    read, write = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(command, stdout=write, stderr=write, env={**kept, **environment}) as process:
        os.close(write)
        shown = b""
        while True:
            try:
                piece = os.read(read, 4096)
            except OSError:  # Linux: the other end was closed
                break
            if not piece:
                break
            shown += piece
    os.close(read)
    assert process.returncode == 0, shown
    return shown


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Return a function that completes the last of its words in a real bash."""
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash here")
    folder = tmp_path_factory.mktemp("bash")
    (folder / "photos").mkdir()
    (folder / "run.toml").touch()
    done = python("-m", "orthohash_triton.cli", "completion", "bash")
    (folder / "completion.bash").write_bytes(done.stdout)
    script = (
        'source completion.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_orthohash; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def complete(*words: str) -> list[str]:
        command = [shell, "-c", script, "bash", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split()

    return complete


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["train", "--backbone-l"], ["--backbone-lr-scale"]),
        (["train", "--quantization-w"], ["--quantization-weight"]),  # an option of a method that is not the default
        (["train", "--method", "orth"], ["orthohash"]),
        (["train", "--schedule", "co"], ["cosine", "constant"]),
        (["train", "--config", "ru"], ["run.toml"]),
        (["train", "--dataset", "pho"], ["photos"]),
        (["evaluate", "pho"], ["photos"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_completion_in_bash(words: list[str], expected: list[str], bash: Callable[..., list[str]]) -> None:
    assert bash("orthohash", *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "tcsh", "fish", "powershell"])
def test_completion_names_every_command(shell: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in script] == []


@pytest.mark.parametrize(("samples", "given", "expected"), [(10, {}, 2), (5, {}, 2), (40, {}, 10), (10, {"batch_size": 8}, 8)])
def test_few_samples_get_a_small_batch(samples: int, given: dict, expected: int, capsys: pytest.CaptureFixture) -> None:
    from orthohash_triton.cli import train
    from orthohash_triton.train import TrainConfig

    assert train._with_fitting_batch_size(TrainConfig(**given), samples, verbose=True).batch_size == expected
    assert ("--batch-size sets another" in capsys.readouterr().err) == (not given)
    many = train._with_fitting_batch_size(TrainConfig(), 10_000, verbose=True)
    assert many == TrainConfig()


def test_infinite_numbers_are_printed_as_toml() -> None:
    from orthohash_triton.cli import _config_files

    assert [_config_files._toml_value(float(text)) for text in ("inf", "-inf", "nan", "5e-4")] == ["inf", "-inf", "nan", "0.0005"]
    assert _config_files._toml_value([1, "a", True]) == '[1, "a", true]'


def test_the_port_in_the_help_is_that_of_the_server() -> None:
    pytest.importorskip("starlette")
    from orthohash_triton.browse import PORT

    assert declared("browse").get_default("port") == PORT


def test_the_help_of_sources_names_every_data_set() -> None:
    from orthohash_triton.cli._sources import SOURCES
    from orthohash_triton.data import names

    assert [name for name in names() if name not in SOURCES] == []
