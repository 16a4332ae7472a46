"""Tests of `orthohash train`: errors for invalid settings, and resuming."""

import json
from pathlib import Path

import pytest
import torch

from orthohash_triton import cli
from orthohash_triton._base.run_folder import CHECKPOINT
from orthohash_triton.data import features
from orthohash_triton.runs import load_run

from .data import blobs
from .test_checkpoint import stop_after


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "query"):
        features.save(folder / f"{name}.npz", blobs())
    return ["--dataset", str(folder), "--bits", "16", "--epochs", "2", "--batch-size", "50", "--threads", "1",
            "--method", "csq", "--quantization-weight", "0.1", "--checkpoint-every", "2"]  # fmt: skip


@pytest.fixture
def stopped(tmp_path: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return the folder of a run that Ctrl-C has stopped."""
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_after(patched, 3, KeyboardInterrupt)
        assert cli.main(["train", *settings, "--out", str(run), "--no-progress"]) == 130
    assert f"continue with: orthohash train --resume {run}" in capsys.readouterr().err
    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Call the command with a mistake, and return the line on standard error."""
    try:
        status = cli.main(["train", *map(str, arguments)])
    except SystemExit as stop:  # the error was found while the arguments were parsed
        status = stop.code
    told = capsys.readouterr()
    assert status == 2
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_resume_takes_the_settings_of_the_beginning(
    stopped: Path, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--resume", str(stopped), "--json", "--no-progress"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["run"] == str(stopped)
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    assert cli.main(["train", *settings, "--out", str(tmp_path / "whole"), "--quiet"]) == 0
    for name in ("model.safetensors", "index.ibxf"):
        assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert load_run(stopped).config == load_run(tmp_path / "whole").config
    assert not (stopped / CHECKPOINT).exists()


def test_resume_with_other_settings(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "--resume", stopped, "--bits", 32, "--quantization-weight", 0.2)
    assert "started with other settings: bits was 16, now 32; options was" in told
    (tmp_path / "run.toml").write_text("epochs = 9\n")
    assert "epochs was 2, now 9" in refused(capsys, "--resume", stopped, "--config", tmp_path / "run.toml")
    assert "remove --out" in refused(capsys, "--resume", stopped, "--out", tmp_path / "elsewhere")
    assert (stopped / CHECKPOINT).exists()


def test_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no training was started there" in refused(capsys, "--resume", tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"no checkpoint")
    assert "is not a readable checkpoint" in refused(capsys, "--resume", tmp_path)


def test_runs_are_not_lost(stopped: Path, settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds an unfinished training: resume it with --resume" in refused(capsys, *settings, "--out", stopped)
    assert cli.main(["train", "--resume", str(stopped), "--quiet"]) == 0
    before = (stopped / "model.safetensors").read_bytes()
    assert "nothing is left to resume" in refused(capsys, "--resume", stopped)
    assert "holds a finished run: choose another folder, or add --overwrite" in refused(capsys, *settings, "--out", stopped)
    assert (stopped / "model.safetensors").read_bytes() == before
    assert cli.main(["train", *settings, "--seed", "1", "--out", str(stopped), "--overwrite", "--quiet"]) == 0
    assert (stopped / "model.safetensors").read_bytes() != before


def test_images_without_labels_are_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate((255 * torch.rand(20, 12, 12, 3)).byte().numpy()):
        image.fromarray(pixels).save(folder / f"{number}.png")
    arguments = ["train", "--dataset", str(folder), "--image-size", "12", "--bits", "8", "--no-progress"]
    assert cli.main([*arguments, "--method", "pca", "--out", str(tmp_path / "pca")]) == 0
    assert "has no labels: the run was not evaluated" in capsys.readouterr().out
    assert cli.main([*arguments, "--method", "lsh", "--out", str(tmp_path / "lsh"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"] is None
    told = refused(capsys, *arguments[1:], "--batch-size", 4, "--out", tmp_path / "learned")
    assert "'orthohash' learns from labels" in told


def test_help_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    told = capsys.readouterr().out
    assert "--resume RUN" in told
    assert "--overwrite" in told
