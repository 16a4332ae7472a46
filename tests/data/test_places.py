"""Tests of the record of where a data set is, and of its location after a move."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from orthohash_triton import data
from orthohash_triton.data import Dataset, ImageFiles, places
from orthohash_triton.data.fingerprint import fingerprint


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a data set `photos`, and a run folder `runs/1`."""
    (tmp_path / "project" / "photos").mkdir(parents=True)
    (tmp_path / "project" / "runs" / "1").mkdir(parents=True)
    return tmp_path / "project"


def test_a_data_set_is_found_from_any_working_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    recorded = places.record({"dataset": "photos/"}, "runs/1")
    assert recorded == {"dataset": {"absolute": str(project / "photos"), "relative": "../../photos"}}
    assert places.locate({"dataset": "photos/"}, recorded, "runs/1") == ({"dataset": "photos/"}, ())
    monkeypatch.chdir(project / "runs")
    assert places.locate({"dataset": "photos/"}, recorded, "1") == ({"dataset": str(project / "photos")}, ())


def test_a_run_and_its_data_set_that_moved_together(project: Path) -> None:
    recorded = places.record({"dataset": str(project / "photos")}, project / "runs" / "1")
    moved = project.rename(project.with_name("moved"))
    located = places.locate({"dataset": str(project / "photos")}, recorded, moved / "runs" / "1")
    assert located.settings == {"dataset": str(moved / "photos")}
    assert located.path(str(project / "photos" / "cat" / "1.jpg")) == str(moved / "photos" / "cat" / "1.jpg")
    assert located.path(str(project / "photos2" / "1.jpg")) == str(project / "photos2" / "1.jpg")


def test_a_run_that_moved_alone(project: Path, tmp_path: Path) -> None:
    recorded = places.record({"dataset": str(project / "photos")}, project / "runs" / "1")
    shutil.move(project / "runs" / "1", tmp_path / "elsewhere")
    located = places.locate({"dataset": "photos"}, recorded, tmp_path / "elsewhere")
    assert located == ({"dataset": str(project / "photos")}, ())


def test_a_data_set_that_moved_alone(project: Path, tmp_path: Path) -> None:
    (project / "lists").mkdir()
    for name in ("lists/all.txt", "labels.npy"):
        (project / name).touch()
    names = {"dataset": "lists/all.txt", "root": "photos", "labels": "labels.npy"}
    settings = {setting: str(project / name) for setting, name in names.items()}
    recorded = places.record(settings, project / "runs" / "1")
    (tmp_path / "new").mkdir()
    for name in ("lists", "photos", "labels.npy"):
        shutil.move(project / name, tmp_path / "new" / name)
    assert places.locate(settings, recorded, project / "runs" / "1") == (settings, ())
    assert places.tried(recorded, project / "runs" / "1") == [settings["dataset"]]
    located = places.locate(settings, recorded, project / "runs" / "1", dataset=tmp_path / "new" / "lists" / "all.txt")
    assert located.settings == {setting: str(tmp_path / "new" / name) for setting, name in names.items()}
    assert located.path(str(project / "photos" / "1.jpg")) == str(tmp_path / "new" / "photos" / "1.jpg")
    assert located.path(str(project / "lists" / "1.jpg")) == str(tmp_path / "new" / "lists" / "1.jpg")


def test_a_named_data_set_has_no_place(tmp_path: Path) -> None:
    assert places.record({"dataset": "digits", "root": None}, tmp_path) == {}
    assert places.locate({"dataset": "digits"}, {}, tmp_path) == ({"dataset": "digits"}, ())
    assert places.locate({"dataset": "digits"}, {}, tmp_path, dataset="photos").settings == {"dataset": "photos"}
    assert places.tried({}, tmp_path) == []


def test_a_place_that_shares_only_the_root_of_the_file_system(tmp_path: Path) -> None:
    assert "relative" not in places.record({"dataset": str(tmp_path)}, "/nowhere/run")["dataset"]


def photos(folder: Path, contents: dict[str, bytes]) -> Dataset:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    paths = tuple(folder / name for name in contents)
    return Dataset(ImageFiles(paths, size=4), torch.zeros(len(paths), dtype=torch.int64), ("any",), "photos", paths)


def test_the_fingerprint_of_files_survives_a_move_and_changes_with_names_and_sizes(tmp_path: Path) -> None:
    files = {"cat/1.jpg": b"abc", "dog/1.jpg": b"defg"}
    before = fingerprint(photos(tmp_path / "a", files))
    assert fingerprint(photos(tmp_path / "b" / "c", files)) == before
    assert fingerprint(photos(tmp_path / "d", {"cat/1.jpg": b"abc", "dog/2.jpg": b"defg"})) != before
    assert fingerprint(photos(tmp_path / "e", {"cat/1.jpg": b"abc", "dog/1.jpg": b"def"})) != before


def test_the_fingerprint_of_features_is_of_their_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=np.arange(20.0).reshape(10, 2), labels=np.arange(10) % 2)
    found = [fingerprint(part) for part in data.load_splits(tmp_path / "f.npz")]
    assert found[0] == found[1] != found[2]
