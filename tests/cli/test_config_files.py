"""Tests of configuration files: every format, the precedence of options, and errors for mistakes."""

import json
import sys
from pathlib import Path

import pytest

from orthohash_triton import cli
from orthohash_triton.cli import _config_files

from . import TRAIN

METHOD = ["--method", "dhn", "--quantization-weight", "0.05"]
WEIGHTS = "model.safetensors"


def printed(capsys: pytest.CaptureFixture, *arguments: object) -> dict:
    """Return the settings of a command, as --print-config prints them."""
    with pytest.raises(SystemExit, match="0"):
        cli.main([*map(str, arguments), "--print-config"])
    settings = _config_files._PARSERS[".toml"](capsys.readouterr().out)
    return {**settings, **settings.pop("options", {})}


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Call the command line with a mistake, and return the line on standard error."""
    with pytest.raises(SystemExit, match="2"):
        cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.fixture(scope="module")
def dhn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "dhn"
    assert cli.main(["train", *TRAIN, *METHOD, "--out", str(path), "--quiet"]) == 0
    return path


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_run_folder_repeats_the_run(name: str, dhn_run: Path, tmp_path: Path) -> None:
    assert cli.main(["train", "--config", str(dhn_run / name), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    for file in (WEIGHTS, "index.ibxf"):
        assert (tmp_path / "again" / file).read_bytes() == (dhn_run / file).read_bytes()


def test_the_command_line_changes_a_run(dhn_run: Path, tmp_path: Path) -> None:
    assert cli.main(["train", "--config", str(dhn_run), "--seed", "1", "--out", str(tmp_path / "other"), "--quiet"]) == 0
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != (dhn_run / WEIGHTS).read_bytes()


def test_the_printed_settings_repeat_the_run(dhn_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", *TRAIN, *METHOD, "--print-config"])
    (tmp_path / "run.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert cli.main(["train", "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (dhn_run / WEIGHTS).read_bytes()
    description = json.loads((dhn_run / "config.json").read_text())["config"]
    assert json.loads((tmp_path / "again" / "config.json").read_text())["config"] == description


FILES = {
    "run.toml": 'out = "runs/ü"\ndataset = "photos"\nmethod = "dhn"\nbits = 32\nlr = 5e-4\nflip = false\nbatch-size = 8\n'
    "[options]\nquantization_weight = 0.2\n",
    "run.yaml": "out: runs/ü\ndataset: photos\nmethod: dhn\nbits: 32\nlr: 5e-4\nflip: false\nbatch-size: 8\n"
    "options:\n  quantization_weight: 0.2\n",
    "run.yml": "{out: runs/ü, dataset: photos, method: dhn, bits: 32, lr: 0.0005, flip: no, batch_size: 8, "
    "options: {quantization-weight: 0.2}}",
    "run.json": '{"out": "runs/ü", "dataset": "photos", "method": "dhn", "bits": 32, "lr": 5e-4, "flip": false, "batch_size": 8,'
    '"threads": null, "options": {"quantization_weight": 0.2}}',
}


@pytest.mark.parametrize("name", FILES)
def test_formats(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    settings = printed(capsys, "train", "--config", tmp_path / name)
    expected = {"out": str(Path("runs/ü")), "dataset": "photos", "method": "dhn", "bits": 32, "lr": 5e-4, "flip": False,
                "batch_size": 8, "quantization_weight": 0.2}  # fmt: skip
    assert {key: settings[key] for key in expected} == expected
    assert "threads" not in settings


def test_the_command_line_goes_before_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run.toml").write_text('method = "dhn"\nbits = 32\nflip = false\n')
    settings = printed(capsys, "train", "--config", tmp_path / "run.toml", "--bits", 8, "--flip")
    assert (settings["bits"], settings["flip"], settings["method"]) == (8, True, "dhn")
    assert "quantization_weight" in settings
    settings = printed(capsys, "train", "--method", "csq", f"--config={tmp_path / 'run.toml'}")
    assert settings["method"] == "csq"
    assert "quantization_weight" in settings
    assert "pairs" not in settings  # an option of DHN


def test_other_commands_take_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "compare.toml").write_text('methods = ["csq", "lsh"]\nlengths = [8, 16]\nseeds = 3\nepochs = 2\n')
    settings = printed(capsys, "compare", "--config", tmp_path / "compare.toml")
    assert (settings["methods"], settings["lengths"], settings["seeds"], settings["epochs"]) == (["csq", "lsh"], [8, 16], [3], 2)
    assert printed(capsys, "compare")["lengths"] == [16, 32, 64]
    (tmp_path / "features.json").write_text('{"backbone": "pixels"}')
    assert printed(capsys, "features", "--config", tmp_path / "features.json")["backbone"] == "pixels"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "bitz = 8", "sets 'bitz', which orthohash train does not take; did you mean bits?"),
        ("run.toml", "zzzz = 8", "sets 'zzzz', which orthohash train does not take; `orthohash train --help` lists"),
        ("run.toml", "json = true", "sets 'json', which orthohash train does not take"),
        ("run.toml", "[options]\ngrowth = 2.0", "sets 'growth', which orthohash train does not take"),
        ("run.toml", "options = 3", "the options of the method in a table [options]"),
        ("run.toml", "bits = 8.5", "bits cannot be 8.5: expected an integer"),
        ("run.toml", "bits = true", "bits cannot be True: expected an integer"),
        ("run.toml", "lr = []", "lr cannot be []: expected a number"),
        ("run.toml", "lr = [1, 2]", "lr cannot be a list of 2 values: expected a number"),
        ("run.toml", "flip = 1", "flip cannot be 1: expected true or false"),
        ("run.toml", "dataset = 5", "dataset cannot be 5: expected text"),
        ("run.toml", 'method = "orthohush"', "got 'orthohush'; did you mean orthohash?"),
        ("run.toml", "bits = 8\nbits = 16", "is not a readable TOML file"),
        ("run.toml", "batch-size = 8\nbatch_size = 16", "sets batch_size twice"),
        ("run.yaml", "a: [", "is not a readable YAML file"),
        ("run.yaml", "- bits", "must hold settings by name"),
        ("run.yaml", "lr: much", "lr cannot be 'much'"),
        ("run.json", "{", "is not a readable JSON file"),
        ("run.json", '{"bits": null}', "bits cannot be None"),
        ("run.json", '{"format": 1, "config": {"bitz": 8}}', "did you mean bits?"),
        ("run.ini", "bits = 8", "must end in .toml, .yaml, .yml, .json, or be a run folder"),
    ],
)
def test_mistakes(name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_text(text)
    error = refused(capsys, "train", "--config", tmp_path / name, "--out", tmp_path / "out")
    assert message in error
    assert str(tmp_path / name) in error
    assert not (tmp_path / "out").exists()


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "nowhere.toml does not exist" in refused(capsys, "train", "--config", tmp_path / "nowhere.toml")
    assert "config.json does not exist" in refused(capsys, "train", "--config", tmp_path)  # a folder that holds no run
    assert "expected one argument" in refused(capsys, "train", "--out", "x", "--config")


def test_a_value_that_the_trainer_refuses(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run.toml").write_text("bits = 12")
    assert cli.main(["train", "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "bits must be a multiple of 8" in capsys.readouterr().err


def test_yaml_without_its_package_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text("bits: 8")
    monkeypatch.setitem(sys.modules, "yaml", None)
    error = refused(capsys, "train", "--config", tmp_path / "run.yaml", "--out", "x")
    assert 'YAML configuration files need pyyaml: pip install "pyyaml>=' in error
    assert 'pip install ".[config]"' in error


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"), [("run.toml", 'dataset = "Bär/"'), ("run.yaml", "dataset: Bär/"), ("run.json", '{"dataset": "Bär/"}')]
)
def test_encodings(name: str, text: str, encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert printed(capsys, "train", "--config", tmp_path / name, "--out", "x")["dataset"] == "Bär/"


@pytest.mark.parametrize("name", ["run.toml", "run.yaml", "run.json"])
def test_files_in_another_encoding_are_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_bytes(b"\xe4")
    error = refused(capsys, "train", "--config", tmp_path / name, "--out", "x")
    assert f"{name} is not a readable text file (it is not text in UTF-8: byte 0xe4 at position 0)" in error


SECRET = "hunter2-" * 12


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", f"dataset: {{url: photos, password: {SECRET}}}"),
        ("run.yaml", f"dataset: [{SECRET}]"),
        ("run.yaml", f"bits: {SECRET}"),
        ("run.yaml", f"schedule: {SECRET}"),
        ("run.yaml", f"flip: {SECRET}"),
        ("run.yaml", f"a: b\n  password: {SECRET}"),
        ("run.yaml", f"password: {SECRET}: x"),
        ("run.yaml", f"{SECRET}: 1"),
        ("run.toml", f'bits = "{SECRET}"'),
        ("run.toml", f"password = {SECRET}"),
        ("run.toml", f'"{SECRET}" = 1'),
        ("run.json", f'{{"bits": {{"password": "{SECRET}"}}}}'),
        ("run.json", f'{{"password": {SECRET}}}'),
        ("run.json", f'{{"method": "{SECRET}"}}'),
    ],
)
def test_a_value_of_the_file_is_not_printed_whole(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A file that was named by mistake may hold passwords."""
    (tmp_path / name).write_text(text)
    assert SECRET not in refused(capsys, "train", "--config", tmp_path / name, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "bits: &a [" + "x, " * 9 + "x]\nlr: &b [" + "*a, " * 9 + "*a]\nepochs: [" + "*b, " * 9 + "*b]"),
        ("run.json", json.dumps({"bits": "x" * 10_000_000})),
        ("run.json", json.dumps({"x" * 10_000_000: 1})),
        ("run.toml", f"bits = [{'1, ' * 100_000}]"),
    ],
)
def test_a_large_value_makes_a_short_message(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_text(text)
    assert len(refused(capsys, "train", "--config", tmp_path / name, "--out", tmp_path / "out")) < 3000
