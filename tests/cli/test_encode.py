"""Tests of encode, index, search and features on images in folders, manifests and lists."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthohash_triton import cli
from orthohash_triton.runs import load_run

TRAIN = ["--method", "pca", "--bits", "16", "--image-size", "8", "--threads", "1", "--quiet"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two classes with ten images of random noise each, and one file that cannot be read."""
    folder, noise = tmp_path_factory.mktemp("files") / "photos", np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(noise.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / name / f"{i}.png")
    (folder / "dog" / "bad.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    folder = photos.parent / "run"
    assert cli.main(["train", "--dataset", str(photos), *TRAIN, "--out", str(folder)]) == 0
    return folder


def call(capsys: pytest.CaptureFixture, *arguments: object, status: int = 0) -> str:
    """Call a command, and return its standard output if it succeeds, else its standard error."""
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--no-progress"]) == status
    out, err = capsys.readouterr()
    return err if status else out


def results(capsys: pytest.CaptureFixture, *arguments: object) -> list[tuple[str, list[dict]]]:
    answers = json.loads(call(capsys, "search", *arguments, "--json"))["results"]
    return [(answer["query"], answer["neighbours"]) for answer in answers]


@pytest.mark.parametrize("extension", ["npy", "ibxf", "parquet"])
def test_from_a_folder_to_neighbours(
    run: Path, photos: Path, tmp_path: Path, extension: str, capsys: pytest.CaptureFixture
) -> None:
    codes = tmp_path / f"codes.{extension}"
    figures = json.loads(call(capsys, "encode", run, photos, "--out", codes, "--json"))
    assert (figures["count"], figures["bits"], figures["skipped"]) == (20, 16, 1)
    assert json.loads((tmp_path / f"{codes.name}.skipped.json").read_text())[0]["path"] == str(photos / "dog" / "bad.jpg")
    picture = photos / "dog" / "7.png"
    ((query, (nearest, *_)),) = results(capsys, codes, picture, "--model", run)
    assert query == nearest["path"] == str(picture)
    assert nearest["distance"] == 0
    assert nearest.get("class") == ("dog" if extension == "parquet" else None)
    found = results(capsys, codes, codes, "--limit", 15, "-k", 1)
    assert [query for query, _ in found] == [neighbours[0]["path"] for _, neighbours in found]
    assert [neighbours[0]["distance"] for _, neighbours in found] == [0] * 15
    index = tmp_path / "index.ibxf"
    if extension != "ibxf":
        assert json.loads(call(capsys, "index", codes, "--out", index, "--json"))["count"] == 20
        assert results(capsys, index, picture, "--model", run)[0][1][0]["path"] == str(picture)


def test_search_in_a_run(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = json.loads((run / "paths.json").read_text())
    assert len(names) == 18  # a tenth of each class are queries
    ((query, (nearest, *_)),) = results(capsys, run, names[3])
    assert query == nearest["path"] == names[3]
    assert nearest["class"] == "cat"
    found = results(capsys, run, photos, "--limit", 25)
    assert len(found) == 20
    assert [len(results(capsys, run, photos, "--limit", n)) for n in (1, 19)] == [1, 19]
    call(capsys, "index", run, "--out", tmp_path / "gallery.ibxf")
    assert results(capsys, tmp_path / "gallery.ibxf", names[3], "--model", run)[0][1][0]["path"] == names[3]


def test_files_are_named_from_the_working_folder(
    run: Path, photos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    table = call(capsys, "search", "run", "photos/dog/7.png", "-k", 1)
    assert " photos/dog/7.png " in table
    assert str(photos) not in table


def test_the_run_lists_what_was_skipped(run: Path, photos: Path) -> None:
    assert json.loads((run / "skipped.json").read_text()) == [
        {"path": str(photos / "dog" / "bad.jpg"), "reason": "not an image of a known format"}
    ]


def test_corrupt_images_may_be_fatal(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    told = r"dog/bad.jpg cannot be read as an image (not an image of a known format)"
    out = tmp_path / "codes.npy"
    assert told in call(capsys, "encode", run, photos, "--out", out, "--on-corrupt", "fail", status=2)
    again = ["train", "--dataset", photos, *TRAIN, "--on-corrupt", "fail", "--out", tmp_path / "run"]
    assert told in call(capsys, *again, status=2)
    assert not out.exists()
    error = call(capsys, "search", run, photos / "dog" / "bad.jpg", status=2)
    assert "no query of" in error
    assert "bad.jpg (not an image of a known format)" in error


def test_stopped_and_resumed(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    whole, out = tmp_path / "whole.npy", tmp_path / "codes.npy"
    call(capsys, "encode", run, photos, "--out", whole, "--batch-size", 4)
    call(capsys, "encode", run, photos, "--out", out, "--batch-size", 4, "--on-corrupt", "fail", status=2)
    assert "the codes of 20 of 21 samples" in call(capsys, "encode", run, photos, "--out", out, "--batch-size", 4, status=2)
    error = call(capsys, "encode", run, photos / "cat", "--out", out, "--batch-size", 4, "--resume", status=2)
    assert "was made with another source" in error
    call(capsys, "encode", run, photos, "--out", out, "--batch-size", 4, "--resume")
    assert out.read_bytes() == whole.read_bytes()


def test_manifests_and_lists(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [f"{name}/{i}.png,{name},{'test' if i == 9 else 'train'}" for name in ("cat", "dog") for i in range(10)]
    (tmp_path / "m.csv").write_text("\n".join(["file,label,part", *rows, "gone.png,cat,test"]))
    columns = ["--root", photos, "--path-column", "file", "--split-column", "part"]
    folder = tmp_path / "run"
    train = ["train", "--dataset", tmp_path / "m.csv", *TRAIN, *columns, "--out", folder]
    assert "names 1 of 3 files that do not exist" in call(capsys, *train, status=2)
    call(capsys, *train, "--on-missing", "skip")
    assert json.loads((folder / "skipped.json").read_text()) == [{"path": str(photos / "gone.png"), "reason": "no such file"}]
    assert len(json.loads((folder / "paths.json").read_text())) == 18
    assert json.loads(call(capsys, "evaluate", folder, "--json"))["queries"] == 2
    encode = ["encode", folder, tmp_path / "m.csv", *columns, "--out", tmp_path / "queries.npy", "--on-missing", "skip"]
    assert json.loads(call(capsys, *encode, "--split", "query", "--json"))["count"] == 2
    (tmp_path / "l.txt").write_text("cat/1.png 1 0\ndog/1.png 0 1\n")
    encode = ["encode", run, tmp_path / "l.txt", "--root", photos, "--out", tmp_path / "two.parquet", "--json"]
    assert json.loads(call(capsys, *encode))["count"] == 2


def test_nobody_has_labels(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flat, folder = photos / "cat", tmp_path / "run"
    train = ["train", "--dataset", flat, "--bits", 8, "--image-size", 8, "--threads", 1, "--out", folder]
    assert "learns from labels" in call(capsys, *train, "--method", "orthohash", status=2)
    told = call(capsys, *train, "--method", "pca")
    assert "has no labels" in told
    ((_, (nearest, *_)),) = results(capsys, folder, flat / "4.png")
    assert nearest == {"id": 4, "distance": 0, "path": str(flat / "4.png")}
    features = tmp_path / "features"
    call(capsys, "features", "--dataset", flat, "--backbone", "pixels", "--image-size", 8, "--out", features)
    call(capsys, "train", "--dataset", features, "--method", "lsh", "--bits", 8, "--out", tmp_path / "of-features")


def test_features_of_images(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "features"
    counts = json.loads(
        call(capsys, "features", "--dataset", photos, "--backbone", "pixels", "--image-size", 8, "--out", out, "--json")
    )
    assert (counts["train"], counts["query"]) == (18, 2)
    assert json.loads((out / "skipped.json").read_text())[0]["path"] == str(photos / "dog" / "bad.jpg")


def test_features_in_npy_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "classes.npy", np.arange(40) % 4)
    folder = tmp_path / "run"
    arguments = ["--dataset", tmp_path / "x.npy", "--labels", tmp_path / "classes.npy", "--method", "pca", "--bits", 8]
    call(capsys, "train", *arguments, "--out", folder)
    assert json.loads((folder / "config.json").read_text())["class_names"] == ["0", "1", "2", "3"]
    call(capsys, "encode", folder, tmp_path / "x.npy", "--out", tmp_path / "codes.ibxf")
    found = results(capsys, tmp_path / "codes.ibxf", tmp_path / "x.npy", "--model", folder, "-k", 1, "--limit", 3)
    assert [query for query, _ in found] == [f"{tmp_path / 'x.npy'} {i}" for i in range(3)]
    assert [neighbours[0]["distance"] for _, neighbours in found] == [0, 0, 0]


def test_pretrained_models_encode_too(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = tmp_path / "model"
    load_run(run).model.save_pretrained(model)
    for name, folder in (("run", run), ("model", model)):
        call(capsys, "encode", folder, photos, "--out", tmp_path / f"{name}.npy", "--device", "cpu")
    assert (tmp_path / "run.npy").read_bytes() == (tmp_path / "model.npy").read_bytes()
    picture = photos / "dog" / "7.png"
    assert results(capsys, tmp_path / "run.npy", picture, "--model", model)[0][1][0]["path"] == str(picture)
    error = call(capsys, "encode", run, photos, "--out", tmp_path / "x.npy", "--device", "abacus", status=2)
    assert "device 'abacus' cannot be used" in error


def test_bad_searches(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    codes, picture = tmp_path / "codes.npy", photos / "cat" / "1.png"
    np.save(codes, np.zeros((3, 4), np.uint8))
    cases = (
        ([codes, picture], "an index file alone cannot encode .*--model"),
        (
            [codes, picture, "--model", run],
            "the queries have codes of 16 bits, .*codes.npy of 32 bits; encode both with the same model",
        ),
        ([run, codes], "the queries have codes of 32 bits, .*run of 16"),
        ([run, picture, "--model", run], "--model is for an index file"),
        ([run, photos / "nothing.jpg"], "nothing.jpg does not exist"),
        ([codes, tmp_path / "nothing.npy"], "nothing.npy does not exist; expected a file of codes like those of .*codes.npy"),
        ([tmp_path / "nothing.ibxf", codes], "there is no index file"),
        ([run, codes, "--limit", 0], "--limit must be at least 1; got 0"),
    )
    for arguments, message in cases:
        error = call(capsys, "search", *arguments, status=2)
        assert re.search(message, error), error
    assert "must end in .html" in call(capsys, "report", run, "--out", tmp_path / "x.npy", status=2)
    assert "end in .onnx" in call(capsys, "export", run, "--format", "onnx", "--out", tmp_path / "x.npy", status=2)
    assert "choose a name with the extension .ibxf" in call(capsys, "index", codes, "--out", tmp_path / "x.npy", status=2)
    assert "must end in .npy or .ibxf or .parquet" in call(capsys, "encode", run, photos, "--out", tmp_path / "x.bin", status=2)


def test_names_of_queries_follow_images_that_are_skipped(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are right also in batches after the image that cannot be read."""
    from orthohash_triton.cli import search

    folder = tmp_path / "cat"
    shutil.copytree(photos / "cat", folder)
    (folder / "00.jpg").write_text("no image")  # the second file in the order of names
    codes = tmp_path / "codes.npy"
    call(capsys, "encode", run, folder, "--out", codes)
    monkeypatch.setattr(search, "_BATCH", 3)
    found = results(capsys, codes, folder, "--model", run, "-k", 1)
    assert [Path(query).name for query, _ in found] == [f"{i}.png" for i in range(10)]
    assert [neighbours[0]["path"] for _, neighbours in found] == [query for query, _ in found]
    assert len(results(capsys, codes, folder, "--model", run, "--limit", 4)) == 4


# ---- folders as people have them -------------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Return a folder of 11 images with a folder of one thumbnail, a system folder, an empty folder and a link beside them."""
    folder, noise = tmp_path / "album", np.random.default_rng(0)
    for place in ("", "thumbs", "@eaDir", "empty", "elsewhere"):
        (folder / place).mkdir(parents=True)
    (folder / "elsewhere").rename(tmp_path / "elsewhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for name in [*(f"{i}.jfif" for i in range(11)), "thumbs/0.png", "@eaDir/0.png", "linked/12.png"]:
        Image.fromarray(noise.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / name)
    return folder


def test_every_image_is_encoded(run: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    figures = json.loads(call(capsys, "encode", run, album, "--out", tmp_path / "x.npy", "--json"))
    assert (figures["count"], figures["skipped"]) == (13, 1)
    assert json.loads((tmp_path / "x.npy.skipped.json").read_text()) == [
        {"path": str(album / "@eaDir"), "reason": "a hidden or system folder with 1 image"}
    ]
    assert len(results(capsys, run, album, "--limit", 100)) == 13
    assert json.loads(call(capsys, "info", album, "--json"))["all"] == 13


def test_training_takes_every_image_or_fails(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--dataset", album, "--bits", 8, "--image-size", 8, "--threads", 1, "--batch-size", 4, "--epochs", 1]
    error = call(capsys, "train", *arguments, "--method", "orthohash", "--out", tmp_path / "labels", status=2)
    assert "has 11 images next to the class folders (linked, thumbs) and only 2 in them, so that most would be left out" in error
    assert "such as lsh or pca" in error
    call(capsys, "train", *arguments, "--method", "pca", "--out", tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "paths.json").read_text())) == 13


def test_training_without_labels_keeps_the_classes(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    shutil.copy(folder / "cat" / "1.png", folder / "cover.png")
    call(capsys, "train", "--dataset", folder, *TRAIN, "--out", tmp_path / "run")
    files = json.loads((tmp_path / "run" / "paths.json").read_text())
    assert str(folder / "cover.png") in files
    assert json.loads(call(capsys, "evaluate", tmp_path / "run", "--json"))["queries"] == 21 - len(files)


def test_a_limit_of_pixels(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos / "cat", folder)
    Image.new("L", (40, 40)).save(folder / "large.png")
    figures = json.loads(call(capsys, "encode", run, folder, "--out", tmp_path / "x.npy", "--max-pixels", 100, "--json"))
    assert (figures["count"], figures["skipped"]) == (10, 1)
    train = ["train", "--dataset", folder, *TRAIN, "--method", "lsh", "--max-pixels", 100, "--out", tmp_path / "run"]
    call(capsys, *train)
    assert "40 x 40 pixels" in json.loads((tmp_path / "run" / "skipped.json").read_text())[0]["reason"]


def test_queries_by_any_name(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = photos / "dog" / "7.png"
    for name in ("x.jfif", "x", "x.jpg.part"):
        shutil.copy(picture, tmp_path / name)
        assert results(capsys, run, tmp_path / name, "-k", 1)[0][0] == str(tmp_path / name)
    error = call(capsys, "search", run, photos / "dog" / "7.pgn", status=2)
    assert f"7.pgn does not exist; did you mean {picture}?" in error
    (tmp_path / "notes").write_text("no image")
    assert "notes is no data set of a known kind" in call(capsys, "search", run, tmp_path / "notes", status=2)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert "no query of" in call(capsys, "search", run, tmp_path / "x.heic", status=2)
    (tmp_path / "x.psd").write_bytes(b"8BPS")
    assert ".psd files are not decoded. Convert it" in call(capsys, "search", run, tmp_path / "x.psd", status=2)
