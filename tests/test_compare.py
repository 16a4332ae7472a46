"""Tests of the comparison of methods: every cell is computed once, all methods get the same data, the table is complete."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orthohash_triton import compare as module
from orthohash_triton import metrics
from orthohash_triton.compare import compare, summary, table, write_report
from orthohash_triton.data import Splits, split_stratified
from orthohash_triton.train import TrainConfig, train
from tests.methods.test_training import CLASSES, blobs

CONFIG = TrainConfig(dataset="blobs", epochs=1, batch_size=50, threads=1, validation=0.2)


def splits(**keywords) -> Splits:
    return split_stratified(blobs(**keywords), 0.2, 0)


def run(out: Path, data: Splits, **keywords) -> list[dict]:
    return compare(
        CONFIG, data, out, **{"names": ["orthohash", "pca"], "bits": [8, 16], "seeds": [0, 1], "progress": False} | keywords
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("comparison")
    return out, run(out, splits(), rotations=["none", "itq"])


def test_a_row_for_each_method_rotation_and_length(done: tuple[Path, list[dict]]) -> None:
    _, rows = done
    assert [(r["method"], r["rotation"], r["bits"], r["seeds"]) for r in rows] == [
        (method, rotation, bits, 2) for method in ("orthohash", "pca") for rotation in ("none", "itq") for bits in (8, 16)
    ]
    assert all(0 < row["map_at_all"] <= 1 for row in rows)
    # Principal components do not depend on the seed; a network does.
    assert [row["map_at_all_std"] > 0 for row in rows if row["rotation"] == "none"] == [True, True, False, False]


def test_a_cell_is_what_training_alone_gives(done: tuple[Path, list[dict]]) -> None:
    out, _ = done
    data = splits()
    model = train(TrainConfig(**{**CONFIG.__dict__, "bits": 16, "seed": 1}), data.train, progress=False).model
    expected = metrics.mean_average_precision(
        model.encode(data.query.inputs), model.encode(data.gallery.inputs), data.query.labels, data.gallery.labels
    )
    cell = json.loads((out / "cells" / "orthohash-16-1.json").read_text())
    assert cell["rows"][0]["map_at_all"] == expected
    assert cell["epochs"][0]["validation_map"] > 0


def test_methods_that_learn_nothing_see_the_samples_and_not_an_untrained_backbone(tmp_path: Path, monkeypatch) -> None:
    seen = {}

    def recorded(config, data, **keywords):
        seen[config.method] = config.backbone
        return train(config, data, **keywords)

    monkeypatch.setattr(module, "train", recorded)
    monkeypatch.setattr(module, "draw_comparison", lambda *arguments: [])
    config = TrainConfig(**{**CONFIG.__dict__, "backbone": "mlp"})
    compare(config, splits(), tmp_path, names=["csq", "pca"], bits=[8], seeds=[0], progress=False)
    assert seen == {"csq": "mlp", "pca": "auto"}


def test_what_is_written(done: tuple[Path, list[dict]]) -> None:
    out, rows = done
    lines = (out / "results.csv").read_text().splitlines()
    assert lines[0].startswith("method,title,rotation,bits,seed,map_at_all,")
    assert len(lines) == 1 + 2 * 2 * 2 * 2
    text = (out / "results.md").read_text()
    assert "100 queries, 400 in the gallery" in text
    assert f"| OrthoHash + itq | 16 | {rows[3]['map_at_all']:.3f} ± {rows[3]['map_at_all_std']:.3f} |" in text
    assert json.loads((out / "results.json").read_text())["rows"] == rows
    pictures = {path.name for path in out.glob("*.png")}
    assert {"map_by_bits.png", "precision_recall.png", "precision_at_n.png"} <= pictures
    assert all(path.stat().st_size < 300_000 for path in out.glob("*.png"))


def test_done_cells_are_not_done_again(done: tuple[Path, list[dict]], monkeypatch: pytest.MonkeyPatch) -> None:
    out, rows = done

    def never(*arguments: object, **keywords: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train", never)
    monkeypatch.setattr(module, "draw_comparison", lambda *arguments: [])
    assert run(out, splits(), rotations=["none", "itq"]) == rows
    assert write_report(out) == rows


def test_another_setting_does_not_mix(done: tuple[Path, list[dict]]) -> None:
    out, _ = done
    with pytest.raises(ValueError, match="has a comparison with another gallery, queries, samples; choose another --out"):
        run(out, splits(n=400), rotations=["none", "itq"])


def test_the_same_samples_may_have_another_path(done: tuple[Path, list[dict]]) -> None:
    out, rows = done
    path = out / "setting.json"
    setting = json.loads(path.read_text())
    path.write_text(json.dumps({**setting, "dataset": "../data"}))
    assert run(out, splits(), rotations=["none", "itq"]) == rows
    path.write_text(json.dumps({**setting, "dataset": "../data", "samples": [0, 0, 0]}))
    with pytest.raises(ValueError, match="another dataset, samples"):
        run(out, splits(), rotations=["none", "itq"])
    path.write_text(json.dumps(setting))


def test_a_folder_begun_before_a_setting_existed_goes_on(done: tuple[Path, list[dict]]) -> None:
    out, rows = done
    path = out / "setting.json"
    setting = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in setting.items() if key != "warmup"}))
    assert run(out, splits(), rotations=["none", "itq"]) == rows
    assert "; all other settings have their defaults." in (out / "results.md").read_text()
    assert "warmup" not in (out / "results.md").read_text()


def test_other_options_of_a_method_are_another_setting(done: tuple[Path, list[dict]]) -> None:
    out, _ = done
    config = replace(CONFIG, options={"margin": 0.5})
    with pytest.raises(ValueError, match="has a comparison with another options; choose another --out"):
        compare(config, splits(), out, names=["orthohash"], bits=[8], seeds=[0], rotations=["none", "itq"], progress=False)


def test_the_rotations_are_those_asked_for_and_not_that_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_comparison", lambda *arguments: [])
    few = {"names": ["pca"], "bits": [8], "seeds": [0], "progress": False}
    plain = compare(CONFIG, splits(), tmp_path / "plain", **few)
    rotated = compare(replace(CONFIG, rotate="itq"), splits(), tmp_path / "rotated", **few)
    assert rotated[0]["map_at_all"] == plain[0]["map_at_all"]
    assert "The best epoch is chosen on a share" in (tmp_path / "plain" / "results.md").read_text()
    compare(replace(CONFIG, validation=0.0), splits(), tmp_path / "last", **few)
    assert "The last epoch is used." in (tmp_path / "last" / "results.md").read_text()


def test_cells_with_fewer_rotations_are_not_taken_for_done(done: tuple[Path, list[dict]]) -> None:
    out, _ = done
    with pytest.raises(ValueError, match="has a comparison with another rotations; choose another --out"):
        run(out, splits(), rotations=["none", "itq", "householder"])


def test_figures_of_several_labels_and_of_a_hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_comparison", lambda *arguments: [])
    few = {"names": ["pca"], "bits": [8], "seeds": [0]}
    row = run(tmp_path / "labels", splits(multilabel=True), **few)[0]
    assert 0 < row["ndcg_at_100"] <= 1
    assert row["acg_at_100"] > 0
    row = run(tmp_path / "hierarchy", splits(class_distance=1 - torch.eye(CLASSES)), **few)[0]
    assert 0 < row["mahp_at_250"] <= 1
    assert "mAHP@250" in table([row])[0]
    assert "map_at_all_std" not in row


def test_the_summary_is_mean_and_sample_deviation() -> None:
    rows = [
        {"method": "dhn", "title": "DHN", "rotation": "none", "bits": 8, "seed": s, "map_at_all": v}
        for s, v in enumerate((0.1, 0.2, 0.6))
    ]
    (row,) = summary(rows)
    assert row["map_at_all"] == pytest.approx(0.3)
    assert row["map_at_all_std"] == pytest.approx(statistics.stdev([0.1, 0.2, 0.6]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["dnh"]}, "method must be one of .*; got 'dnh'"),
        ({"rotations": ["pca"]}, "rotations must be some of none, itq, householder; got pca"),
        ({"rotations": []}, "got an empty list"),
        ({"seeds": []}, "names, bits and seeds must have at least one entry each"),
        ({"bits": [8, 12]}, "bits must be a multiple of 8"),
    ],
)
def test_bad_arguments(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, splits(), **change)
    assert not list(tmp_path.rglob("*.json"))


def test_no_comparison_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no cells of a comparison"):
        write_report(tmp_path)
