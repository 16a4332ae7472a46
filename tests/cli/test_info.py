"""Tests that `orthohash info` identifies every kind of file and folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthohash_triton import cli


def told(path: Path, capsys: pytest.CaptureFixture) -> dict:
    assert cli.main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: {found['kind']}\n")
    assert all(line in out for line in found["next"])
    return found


def test_a_run_folder_and_what_is_made_of_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    codes, index, model = tmp_path / "codes.npy", tmp_path / "gallery.ibxf", tmp_path / "model"
    found = told(run, capsys)
    assert {key: found[key] for key in ("kind", "method", "bits", "gallery", "classes", "epochs", "sample")} == {
        "kind": "run folder", "method": "orthohash", "bits": 16, "gallery": 1438, "classes": 10, "epochs": 1, "sample": [1, 8, 8],
    }  # fmt: skip
    assert 0.1 < found["map_at_all"] <= 1
    assert f"orthohash report {run}" in found["next"]
    for command, out in (("encode", codes), ("index", index), ("export", model)):
        source = ["digits"] if command == "encode" else []
        assert cli.main([command, str(run), *source, "--out", str(out), "--quiet"]) == 0
    found = told(codes, capsys)
    assert (found["kind"], found["count"], found["bits"], found["bytes_per_code"]) == ("packed codes", 1797, 16, 2)
    found = told(index, capsys)
    assert (found["kind"], found["count"], found["bits"], found["ids"]) == ("index file", 1438, 16, "rows")
    found = told(model, capsys)
    assert (found["kind"], found["bits"], found["classes"]) == ("pretrained model", 16, 10)


def test_a_training_that_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from orthohash_triton.data import load_splits
    from orthohash_triton.train import TrainConfig, train

    config = TrainConfig(dataset="digits", bits=16, epochs=1, batch_size=64, threads=1)
    train(config, load_splits("digits").train, folder=tmp_path / "run", progress=False)  # but the run was not saved
    found = told(tmp_path / "run", capsys)
    assert (found["kind"], found["bits"], found["dataset"]) == ("training that was stopped", 16, "digits")
    assert found["next"] == [f"orthohash train --resume {tmp_path / 'run'}"]


def test_an_index_with_ids(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from orthohash_triton import HammingIndex

    index = HammingIndex(32)
    index.add_with_ids(np.zeros((3, 4), np.uint8), np.array([7, 8, 9]))
    index.save(tmp_path / "ids.index")  # with any extension
    found = told(tmp_path / "ids.index", capsys)
    assert (found["kind"], found["count"], found["bits"], found["ids"]) == ("index file", 3, 32, "own")


def test_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos, features, loose = tmp_path / "photos", tmp_path / "x.npz", tmp_path / "x.npy"
    for name in ("cats", "dogs"):
        (photos / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8)).save(photos / name / f"{i}.jpg")
    np.savez(features, features=np.zeros((4, 3), np.float32))
    np.save(loose, np.zeros((4, 3), np.float32))
    found = told(photos, capsys)
    assert "folder of images" in found["kind"]
    assert found["classes"] == 2
    assert sum(found[part] for part in ("all", "train", "query", "gallery") if part in found) == 6
    assert f"orthohash train --dataset {photos} --out RUN" in found["next"]
    for path in (features, loose):
        assert "features" in told(path, capsys)["kind"]


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    codes, manifest = tmp_path / "codes.parquet", tmp_path / "manifest.parquet"
    parquet.write_table(pa.table({"code": pa.array([b"ab", b"cd"], pa.binary(2))}), codes)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    parquet.write_table(pa.table({"path": ["a.jpg", "a.jpg"], "label": ["x", "y"]}), manifest)
    found = told(codes, capsys)
    assert (found["kind"], found["count"], found["bits"]) == ("packed codes in a table", 2, 16)
    assert "manifest" in told(manifest, capsys)["kind"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.npy", None, "does not exist; name a run folder"),
        ("x.npy", "text", "is not a readable .npy file"),
        ("x.parquet", "text", "is not a readable Parquet file"),
        ("x.ibxf", "text", "is no data set of a known kind"),
        ("x.ibxf", "IBxF", "truncated"),
        ("model/config.json", "{", "is not a readable JSON file"),
        ("model/config.json", "[]", "neither a run folder nor a pretrained model"),
        ("model/config.json", '{"bits": 8}', "neither a run folder nor a pretrained model"),
    ],
)
def test_what_it_cannot_tell(name: str, content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_text(content)
    assert cli.main(["info", str(path.parent if path.name == "config.json" else path)]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
