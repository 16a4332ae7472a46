"""Tests of the commands from training to search, in this process and once through the installed script."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orthohash_triton import cli

from . import TRAIN


def call(capsys: pytest.CaptureFixture, *arguments: object, status: int = 0) -> str:
    """Call a command, and return its standard output if it succeeds, else the line on its standard error."""
    assert cli.main([str(argument) for argument in arguments]) == status
    out, err = capsys.readouterr()
    if status == 2:
        assert err.count("\n") == 1
        assert out == ""
    return err if status else out


def test_from_training_to_neighbours(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gallery, queries = tmp_path / "gallery.ibxf", tmp_path / "queries.npy"
    assert "1,797 codes of 16 bits" in call(capsys, "encode", run, "digits", "--out", queries)
    assert np.load(queries).shape == (1797, 2)
    assert json.loads(call(capsys, "index", run, "--out", gallery, "--json"))["count"] == 1438
    by_file = json.loads(call(capsys, "search", gallery, queries, "-k", 3, "--limit", 4, "--json"))
    by_run = json.loads(call(capsys, "search", run, queries, "-k", 3, "--limit", 4, "--json"))
    assert by_file["queries"] == 1797
    assert [len(answer["neighbours"]) for answer in by_file["results"]] == [3] * 4
    for one, other in zip(by_file["results"], by_run["results"], strict=True):
        assert [(n["id"], n["distance"]) for n in one["neighbours"]] == [(n["id"], n["distance"]) for n in other["neighbours"]]
        assert all(n["class"] in set("0123456789") for n in other["neighbours"])
    everything = json.loads(call(capsys, "search", gallery, queries, "-k", 1, "--json"))
    assert len(everything["results"]) == everything["queries"] > 10
    assert "10 of" in call(capsys, "search", gallery, queries, "-k", 1)
    table = call(capsys, "search", run, "digits", "-k", 2, "--limit", 1)
    assert "1 of 1797 queries in 1,438 codes" in table
    assert "digits 0" in table


def test_methods_are_listed_with_their_papers(capsys: pytest.CaptureFixture) -> None:
    listed = json.loads(call(capsys, "methods", "--json"))
    names = [method["name"] for method in listed["methods"]]
    assert {"orthohash", "dhn", "hashnet", "dpsh", "csq", "mds", "shc", "shrewd", "lsh", "pca"} <= set(names)
    assert [rotation["name"] for rotation in listed["rotations"]] == ["itq", "householder"]
    assert "margin" in next(method for method in listed["methods"] if method["name"] == "orthohash")["options"]
    table = call(capsys, "methods")
    assert all(name in table for name in names)


def test_train_takes_the_options_of_the_method(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "train",
        *TRAIN,
        "--method",
        "dhn",
        "--quantization-weight",
        "0.05",
        "--rotate",
        "itq",
        "--out",
        tmp_path / "run",
    ]
    table = call(capsys, *arguments)
    assert "DHN + itq" in table
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["method"], config["rotate"], config["options"]) == (
        "dhn",
        "itq",
        {"quantization_weight": 0.05, "pairs": "balanced"},
    )
    assert "DHN + itq" in call(capsys, "evaluate", tmp_path / "run")


def test_the_help_of_train_is_that_of_the_method(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--method", "hashnet", "--help"])
    text = capsys.readouterr().out
    assert "options of the method hashnet" in text
    assert "--growth" in text
    assert "--margin" not in text


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from orthohash_triton import compare

    out = tmp_path / "comparison"
    arguments = ["compare", "--dataset", "digits", "--epochs", 1, "--batch-size", 64, "--threads", 1, "--out", out]
    methods = ["--methods", "csq", "lsh", "--lengths", 16, "--seeds", 0]
    assert cli.main([*map(str, [*arguments, *methods]), "--json", "--quiet"]) == 0
    printed, errors = capsys.readouterr()
    assert [row["title"] for row in json.loads(printed)] == ["CSQ", "LSH"]
    assert errors == ""
    assert (out / "results.md").is_file()
    monkeypatch.setattr(compare, "draw_comparison", lambda *arguments: [])  # the figures exist; nothing is trained again
    assert re.search(r"CSQ\b.*\b16\b", call(capsys, *arguments, *methods))
    error = call(capsys, *arguments, "--methods", "csq", "--lengths", 16, "--seeds", 0, "--validation", 0.3, status=2)
    assert "another validation" in error


def test_features_of_a_backbone_are_data_to_train_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "gallery.npz").touch()  # a part of another data set
    counts = json.loads(call(capsys, "features", "--dataset", "digits", "--backbone", "pixels", "--out", folder, "--json"))
    assert (counts["train"], counts["query"]) == (1438, 359)
    assert {path.name for path in folder.iterdir()} == {"train.npz", "query.npz"}
    arguments = ["--dataset", folder, "--backbone", "mlp", "--bits", 16, "--epochs", 1, "--batch-size", 64, "--threads", 1]
    report = json.loads(call(capsys, "train", *arguments, "--out", tmp_path / "run", "--json"))
    assert report["evaluation"]["gallery"] == 1438
    assert report["evaluation"]["map_at_all"] > 0.5  # chance is 0.1
    error = call(capsys, "features", "--dataset", folder, "--backbone", "pixels", "--out", tmp_path / "again", status=2)
    assert "has features already" in error
    error = call(capsys, "features", "--dataset", "digits", "--out", tmp_path / "again", status=2)
    assert "has random weights before training" in error


def test_an_index_of_codes_answers_itself(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (50, 4), np.uint8)
    np.save(tmp_path / "codes.npy", codes)
    call(capsys, "index", tmp_path / "codes.npy", "--out", tmp_path / "codes.ibxf")
    answers = json.loads(
        call(capsys, "search", tmp_path / "codes.ibxf", tmp_path / "codes.npy", "-k", 1, "--limit", 50, "--json")
    )
    assert [answer["neighbours"] for answer in answers["results"]] == [[{"id": i, "distance": 0}] for i in range(50)]


def test_evaluate(run: Path, capsys: pytest.CaptureFixture) -> None:
    figures = json.loads(call(capsys, "evaluate", run, "--json"))
    assert figures["queries"] == 359
    assert figures["map_at_all"] == json.loads((run / "metrics.json").read_text())["evaluation"]["map_at_all"]
    table = call(capsys, "evaluate", run)
    assert f"{figures['map_at_all']:.4f}" in table
    assert "ties are ordered by" in table


def test_evaluate_refuses_data_that_changed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    features = np.random.default_rng(0).normal(size=(60, 8))
    np.savez(tmp_path / "x.npz", features=features, labels=np.arange(60) % 3)
    options = [
        "--dataset",
        tmp_path / "x.npz",
        "--bits",
        8,
        "--epochs",
        1,
        "--batch-size",
        16,
        "--threads",
        1,
        "--out",
        tmp_path / "run",
    ]
    call(capsys, "train", *options)
    call(capsys, "evaluate", tmp_path / "run")
    np.savez(tmp_path / "x.npz", features=features[:50], labels=np.arange(50) % 3)
    assert "is not the one" in call(capsys, "evaluate", tmp_path / "run", status=2)


def test_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from PIL import Image

    for name, value in (("dark", 30), ("light", 220)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 20), (value + i, value, value)).save(tmp_path / "photos" / name / f"{i}.png")
    options = [
        "--dataset",
        tmp_path / "photos",
        "--image-size",
        16,
        "--bits",
        8,
        "--epochs",
        8,
        "--batch-size",
        8,
        "--threads",
        1,
    ]
    report = json.loads(call(capsys, "train", *options, "--query-fraction", "0.25", "--out", tmp_path / "run", "--json"))
    assert report["evaluation"]["queries"] == 6
    picture = tmp_path / "photos" / "light" / "3.png"
    (answer,) = json.loads(call(capsys, "search", tmp_path / "run", picture, "-k", 2, "--json"))["results"]
    assert answer["query"] == str(picture)
    assert [n["class"] for n in answer["neighbours"]] == ["light", "light"]
    assert Path(answer["neighbours"][0]["path"]).parent.name == "light"


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from orthohash_triton import demo

    arguments = ["demo", "--quick", "--threads", "1", "--out", str(tmp_path)]
    table = call(capsys, *arguments)
    assert "exact cosine on pixels" in table
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(row["method"], row["bits"]) for row in results["rows"]] == [
        ("OrthoHash", 16), ("OrthoHash", 32), ("OrthoHash", 64), ("LSH on pixels", 64), ("exact cosine on pixels", None),
    ]  # fmt: skip
    learned, baselines = results["rows"][:3], results["rows"][3:]
    assert min(row["map_at_all"] for row in learned) > max(row["map_at_all"] for row in baselines)
    assert results["map"] == {"ties": "stable", "denominator": "hits", "zero_hits": "zero"}
    assert (tmp_path / "neighbours.png").read_bytes().startswith(b"\x89PNG")

    def finished(out: Path, *, progress: bool, **options: object) -> dict:
        assert not progress
        return results

    monkeypatch.setattr(demo, "demo", finished)
    assert cli.main([*arguments, "--json", "--quiet"]) == 0
    printed, errors = capsys.readouterr()
    assert json.loads(printed) == results
    assert errors == ""


def test_demo_says_that_it_falls_back_to_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from orthohash_triton import demo

    monkeypatch.setenv("ORTHOHASH_DATA", str(tmp_path / "nothing here"))
    monkeypatch.setattr(demo, "DIGITS", replace(demo.DIGITS, epochs=1))
    monkeypatch.setattr(demo, "BITS", (16,))
    assert cli.main(["demo", "--threads", "1", "--out", str(tmp_path)]) == 0
    assert "WARNING: showing scikit-learn's handwritten digits instead" in capsys.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text())["dataset"]["name"] == "scikit-learn digits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "x", "--dataset", "cifar10"], "no data set 'cifar10'"),
        (["train", "--out", "x", "--bits", "12"], "bits must be a multiple of 8"),
        (["train", "--out", "x", "--dataset", "digits", "--backbone", "resnet"], "backbone must be one of"),
        (["encode", "nowhere", "digits", "--out", "x.npy"], "nowhere is not a run folder"),
        (["encode", "RUN", "missing.jpg", "--out", "x.npy"], r"missing\.jpg does not exist"),
        (["encode", "RUN", "fashion-mnist:validation", "--out", "x.npy"], "use one of fashion-mnist:train, fashion-mnist:test"),
        (["encode", "RUN", "digits", "--out", "no/such/folder/x.npy"], "no/such/folder"),
        (["index", "missing.npy", "--out", "x.ibxf"], r"missing\.npy"),
        (["index", "FLOATS", "--out", "x.ibxf"], r"must hold packed codes, uint8 \[N, bits/8\]; got float64 \[3, 2\]"),
        (["index", "TEXT", "--out", "x.ibxf"], "is not a readable .npy file"),
        (["index", "SIGNED", "--out", "x.ibxf"], r"signed.npy must hold .*; got int8 .*from_packbits\(codes, signed=True\)"),
        (["search", "CODES", "SIGNED"], r"signed.npy must hold .*; got int8 \[3, 4\].*from_packbits\(codes, signed=True\)"),
        (["search", "CODES", "FLOATS"], "an index file alone cannot encode floats.npy; name the run folder"),
        (["search", "TEXT", "CODES"], r"text\.npy"),
        (["search", "RUN", "CODES"], "16 bits"),
        (["search", "RUN", "digits", "-k", "0"], "k must be .*got 0"),
        (["search", "RUN", "digits", "--limit", "0"], "--limit must be at least 1"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("floats.npy", np.zeros((3, 2)))
    np.save("codes.npy", np.zeros((3, 4), np.uint8))
    np.save("signed.npy", np.zeros((3, 4), np.int8))
    Path("text.npy").write_text("not an array")
    names = {"RUN": str(run), "FLOATS": "floats.npy", "CODES": "codes.npy", "SIGNED": "signed.npy", "TEXT": "text.npy"}
    error = call(capsys, *(names.get(argument, argument) for argument in arguments), status=2)
    assert error.startswith(f"orthohash {arguments[0]}: error: ")

    assert re.search(message, error), error


def test_a_search_for_more_neighbours_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The largest k would take 24 GiB for each query."""
    codes = tmp_path / "codes.npy"
    np.save(codes, np.array([[0], [1], [3]], np.uint8))
    found = json.loads(call(capsys, "search", codes, codes, "-k", 2147483647, "--json"))
    assert [[n["id"] for n in answer["neighbours"]] for answer in found["results"]] == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]


def test_the_installed_script() -> None:
    script = Path(sys.executable).parent / "orthohash"
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run([script, "evaluate", "/nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("orthohash-triton ")
