"""Tests of files and folders whose names are not UTF-8: every command takes them, and no name is lost."""

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("pyarrow")

from orthohash_triton import cli
from orthohash_triton._base.file_names import printable
from orthohash_triton.runs import load_run
from orthohash_triton.runs.code_files import read_codes
from tests.pages import image_folder, make_run

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the file system takes Unicode names only")

CLASS, FILE = os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff.png")  # names in Latin-1


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images in which the name of one class and one file of each class are not UTF-8."""
    folder = image_folder(tmp_path_factory.mktemp("names") / "photos", ["dog", CLASS])
    for name in ("dog", CLASS):
        (folder / name / "0.png").rename(folder / name / FILE)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    return make_run(photos.parent / "run", photos, method="lsh", bits=16, query_fraction=0.25).path


def call(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def files(photos: Path) -> set[str]:
    return {str(path) for path in photos.rglob("*.png")}


def test_the_run_keeps_every_name(run: Path, photos: Path) -> None:
    opened = load_run(run)
    assert opened.class_names == (CLASS, "dog")
    assert opened.gallery_paths is not None
    assert set(opened.gallery_paths) < files(photos)
    assert b"\\udc" in (run / "config.json").read_bytes()  # JSON in ASCII


@pytest.mark.parametrize("suffix", [".npy", ".ibxf", ".parquet"])
def test_encode_and_index_keep_every_name(
    suffix: str, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / f"codes{suffix}"
    assert json.loads(call(capsys, "encode", run, photos, "--out", out, "--json"))["skipped"] == 0
    found = read_codes(out).paths
    assert found is not None
    assert set(found) == files(photos)
    if suffix == ".npy":
        call(capsys, "index", out, "--out", tmp_path / "index.ibxf")
        assert read_codes(tmp_path / "index.ibxf").paths == found


def test_search_names_the_files(run: Path, photos: Path, capsys: pytest.CaptureFixture) -> None:
    found = json.loads(call(capsys, "search", run, photos / CLASS / FILE, "-k", 20, "--json"))
    neighbours = found["results"][0]["neighbours"]
    assert {neighbour["path"] for neighbour in neighbours} == set(load_run(run).gallery_paths or ())
    assert {neighbour["class"] for neighbour in neighbours} == {CLASS, "dog"}


def test_a_table_shows_escapes(run: Path, photos: Path) -> None:
    import subprocess

    command = [sys.executable, "-m", "orthohash_triton", "search", run, photos / CLASS / FILE, "-k", "2"]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, timeout=120)
    assert b"caf\\xe9" in done.stdout


def test_report_and_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    call(capsys, "report", run, "--out", tmp_path / "report.html", "--queries", 2)
    assert "caf\\xe9" in (tmp_path / "report.html").read_text(encoding="utf-8")
    call(capsys, "export", run, "--out", tmp_path / "model")
    from orthohash_triton.models.pretrained_files import CONFIG

    assert CLASS in json.loads((tmp_path / "model" / CONFIG).read_text(encoding="utf-8"))["class_names"]


def test_browse(run: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from orthohash_triton.browse._app import make_app

    client = TestClient(make_app(load_run(run)), base_url="http://127.0.0.1:8765")
    assert [entry["name"] for entry in client.get("/api/info").json()["classes"]] == ["caf\\xe9", "dog"]
    items = client.get(f"/api/random?count={len(load_run(run).index)}").json()["items"]
    assert {item["file"] for item in items} == {printable(Path(path).name) for path in load_run(run).gallery_paths or ()}


def test_escapes_of_bytes() -> None:
    assert printable(os.fsdecode(b"caf\xe9 \xff")) == "caf\\xe9 \\xff"
    assert printable("\ud800") == "\\ud800"
    assert printable("Zürich 象") == "Zürich 象"
