"""Tests that a run finds its data set: from another working folder, after a move, and where --dataset says."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from orthohash_triton import cli
from orthohash_triton.runs import load_run
from orthohash_triton.runs.data_sets import load_data_set
from tests.pages import image_folder

TRAIN = ("train", "--method", "lsh", "--bits", "16", "--image-size", "16", "--query-fraction", "0.25", "--threads", "1")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with `photos` and a run in `runs/1`, trained with relative paths; another folder is the working folder."""
    folder = tmp_path / "project"
    image_folder(folder / "photos", ["cat", "dog"])
    monkeypatch.chdir(folder)
    assert cli.main([*TRAIN, "--dataset", "photos/", "--out", "runs/1", "--quiet"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def call(capsys: pytest.CaptureFixture, *arguments: object, status: int = 0) -> str:
    assert cli.main([str(argument) for argument in arguments]) == status
    told = capsys.readouterr()
    return told.err if status else told.out


def test_a_run_can_be_used_from_another_folder(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = project / "runs" / "1"
    stored = json.loads((run / "metrics.json").read_text())["evaluation"]
    figures = json.loads(call(capsys, "evaluate", run, "--json"))
    assert figures["map_at_all"] == stored["map_at_all"]
    assert call(capsys, "train", "--config", run, "--out", "again", "--quiet") == ""
    for name in ("index.ibxf", "labels.safetensors"):
        assert (tmp_path / "elsewhere" / "again" / name).read_bytes() == (run / name).read_bytes()


def test_a_run_that_moved_with_its_data_set(project: Path, capsys: pytest.CaptureFixture) -> None:
    moved = project.rename(project.with_name("moved"))
    run = load_run(moved / "runs" / "1")
    assert run.config.dataset == str(moved / "photos")
    assert run.gallery_paths is not None
    assert all(Path(path).is_file() for path in run.gallery_paths)
    assert "mAP" in call(capsys, "evaluate", moved / "runs" / "1")


def test_the_option_says_where_the_data_set_is(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = project / "runs" / "1"
    shutil.move(project / "photos", tmp_path / "new")
    error = call(capsys, "evaluate", run, status=2)
    assert f"the data set of {run} is not at {project / 'photos'}. Say where it is now with --dataset" in error
    assert "queries" in json.loads(call(capsys, "evaluate", run, "--dataset", tmp_path / "new", "--json"))
    opened = load_run(run, dataset=tmp_path / "new")
    assert opened.gallery_paths is not None
    assert all(Path(path).is_file() for path in opened.gallery_paths)
    found = json.loads(call(capsys, "report", run, "--dataset", tmp_path / "new", "--queries", 2, "--json"))
    assert found["notes"] == []
    assert json.loads(call(capsys, "report", run, "--queries", 2, "--json"))["notes"] != []


def test_another_data_set_of_the_same_names_is_refused(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The images are numbered, as in many data sets, so that the names alone say little."""
    other = image_folder(tmp_path / "other", ["dog", "cat"])
    error = call(capsys, "evaluate", project / "runs" / "1", "--dataset", other, status=2)
    assert "is not the one that" in error


def test_images_that_were_compressed_again_are_accepted(project: Path) -> None:
    from PIL import Image

    for path in (project / "photos").rglob("*.png"):
        Image.open(path).save(path, compress_level=0)
    assert len(load_data_set(load_run(project / "runs" / "1")).query) == 4


def test_a_run_that_cannot_be_written_to(project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    run = project / "runs" / "1"
    before = content(run)
    figures = json.loads(call(capsys, "evaluate", run, "--out", "figures.json", "--json"))
    assert json.loads(Path("figures.json").read_text()) == figures
    call(capsys, "report", run, "--out", "report.html", "--queries", 2)
    assert Path("report.html").stat().st_size > 0
    assert content(run) == before
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for command in ("evaluate", "report"):
        assert f"{run} cannot be written to; name another place for the result with --out" in call(capsys, command, run, status=2)
    assert content(run) == before
